"""Fixtures that every test may use; `tiny` is the small real world of world.py."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.world import World, build_world, copy_world

# How long an example takes says more about the machine than about the code; and what continuous
# integration finds, anybody must be able to find again.
settings.register_profile("everywhere", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "everywhere")

# A shell lets what it starts in the background ignore SIGINT, and that is inherited; what the tests
# start has to end by it, as in a terminal.
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    and threading.current_thread() is threading.main_thread()
):
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kubeconfig", help="the cluster of the tests marked cluster")
    parser.addoption("--screenshots", help="a folder for the pages that the browser's tests saw")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By file, as --dist loadfile; the tests that share one Airflow are one file here."""
    from xdist.scheduler import LoadFileScheduling

    class ByDeployment(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            folder, _, _ = file.rpartition("/")
            return folder if folder.endswith("e2e/airflow") else file

    return ByDeployment(config, log)


# Long files first: a worker that got one last would leave the other idle.
LONGEST_FIRST = ("cluster", "e2e", "faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        marks = [name for name in LONGEST_FIRST if item.get_closest_marker(name)]
        return LONGEST_FIRST.index(marks[0]) if marks else len(LONGEST_FIRST)

    by_file: dict[Path, int] = {}
    for item in items:
        by_file[item.path] = min(rank(item), by_file.get(item.path, len(LONGEST_FIRST)))
    items.sort(key=lambda item: by_file[item.path])


@pytest.fixture(scope="session")
def built_world(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> World:
    """The world that the others are copies of, built once a session, also with xdist."""
    base = tmp_path_factory.getbasetemp()
    # xdist's workers have their own folders below one that belongs to the session.
    shared = base if worker_id == "master" else base.parent
    done = shared / "tiny-world.path"
    with FileLock(shared / "tiny-world.lock"):
        if not done.exists():
            path = tmp_path_factory.mktemp("tiny-world")
            build_world(path / "world")
            done.write_text(str(path / "world"))
    return World.at(Path(done.read_text()))


@pytest.fixture
def tiny(built_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A private small world; the environment of this process points to it."""
    world = copy_world(built_world, tmp_path / "tiny")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in world.env.items():
        monkeypatch.setenv(name, value)
    return world
