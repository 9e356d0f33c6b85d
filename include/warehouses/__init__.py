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

    from include.engine_config import SparkGpu

MEMBERS = ("duckdb", "snowflake", "spark")


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


def open_warehouse(config: WarehouseConfig, gpu: SparkGpu | None = None) -> Warehouse:
    """The warehouse that a pipeline names, connected; `gpu` is for one that runs on Spark."""
    module = importlib.import_module(f"include.warehouses.{config.kind}")
    more = {"gpu": gpu} if config.kind == "spark" and gpu is not None else {}
    opened: Warehouse = module.connect(connection(config.connection), **more)
    return opened
