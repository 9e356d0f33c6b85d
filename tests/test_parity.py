"""Airflow, Prefect and the command line publish the same rows for the same dates.

Five dates each. On the second, storage refuses the snapshot until the step has failed once, so that
it is retried; on the fourth the gate stops the run. Compared are all columns but two: `run_id` and
`scored_at` say who scored and when. Everything else (keys, passed-through columns, scores, the
model's name, version and digest) is equal bit by bit, and so is the version's id, which is made
from the snapshot, the model and the configuration.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from include import storage
from include.run import StepRecord
from include.stores import Version, open_store
from include.workspace import Workspace
from tests.world import NAME, ROWS, World, copy_world

# One fixture makes the runs, so that one worker has all the tests.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

LONG = "DAYBREAK_LONG_TESTS" in os.environ
PROJECT = Path(__file__).resolve().parent.parent
NAMES = ("airflow", "prefect", "cli")
WHO = ["run_id", "scored_at"]

FIRST = dt.date(2026, 2, 1)
DATES = [FIRST + dt.timedelta(days=count) for count in range(5)]
FAULTY, THIN = DATES[1], DATES[3]
WHOLE = [date for date in DATES if date != THIN]
RETRY_SECONDS = 2.0  # what the command line waits; the fault passes meanwhile


def block(world: World) -> Path:
    """A file where the snapshots of FAULTY want a folder: storage refuses every write below it."""
    path = world.home / "workspace" / NAME / "snapshots" / f"as_of={FAULTY}"
    path.parent.mkdir(parents=True)
    path.write_text("in the way")
    return path


def mend_once_it_failed(world: World, path: Path, over: threading.Event) -> None:
    """Take the file away as soon as an extract has failed for it."""
    steps = world.home / "workspace" / NAME / "runs"
    while not over.wait(0.02):
        for record in steps.glob("*/steps/extract.json"):
            if StepRecord.model_validate_json(record.read_text("utf-8")).outcome == "failed":
                path.unlink()
                return


def run(name: str, world: World, home: Path) -> subprocess.CompletedProcess[str]:
    """The five dates, one after the other, in one process of `name`."""
    runs: list[dict[str, Any]] = [
        {
            "name": str(date),
            "dag": NAME,
            "conf": {"partition_date": str(date)},
            "parameters": {"pipeline": NAME, "partition_date": str(date)},
            "env": world.env,
            "connections": {},
        }
        for date in DATES
    ]
    plan = {"home": str(home), "retry_seconds": RETRY_SECONDS, "runs": runs}
    command = {
        "airflow": ("-m", "tests.run_dags"),
        "prefect": ("-m", "tests.run_flows"),
        "cli": ("-m", "daybreak", "backfill", NAME, "--from", str(FIRST), "--to", str(DATES[-1]),
                "--json"),
    }[name]  # fmt: skip
    home.mkdir(parents=True)
    return subprocess.run(
        [sys.executable, *command],
        cwd=PROJECT,
        env=os.environ | world.env | {"PREFECT_HOME": str(home / "prefect-home")},
        input=json.dumps(plan),
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def worlds(built_world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    """A world for each, in which it has run the five dates."""
    base = tmp_path_factory.mktemp("parity")
    worlds = {name: copy_world(built_world, base / name) for name in NAMES}

    def run_all(name: str) -> subprocess.CompletedProcess[str]:
        world, over = worlds[name], threading.Event()
        world.execute(
            f"DELETE FROM accounts WHERE event_date = DATE '{THIN}' AND account_id > 1010"
        )
        path = block(world)
        mender = threading.Thread(target=mend_once_it_failed, args=(world, path, over))
        mender.start()
        try:
            return run(name, world, base / f"{name}-home")
        finally:
            over.set()
            mender.join()

    with ThreadPoolExecutor(max_workers=2) as pool:
        for name, done in zip(NAMES, pool.map(run_all, NAMES), strict=True):
            # The command line says that a date failed; the other two say so in their outcomes.
            assert done.returncode == (1 if name == "cli" else 0), (
                f"{name}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            )
            (base / f"{name}.json").write_text(done.stdout)
    return worlds


def outcomes(worlds: dict[str, World], name: str) -> dict[str, Any]:
    """What an orchestrator says of its runs, by date."""
    file = worlds[name].home.parent.parent / f"{name}-home" / "runs.json"
    return dict(json.loads(file.read_text("utf-8")))


def published(world: World, date: dt.date) -> tuple[Version, pa.Table]:
    workspace = Workspace(world.workspace, NAME)
    table = open_store(world.pipeline().config.predictions, workspace.predictions())
    current = table.current(date)
    assert current is not None, f"nothing is published for {date}"
    return current, table.read(date)


@pytest.mark.parametrize("name", ["airflow", "prefect"])
@pytest.mark.parametrize("date", WHOLE, ids=str)
def test_every_way_to_run_publishes_the_same_rows(
    worlds: dict[str, World], name: str, date: dt.date
) -> None:
    expected_version, expected = published(worlds["cli"], date)
    version, actual = published(worlds[name], date)
    assert version.version == expected_version.version
    assert expected.num_rows == ROWS
    assert actual.schema.equals(expected.schema)
    assert actual.drop_columns(WHO).equals(expected.drop_columns(WHO))


@pytest.mark.parametrize("name", NAMES)
def test_a_date_that_the_gate_stops_is_published_by_none(
    worlds: dict[str, World], name: str
) -> None:
    world = worlds[name]
    workspace = Workspace(world.workspace, NAME)
    table = open_store(world.pipeline().config.predictions, workspace.predictions())
    assert table.versions(THIN) == []
    gates = [
        StepRecord.model_validate_json(storage.read(entry.uri))
        for entry in storage.entries(workspace.runs())
        if entry.uri.endswith("/steps/gate.json")
    ]
    assert sorted(gate.outcome for gate in gates) == ["failed", *["success"] * 4]


@pytest.mark.parametrize("name", ["airflow", "prefect"])
def test_what_passes_is_retried_and_what_does_not_fails_at_once(
    worlds: dict[str, World], name: str
) -> None:
    found = outcomes(worlds, name)
    good = {"airflow": "success", "prefect": "completed"}[name]
    states = [found[str(date)]["state"] for date in DATES]
    assert states == [good if date != THIN else "failed" for date in DATES]
    assert found[str(FAULTY)]["tasks"]["extract"]["tries"] >= 2
    assert found[str(DATES[0])]["tasks"]["extract"]["tries"] == 1
    assert found[str(THIN)]["tasks"]["gate"]["tries"] == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_rows_say_who_scored_them(worlds: dict[str, World], name: str) -> None:
    for date in WHOLE:
        current, rows = published(worlds[name], date)
        assert set(rows["run_id"].to_pylist()) == {current.run_id}
        assert current.run_id.startswith(f"{name}-")


@pytest.mark.skipif(not LONG, reason="a long proof: make test-all")
@pytest.mark.parametrize(
    "command", [("dags.local", NAME), ("flows.scoring", NAME), ("daybreak", "run", NAME)], ids=str
)
def test_a_user_starts_a_run_of_each(
    built_world: World, worlds: dict[str, World], tmp_path: Path, command: tuple[str, ...]
) -> None:
    world = copy_world(built_world, tmp_path / "world")
    done = subprocess.run(
        [sys.executable, "-m", *command, "--date", str(FIRST)],
        cwd=PROJECT,
        env=os.environ | world.env | {"PREFECT_HOME": str(tmp_path / "prefect-home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert published(world, FIRST)[0].version == published(worlds["cli"], FIRST)[0].version
