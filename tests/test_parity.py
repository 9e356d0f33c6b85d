"""Airflow, Prefect and the command line publish the same rows for the same date.

Compared are all columns but two: `run_id` and `scored_at` say who scored and when. Everything else
(keys, passed-through columns, scores, the model's name, version and digest) is equal bit by bit,
and so is the version's id, which is made from the snapshot, the model and the configuration.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from include.stores import Version, open_store
from include.workspace import Workspace
from tests.world import NAME, ROWS, World, copy_world

# One fixture makes the runs, so that one worker has all the tests.
pytestmark = pytest.mark.e2e

PROJECT = Path(__file__).resolve().parent.parent
COMMANDS = {
    "airflow": ("-m", "dags.local", NAME, "--date"),
    "prefect": ("-m", "flows.scoring", NAME, "--date"),
    "cli": ("-m", "daybreak", "run", NAME, "--date"),
}
WHO = ["run_id", "scored_at"]


@pytest.fixture(scope="module")
def worlds(built_world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    """A world for each, in which it has scored the same date; each started as a user does."""
    base = tmp_path_factory.mktemp("parity")
    worlds = {name: copy_world(built_world, base / name) for name in COMMANDS}

    def run(name: str) -> subprocess.CompletedProcess[str]:
        world = worlds[name]
        return subprocess.run(
            [sys.executable, *COMMANDS[name], world.day.isoformat()],
            cwd=PROJECT,
            env=os.environ | world.env | {"PREFECT_HOME": str(base / "prefect-home")},
            capture_output=True,
            text=True,
        )

    with ThreadPoolExecutor(max_workers=2) as pool:
        for name, done in zip(COMMANDS, pool.map(run, COMMANDS), strict=True):
            assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return worlds


def published(world: World) -> tuple[Version, pa.Table]:
    workspace = Workspace(world.workspace, NAME)
    table = open_store(world.pipeline().config.predictions, workspace.predictions())
    current = table.current(world.day)
    assert current is not None
    return current, table.read(world.day)


@pytest.mark.parametrize("name", ["airflow", "prefect"])
def test_every_way_to_run_publishes_the_same_rows(worlds: dict[str, World], name: str) -> None:
    _, expected = published(worlds["cli"])
    _, actual = published(worlds[name])
    assert expected.num_rows == ROWS
    assert actual.schema.equals(expected.schema)
    assert actual.drop_columns(WHO).equals(expected.drop_columns(WHO))


@pytest.mark.parametrize("name", ["airflow", "prefect"])
def test_every_way_to_run_gives_the_version_the_same_id(
    worlds: dict[str, World], name: str
) -> None:
    expected, _ = published(worlds["cli"])
    actual, _ = published(worlds[name])
    assert actual.version == expected.version


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_rows_say_who_scored_them(worlds: dict[str, World], name: str) -> None:
    current, rows = published(worlds[name])
    assert set(rows["run_id"].to_pylist()) == {current.run_id}
    assert current.run_id.startswith(f"{name}-")
