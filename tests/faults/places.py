"""Where prediction tables lie in the fault suite: a disk, object stores, Snowflake's emulator."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from include import storage
from include.config import Predictions
from include.run import Column
from include.stores import Store, open_store
from tests.faults import azure_server as azurite
from tests.faults import gcs_server as google
from tests.faults.azure_server import AzureServer
from tests.faults.gcs_server import GoogleServer
from tests.faults.s3_server import Server, running
from tests.staged_versions import rows_of

CLOUDS = ("s3", "gcs", "azure")
PLACES = ("disk", *(CLOUDS if "DAYBREAK_LONG_TESTS" in os.environ else ("s3",)), "snowflake")


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
    with _known(s3_server.env, monkeypatch):
        yield s3_server
        s3_server.post("/_lose?every=0")
        s3_server.post("/_fail?every=0")


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GoogleServer]:
    with google.running() as server:
        yield server


@pytest.fixture
def gcs(gcs_server: GoogleServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleServer]:
    """A Google Cloud Storage; this process reaches it too."""
    with _known(gcs_server.env, monkeypatch):
        yield gcs_server


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    with azurite.running(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture
def azure(azure_server: AzureServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureServer]:
    """An Azure Blob Storage; this process reaches it too."""
    with _known(azure_server.env, monkeypatch):
        yield azure_server


@contextmanager
def _known(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    storage._store.cache_clear()
    yield
    storage._store.cache_clear()


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param in CLOUDS:
        server: Server | GoogleServer | AzureServer = request.getfixturevalue(request.param)
        root = f"{server.root}/{uuid.uuid4().hex}/predictions"
        return Place(request.param, {"kind": "delta"}, root, server.env)
    if request.param == "snowflake":
        from tests.fakesnow_account import CONNECTION

        request.getfixturevalue("snowflake")
        variable = f"AIRFLOW_CONN_{CONNECTION.upper()}"
        predictions = {"kind": "snowflake", "connection": CONNECTION, "table": "churn"}
        made = Place("snowflake", predictions, tmp_path.as_uri(), {variable: os.environ[variable]})
        made.store().set_up([Column(name=f.name, type=str(f.type)) for f in rows_of(0).schema])
        return made
    return Place("disk", {"kind": "delta"}, (tmp_path / "predictions").as_uri())
