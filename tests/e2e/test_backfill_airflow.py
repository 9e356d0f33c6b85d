"""A backfill by a real Airflow on PostgreSQL: its REST API, its scheduler, its executor."""

from __future__ import annotations

import datetime as dt
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from typer.testing import CliRunner, Result

from daybreak.airflow_api import AirflowApi
from daybreak.backfill_airflow import window
from daybreak.cli import app
from daybreak.local_airflow import BACKFILL_POOL, LOGIN, LocalAirflow
from daybreak.versions import table_of
from include.partition import partitions_between
from include.settings import settings
from tests.world import ROWS, World, copy_world

FIRST, LAST = dt.date(2026, 2, 1), dt.date(2026, 2, 4)
RANGE = ("--from", str(FIRST), "--to", str(LAST))


@pytest.fixture(scope="module")
def world(
    built_world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[World, AirflowApi]]:
    """A world whose pipeline is a DAG, paused, of an Airflow that this process knows."""
    path = tmp_path_factory.mktemp("airflow")
    world = copy_world(built_world, path / "world")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        LocalAirflow(path / "home", port=port, overrides=world.env) as airflow,
        pytest.MonkeyPatch.context() as patch,
    ):
        known = {
            "DAYBREAK_AIRFLOW_URL": airflow.address,
            "DAYBREAK_AIRFLOW_USER": LOGIN,
            "DAYBREAK_AIRFLOW_PASSWORD": airflow.password,
        }
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("DAYBREAK_AIRFLOW_TOKEN", raising=False)
        for name, value in {**world.env, **known}.items():
            patch.setenv(name, value)
        api = AirflowApi(settings().airflow)
        until = time.monotonic() + 60
        while api.dag("tiny") is None:
            assert time.monotonic() < until, airflow.log_tail("dag-processor")
            time.sleep(0.5)
        yield world, api


def backfill(*options: str) -> Result:
    arguments = ["backfill", "tiny", *RANGE, "--via", "airflow", "--parallel", "2", *options]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "100"})


@pytest.mark.e2e
def test_airflow_runs_exactly_the_wanted_dates_two_at_a_time(world: tuple[World, AirflowApi]):
    tiny, api = world
    paused = backfill()
    assert paused.exit_code == 1 and "the DAG is paused" in " ".join(paused.stderr.split())
    api._call("PATCH", "dags/tiny", {"is_paused": False})

    planned = backfill("--dry-run", "--json")
    assert [each["runs"] for each in json.loads(planned.stdout)["partitions"]] == [True] * 4

    done = backfill("--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    days = [each.as_of for each in partitions_between(FIRST, LAST, "day")]
    assert [each["as_of"] for each in printed["partitions"]] == [str(day) for day in days]
    assert {(each["state"], each["rows"]) for each in printed["partitions"]} == {
        ("published", ROWS)
    }
    table = table_of("tiny")
    for each in printed["partitions"]:
        (version,) = table.store.versions(dt.date.fromisoformat(each["as_of"]))
        assert version.current and version.version == each["version"]
        assert Path(each["report"].removeprefix("file://")).exists()

    config = tiny.pipeline().config
    first, last = (window(config, each) for each in partitions_between(FIRST, LAST, "day")[::3])
    day = dt.timedelta(days=1)
    runs = api.runs("tiny", first[0] - day, last[1] + day)
    assert [(run.state, run.kind) for run in runs] == [("success", "backfill")] * 4
    tasks = api._call("GET", f"dags/tiny/dagRuns/{quote(runs[0].id, safe='')}/taskInstances")
    # A scheduled run has its slots elsewhere, however many dates a backfill has.
    assert {task["pool"] for task in tasks["task_instances"]} == {BACKFILL_POOL}
    begun = sorted((run.started_at, 1) for run in runs if run.started_at)
    ended = sorted((run.ended_at, -1) for run in runs if run.ended_at)
    at_once, most = 0, 0
    for _, change in sorted([*begun, *ended]):
        at_once += change
        most = max(most, at_once)
    assert most == 2

    # A run of the date exists and is green: Airflow would skip it, and the same rows are no news.
    again = CliRunner().invoke(
        app,
        ["backfill", "tiny", "--from", str(FIRST), "--to", str(FIRST), "--only", "all", "--via",
         "airflow", "--json"],
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    (result,) = json.loads(again.stdout)["partitions"]
    assert result["state"] == "unchanged" and result["run_id"] == printed["partitions"][0]["run_id"]
    assert len(api.runs("tiny", first[0], last[1])) == 4
    assert api.active_backfill("tiny") is None
