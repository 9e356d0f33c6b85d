"""Where prediction tables lie in the fault suite: a disk, an object store, Snowflake's emulator."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from include import storage
from include.config import Predictions
from include.run import Column
from include.stores import Store, open_store
from tests.faults.s3_server import BUCKET, Server, running
from tests.staged_versions import rows_of

PLACES = ("disk", "s3", "snowflake")


@dataclass(frozen=True)
class Place:
    """A new table: its section of pipeline.yaml, its URI, what a process needs to reach it."""

    name: str
    predictions: dict[str, Any]
    root: str
    env: dict[str, str] = field(default_factory=dict)

    def store(self) -> Store:
        return open_store(Predictions.model_validate(self.predictions), self.root)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def s3(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server, free of faults; this process reaches it too."""
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    storage._store.cache_clear()
    yield s3_server
    s3_server.post("/_lose?every=0")
    s3_server.post("/_fail?every=0")
    storage._store.cache_clear()


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "s3":
        server: Server = request.getfixturevalue("s3")
        root = f"s3://{BUCKET}/{uuid.uuid4().hex}/predictions"
        return Place("s3", {"kind": "delta"}, root, server.env)
    if request.param == "snowflake":
        from tests.fakesnow_account import CONNECTION

        request.getfixturevalue("snowflake")
        variable = f"AIRFLOW_CONN_{CONNECTION.upper()}"
        predictions = {"kind": "snowflake", "connection": CONNECTION, "table": "churn"}
        made = Place("snowflake", predictions, tmp_path.as_uri(), {variable: os.environ[variable]})
        made.store().set_up([Column(name=f.name, type=str(f.type)) for f in rows_of(0).schema])
        return made
    return Place("disk", {"kind": "delta"}, (tmp_path / "predictions").as_uri())
