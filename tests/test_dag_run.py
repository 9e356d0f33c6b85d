"""Whole DAG runs by Airflow's own task runner, good ones and failed ones."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from include import storage
from include.pipeline import load_pipeline
from include.run import Request, StepRecord
from include.stores import open_store
from include.workspace import Workspace, run_id_of
from tests.world import CONNECTION, NAME, ROWS, World, copy_world

# One process makes all the runs, so that one worker has all the tests.
pytestmark = pytest.mark.e2e

PROJECT = Path(__file__).resolve().parent.parent
STEPS = ("plan", "extract", "gate", "score", "publish", "drift", "report")
# Of a run whose version the audit does not hold.
SKIPPED = dict.fromkeys(("approval.ask", "approval.publish_approved"), "skipped")


@dataclass
class DagRun:
    """One run that is to be made, and what became of it."""

    world: World
    conf: dict[str, Any] = field(default_factory=dict)
    dag: str = NAME
    environment: dict[str, str] | None = None
    connections: dict[str, str] = field(default_factory=dict)
    outcome: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> str:
        return str(self.outcome["state"])

    @property
    def states(self) -> dict[str, str]:
        return {name: task["state"] for name, task in self.outcome["tasks"].items()}

    def tries(self, task: str) -> int:
        return int(self.outcome["tasks"][task]["tries"])

    @property
    def run_id(self) -> str:
        return run_id_of("airflow", self.outcome["run_id"])

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.world.workspace, self.world.name)

    @property
    def report(self) -> dict[str, Any]:
        content = storage.read(storage.join(self.workspace.run(self.run_id), "report.json"))
        return dict(json.loads(content))

    def record(self, step: str) -> StepRecord:
        return StepRecord.model_validate_json(storage.read(self.workspace.step(self.run_id, step)))

    def error(self, step: str) -> str:
        """What the step's record says went wrong."""
        error = self.record(step).error
        assert error is not None
        return f"{error['found']}. {error['do']}"


def block_drift(world: World) -> None:
    """A file where drift wants a folder: storage refuses every write below it."""
    (world.home / "workspace" / NAME).mkdir(parents=True)
    (world.home / "workspace" / NAME / "drift").write_text("in the way")


@pytest.fixture(scope="module")
def runs(built_world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, DagRun]:
    base = tmp_path_factory.mktemp("dag-runs")

    def world(name: str) -> World:
        return copy_world(built_world, base / name)

    date = {"partition_date": built_world.day.isoformat()}
    good, thin, blocked, broken = map(world, ("good", "thin", "blocked", "broken"))
    thin.configure({"gate": {"min_rows": 100_000}})
    block_drift(blocked)
    broken.configure({"gate": {"min_row": 1}})
    late = world("late")
    late.configure({"predictions": {"audit": {"approval_hours": 0.001}}})
    late.execute(f"UPDATE accounts SET visits = 0 WHERE event_date = '{late.day}'")
    day_before = {"partition_date": (late.day - dt.timedelta(days=1)).isoformat()}
    stored = world("stored")
    without = {name: value for name, value in stored.env.items() if "AIRFLOW_CONN" not in name}

    planned = {
        "good": DagRun(good, date),
        "again": DagRun(good, date),
        "no such version": DagRun(good, date | {"model_version": "99"}),
        "dry run": DagRun(good, date | {"dry_run": True}),
        "nothing to do": DagRun(good, date | {"rescore": "missing"}),
        "no such engine": DagRun(good, date | {"engine": "kubernetes"}),
        "two models": DagRun(good, date | {"model_version": "1", "model_alias": "production"}),
        "day before": DagRun(late, day_before),
        "nobody answers": DagRun(late, date),
        "future": DagRun(good, {"partition_date": "2999-01-01"}),
        "misspelt": DagRun(good, {"partition_dat": "2026-02-01"}),
        "no date": DagRun(good, {"partition_date": "yesterday"}),
        "thin": DagRun(thin, date),
        "drift blocked": DagRun(blocked, date),
        "broken folder": DagRun(broken, dag=f"{NAME}__config_error"),
        "connection in Airflow": DagRun(
            stored,
            date,
            environment=without | {"DAYBREAK_CONNECTIONS_FILE": "/nonexistent.yaml"},
            connections={CONNECTION: stored.env[f"AIRFLOW_CONN_{CONNECTION.upper()}"]},
        ),
    }
    home = base / "airflow"
    plan = {
        "home": str(home),
        "runs": [
            {
                "name": name,
                "dag": run.dag,
                "conf": run.conf,
                "env": run.environment or run.world.env,
                "connections": run.connections,
            }
            for name, run in planned.items()
        ],
    }
    log = base / "airflow.log"
    with log.open("w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "tests.run_dags"],
            input=json.dumps(plan),
            cwd=PROJECT,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    assert done.returncode == 0, log.read_text()[-4000:]
    outcomes = json.loads((home / "runs.json").read_text("utf-8"))
    for name, run in planned.items():
        run.outcome = outcomes[name]
    return planned


def test_a_run_publishes_a_complete_version_and_is_green(runs: dict[str, DagRun]) -> None:
    run = runs["good"]
    assert run.state == "success"
    assert run.states == dict.fromkeys((*STEPS, "announce", "verdict"), "success") | SKIPPED
    table = open_store(
        load_pipeline(run.world.folder).config.predictions, run.workspace.predictions()
    )
    rows = table.read(run.world.day)
    assert rows.num_rows == ROWS
    assert set(rows["run_id"].to_pylist()) == {run.run_id}
    assert run.report["state"] == "published"


def test_the_same_date_again_is_green_and_changes_nothing(runs: dict[str, DagRun]) -> None:
    run = runs["again"]
    assert run.state == "success"
    assert run.report["state"] == "unchanged"
    assert run.states["announce"] == "skipped"  # nobody is started by what readers had before
    table = open_store(
        load_pipeline(run.world.folder).config.predictions, run.workspace.predictions()
    )
    assert [version.run_id for version in table.versions(run.world.day)] == [runs["good"].run_id]


def test_between_tasks_travel_only_small_values(runs: dict[str, DagRun]) -> None:
    sizes = runs["good"].outcome["xcom_bytes"]
    assert set(sizes) == set(STEPS)
    assert max(sizes.values()) < 10_000


def test_a_connection_that_only_airflow_has_reaches_the_steps(runs: dict[str, DagRun]) -> None:
    assert runs["connection in Airflow"].state == "success"


def test_the_run_knows_its_page_in_airflow_and_the_time_it_is_for(
    runs: dict[str, DagRun],
) -> None:
    run = runs["good"]
    stored = storage.read(storage.join(run.workspace.run(run.run_id), "request.json"))
    request = Request.model_validate_json(stored)
    assert request.invocation.url is not None
    assert "/dags/tiny/runs/manual__" in request.invocation.url
    assert request.at is not None and request.at.tzinfo is not None


def test_a_failing_gate_is_red_at_once_with_a_report(runs: dict[str, DagRun]) -> None:
    run = runs["thin"]
    assert run.state == "failed"
    assert (
        run.states
        == {
            "plan": "success",
            "extract": "success",
            "gate": "failed",
            "score": "upstream_failed",
            "publish": "upstream_failed",
            "announce": "upstream_failed",
            "drift": "upstream_failed",
            "report": "success",
            "verdict": "failed",
        }
        | SKIPPED
    )
    assert run.tries("gate") == 1
    assert run.report["state"] == "failed"
    assert "100,000" in run.error("gate") or "100000" in run.error("gate")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no such version", "no version '99'"),
        ("future", "2999-01-01 lies in the future"),
        ("misspelt", "unknown parameter 'partition_dat'"),
        ("two models", "asks for model version '1' and for the alias 'production'"),
    ],
)
def test_a_run_that_cannot_be_planned_says_why_in_one_line(
    runs: dict[str, DagRun], name: str, said: str
) -> None:
    run = runs[name]
    assert run.state == "failed"
    assert run.states["plan"] == "failed"
    assert run.tries("plan") == 1
    assert run.states["report"] == "success"
    assert run.states["verdict"] == "failed"
    message = run.error("plan")
    assert said in message
    assert "\n" not in message
    assert said in json.dumps(run.report, ensure_ascii=False)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dry run", "would score 2026-02-05 with model version 1 on the local engine"),
        ("nothing to do", "nothing to do for 2026-02-05 with rescore: missing: has version v"),
    ],
)
def test_a_run_with_nothing_to_do_says_so_and_is_green(
    runs: dict[str, DagRun], name: str, said: str
) -> None:
    run = runs[name]
    assert run.state == "success"
    assert run.states["plan"] == "success"
    others = {state for task, state in run.states.items() if task != "plan"}
    assert others == {"skipped"}
    assert said in json.dumps(run.outcome["planned"])
    assert not storage.exists(run.workspace.step(run.run_id, "extract"))


def test_an_engine_that_the_pipeline_cannot_use_makes_no_run(runs: dict[str, DagRun]) -> None:
    assert "kubernetes" in runs["no such engine"].outcome["refused"]


def test_a_held_version_that_nobody_answers_for_in_time_is_red(runs: dict[str, DagRun]) -> None:
    assert runs["day before"].state == "success"
    run = runs["nobody answers"]
    assert run.state == "failed"
    states = run.states
    assert (states["publish"], states["approval.ask"]) == ("skipped", "success")
    assert states["approval.publish_approved"] == "failed"
    assert run.tries("approval.publish_approved") == 1
    assert (states["drift"], states["report"]) == ("upstream_failed", "success")
    assert "nobody answered until" in run.error("publish")
    assert run.report["held"]["answer"].startswith("rejected by the time limit")


def test_a_date_that_is_none_makes_no_run(runs: dict[str, DagRun]) -> None:
    assert "'yesterday' is not a 'date'" in runs["no date"].outcome["refused"]


def test_what_may_pass_is_retried_and_the_table_stays_published(runs: dict[str, DagRun]) -> None:
    run = runs["drift blocked"]
    assert run.states["publish"] == "success"
    assert run.states["drift"] == "failed"
    assert run.tries("drift") == 4
    # Red, because a step is missing; and the report says that readers have the table.
    assert run.state == "failed"
    assert run.states["verdict"] == "failed"
    assert run.report["state"] == "published"


def test_the_dag_of_a_broken_folder_fails_with_what_is_wrong(runs: dict[str, DagRun]) -> None:
    run = runs["broken folder"]
    assert run.state == "failed"
    assert run.states == {"config_error": "failed"}
    assert run.tries("config_error") == 1


def local_run(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dags.local", *arguments],
        cwd=PROJECT,
        env=os.environ | world.env,
        capture_output=True,
        text=True,
    )


def test_the_local_command_fails_when_the_run_does(tiny: World) -> None:
    done = local_run(tiny, NAME, "--date", "2999-01-01")
    assert done.returncode == 1
    assert f"{NAME}: failed, see file://" in done.stdout


def test_the_local_command_names_the_nearest_pipeline(tiny: World) -> None:
    done = local_run(tiny, "tyny", "--date", dt.date(2026, 2, 1).isoformat())
    assert done.returncode == 1
    assert "did you mean 'tiny'" in done.stderr.lower()
