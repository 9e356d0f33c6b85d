"""The same steps as a Prefect flow: whole runs on a real Prefect server, good and failed ones."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from include import storage
from include.run import Request
from include.stores import open_store
from include.workspace import Workspace, run_id_of
from tests.world import NAME, ROWS, World, copy_world

# One process makes all the runs, so that one worker has all the tests.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

PROJECT = Path(__file__).resolve().parent.parent
STEPS = ("plan", "extract", "gate", "score", "publish", "drift", "report")


@dataclass
class FlowRun:
    """One run that is to be made, and what became of it."""

    world: World
    parameters: dict[str, Any]
    typed: bool = False
    outcome: dict[str, Any] = field(default_factory=dict)

    @property
    def states(self) -> dict[str, str]:
        return {name: task["state"] for name, task in self.outcome["tasks"].items()}

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.world.workspace, NAME)

    @property
    def run_id(self) -> str:
        return run_id_of("prefect", self.outcome["run_id"])

    def stored(self, file: str) -> bytes:
        return storage.read(storage.join(self.workspace.run(self.run_id), file))

    @property
    def report(self) -> dict[str, Any]:
        return dict(json.loads(self.stored("report.json")))


def block(world: World, folder: str) -> None:
    """A file where a step wants a folder: storage refuses every write below it."""
    path = world.home / "workspace" / NAME / folder
    path.parent.mkdir(parents=True)
    path.write_text("in the way")


@pytest.fixture(scope="module")
def runs(built_world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FlowRun]:
    home = tmp_path_factory.mktemp("flow-runs")
    good, thin, no_scores, no_drift, shifted = (
        copy_world(built_world, home / name) for name in "12345"
    )
    thin.configure({"gate": {"min_rows": 100_000}})
    shifted.configure({"predictions": {"audit": {"max_score_psi": 0.00001}}})
    other = shifted.register_model(seed=7, alias=None)
    block(no_scores, "scores")
    block(no_drift, "drift")
    date = {"pipeline": NAME, "partition_date": built_world.day.isoformat()}
    planned = {
        "dry run": FlowRun(good, date | {"dry_run": True}),
        "good": FlowRun(good, date),
        "not missing": FlowRun(good, date | {"rescore": "missing"}),
        "before": FlowRun(shifted, date),
        "shifted": FlowRun(shifted, date | {"model_version": other}),
        "thin": FlowRun(thin, date),
        "future": FlowRun(good, {"pipeline": NAME, "partition_date": "2999-01-01"}),
        "scores blocked": FlowRun(no_scores, date),
        "drift blocked": FlowRun(no_drift, date),
        "typed": FlowRun(no_scores, date, typed=True),
    }
    plan = {
        "home": str(home),
        "runs": [
            {"name": name, "parameters": run.parameters, "env": run.world.env, "typed": run.typed}
            for name, run in planned.items()
        ],
    }
    log = home / "prefect.log"
    with log.open("w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "tests.run_flows"],
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


def test_a_run_publishes_a_complete_version(runs: dict[str, FlowRun]) -> None:
    run = runs["good"]
    assert run.outcome["state"] == "completed"
    assert run.states == dict.fromkeys(STEPS, "completed")
    table = open_store(run.world.pipeline().config.predictions, run.workspace.predictions())
    rows = table.read(run.world.day)
    assert rows.num_rows == ROWS
    assert set(rows["run_id"].to_pylist()) == {run.run_id}
    assert run.report["state"] == "published"


def test_a_run_is_named_by_its_pipeline_and_date(runs: dict[str, FlowRun]) -> None:
    run = runs["good"]
    assert run.outcome["name"] == f"{NAME} {run.world.day}"


def test_a_run_is_for_the_time_that_it_was_scheduled_for(runs: dict[str, FlowRun]) -> None:
    run = runs["good"]
    request = Request.model_validate_json(run.stored("request.json"))
    assert request.at == dt.datetime.fromisoformat(run.outcome["scheduled_at"])


def test_a_dry_run_says_what_would_be_done_and_does_nothing(runs: dict[str, FlowRun]) -> None:
    run = runs["dry run"]
    assert run.states == {"preview": "completed"}
    assert f"would score {run.world.day} with model version 1" in run.outcome["message"]
    assert runs["good"].report["state"] == "published"  # and not unchanged


def test_a_run_for_what_is_missing_ends_where_nothing_is(runs: dict[str, FlowRun]) -> None:
    run = runs["not missing"]
    assert (run.outcome["state"], run.states) == ("completed", {"preview": "completed"})
    assert "nothing to do" in run.outcome["message"]


def test_a_version_that_waits_for_a_person_is_held_and_not_green(runs: dict[str, FlowRun]) -> None:
    assert runs["before"].outcome["state_name"] == "Completed"
    run = runs["shifted"]
    assert (run.outcome["state"], run.outcome["state_name"]) == ("failed", "Held")
    assert run.states["publish"] == "failed" and run.outcome["tasks"]["publish"]["tries"] == 1
    assert run.report["state"] == "held"


def test_the_log_lines_of_the_steps_reach_prefect(runs: dict[str, FlowRun]) -> None:
    lines = [json.loads(line) for line in runs["good"].outcome["logs"]]
    finished = [line["step"] for line in lines if line.get("outcome") == "success"]
    assert set(finished) == set(STEPS)


def test_a_failing_gate_fails_the_run_at_once_with_a_report(runs: dict[str, FlowRun]) -> None:
    run = runs["thin"]
    assert run.outcome["state"] == "failed"
    assert run.states == {
        "plan": "completed",
        "extract": "completed",
        "gate": "failed",
        "report": "completed",
    }
    assert run.outcome["tasks"]["gate"]["tries"] == 1
    assert run.report["state"] == "failed"
    # The run fails with the gate's own error and not with one about the report.
    assert "gate" in run.outcome["error"] or "rows" in run.outcome["error"]


def test_a_run_that_cannot_be_planned_has_a_report(runs: dict[str, FlowRun]) -> None:
    run = runs["future"]
    assert run.outcome["state"] == "failed"
    assert "2999-01-01 lies in the future" in run.outcome["error"]
    assert run.states == {"plan": "failed", "report": "completed"}
    assert run.report["state"] == "failed"


def test_only_what_may_pass_is_retried(runs: dict[str, FlowRun]) -> None:
    run = runs["scores blocked"]
    assert "storage could not" in run.outcome["error"]
    assert run.outcome["tasks"]["score"]["tries"] == 4
    assert runs["thin"].outcome["tasks"]["gate"]["tries"] == 1


def test_what_did_not_pass_is_one_line_and_no_traceback_for_who_typed_the_run(
    runs: dict[str, FlowRun],
) -> None:
    typed = runs["typed"].outcome
    assert typed["code"] == 1
    # Prefect logs each attempt with its traceback; the last line is ours.
    last = typed["said"].strip().splitlines()[-1]
    assert last.startswith(f"{NAME} ") and "storage could not" in last


def test_the_table_stays_published_where_drift_fails(runs: dict[str, FlowRun]) -> None:
    run = runs["drift blocked"]
    assert run.states["publish"] == "completed"
    # The run fails, because a step is missing; the report says that readers have the table.
    assert run.outcome["state"] == "failed"
    assert run.report["state"] == "published"
