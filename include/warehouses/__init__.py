"""Where features come from: one Protocol, one module per kind of warehouse."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol

from include.config import Warehouse as WarehouseConfig
from include.connections import connection

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

MEMBERS = ("duckdb",)


class Warehouse(Protocol):
    """Runs a query and streams its rows; used as a context manager, which closes it."""

    def read(
        self, sql: str, params: Mapping[str, dt.date], order_by: Sequence[str]
    ) -> pa.RecordBatchReader:
        """The rows of `sql` in the order of the columns `order_by`, as a stream of batches.

        `params` are bound by the driver, never formatted into the text: `$as_of` in the query is
        the value of `as_of`. Raises PermanentError for a query that the warehouse refuses, that
        selects a name twice or lacks a column of `order_by`, and TransientError for what may pass
        (a lock, a lost connection).
        """

    def close(self) -> None: ...

    def __enter__(self) -> Warehouse: ...

    def __exit__(self, *exc: object) -> None: ...


def open_warehouse(config: WarehouseConfig) -> Warehouse:
    """The warehouse that a pipeline names, connected."""
    module = importlib.import_module(f"include.warehouses.{config.kind}")
    opened: Warehouse = module.connect(connection(config.connection))
    return opened
