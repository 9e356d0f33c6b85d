"""Where features come from: one Protocol, one module per kind of warehouse."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from include.config import Warehouse as WarehouseConfig
from include.connections import connection

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from include.engine_config import SparkGpu
    from include.spark.parts import Written

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


@runtime_checkable
class PartsWarehouse(Warehouse, Protocol):
    """One whose own machines may write the parts of a snapshot."""

    def reaches(self, uri: str) -> bool:
        """Whether its machines may write below `uri`."""

    def prepare(self, sql: str, params: Mapping[str, dt.date], order_by: Sequence[str]) -> Query:
        """As `Warehouse.read`, and no row is read yet."""


class Query(Protocol):
    """A query whose columns are known, and whose rows its warehouse writes."""

    @property
    def schema(self) -> pa.Schema: ...

    def write(self, files: str, part_rows: int) -> Written:
        """Write the rows as parts of `part_rows` rows below the URI `files`.

        The parts are those that `include.snapshots.write_snapshot` makes of the same rows, byte for
        byte. Raises as `Warehouse.read` does.
        """


def open_warehouse(config: WarehouseConfig, gpu: SparkGpu | None = None) -> Warehouse:
    """The warehouse that a pipeline names, connected; `gpu` is for one that runs on Spark."""
    module = importlib.import_module(f"include.warehouses.{config.kind}")
    more = {"gpu": gpu} if config.kind == "spark" and gpu is not None else {}
    opened: Warehouse = module.connect(connection(config.connection), **more)
    return opened
