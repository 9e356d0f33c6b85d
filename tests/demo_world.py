"""What tests ask of the example data: real flights, real purchases (see demo_fixtures.py)."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from include.connections import Connection
from include.partition import Partition
from include.pipeline import Pipeline, load_pipeline
from include.settings import PROJECT
from include.warehouses.duckdb import DuckDBWarehouse, connect

Change = Callable[..., Path]


@dataclass(frozen=True)
class Home:
    """A prepared home; `run` calls Python with its environment."""

    path: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            "DAYBREAK_HOME": str(self.path),
            "DAYBREAK_WORKSPACE": str(self.path / "workspace"),
            "DAYBREAK_REGISTRY": f"sqlite:///{self.path / 'mlflow.db'}",
            "DAYBREAK_PIPELINES": str(PROJECT / "include" / "pipelines"),
            "AIRFLOW_CONN_DEMO_WAREHOUSE": (
                f'{{"conn_type": "duckdb", "host": "{self.warehouse}"}}'
            ),
        }

    @property
    def said(self) -> Path:
        """What the command that prepared it wrote to its standard output."""
        return self.path / "stdout.txt"

    @property
    def complained(self) -> Path:
        """What it wrote to its standard error."""
        return self.path / "stderr.txt"

    @property
    def warehouse(self) -> Path:
        return self.path / "demo" / "warehouse.duckdb"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=PROJECT,
            env={**os.environ, **self.env, "COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=False,
        )


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
