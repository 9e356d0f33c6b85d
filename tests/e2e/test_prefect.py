"""Deployments, a backfill and the deadline on a real Prefect server, with a real worker.

The tests go on from one another: the server is started once, and no worker at first.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from daybreak import backfill_prefect
from daybreak.backfill import PartitionResult, Results, plan_backfill
from daybreak.backfill_prefect import plan_prefect, run_of, run_prefect
from daybreak.cli import app
from daybreak.prefect_api import UNDER_WAY, PrefectApi
from daybreak.versions import table_of
from flows.deployments import POOL, prefect_yaml
from include.deadlines import next_deadline
from include.settings import PrefectServer, settings
from tests.inbox import Inbox
from tests.prefect_server import LocalPrefect
from tests.world import NAME, ROWS, World, copy_world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

LONG = "DAYBREAK_LONG_TESTS" in os.environ
PATIENCE = 400.0  # seconds, for what takes a few on an idle machine

GOOD = dt.date(2026, 2, 1)
THIN = dt.date(2026, 2, 3)  # has too few rows for the gate
SECRET = "hunter2-of-the-tests"


@dataclass
class Stage:
    """The world, the server that knows its pipeline, and who is told of what goes wrong."""

    world: World
    prefect: LocalPrefect
    inbox: Inbox
    folder: Path
    at_work: bool = False

    def work(self) -> None:
        """Start the worker, unless it is at work."""
        if not self.at_work:
            self.prefect.worker()
            self.at_work = True

    @property
    def api(self) -> PrefectApi:
        return PrefectApi(settings().prefect)

    def deploy(self, within: int | None = None) -> None:
        """`prefect deploy --all` of the pipeline folders; `within` replaces the trigger's."""
        content = yaml.safe_load(prefect_yaml(self.world.pipelines))
        if within is not None:
            for entry in content["deployments"]:
                for trigger in entry.get("triggers", []):
                    trigger["within"] = within
        file = self.folder / "prefect.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
        self.prefect.prefect("deploy", "--all", "--prefect-file", str(file))

    def deployment(self, flow: str) -> dict[str, Any]:
        found: dict[str, Any] = self.prefect.call("GET", f"deployments/name/{flow}/{NAME}")
        return found

    def scheduled(self, day: dt.date) -> str:
        """A run as the schedule makes one, for the tick of the day: the id of the flow run."""
        zone = self.world.pipeline().config.schedule.zone
        at = dt.datetime.combine(day, dt.time(2, 30), zone).astimezone(dt.UTC)
        details = {"scheduled_time": at.isoformat()}
        body = {
            "tags": ["auto-scheduled"],
            "state": {"type": "SCHEDULED", "state_details": details},
        }
        path = f"deployments/{self.deployment('scoring')['id']}/create_flow_run"
        return str(self.prefect.call("POST", path, body)["id"])

    def ended(self, flow_run_id: str) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            run: dict[str, Any] = self.prefect.call("GET", f"flow_runs/{flow_run_id}")
            return run if run["state"]["type"] in backfill_prefect.FINAL else None

        run = wait_for(found)
        assert run is not None, self.prefect.log("worker")
        return run

    def artifacts(self, flow_run_id: str) -> dict[str, dict[str, Any]]:
        body = {"artifacts": {"flow_run_id": {"any_": [flow_run_id]}}}
        return {each["key"]: each for each in self.prefect.call("POST", "artifacts/filter", body)}


def wait_for(look: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What `look` gives once it is true; None where it never is."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.5)
    return None


@dataclass
class Heard:
    """A board that keeps what it is told."""

    lines: list[str] = field(default_factory=list)
    results: list[PartitionResult] = field(default_factory=list)
    doing: set[str] = field(default_factory=set)

    def running(self, as_of: dt.date, doing: str) -> None:
        self.doing.add(doing)

    def said(self, message: str) -> None:
        self.lines.append(message)

    def finished(self, result: PartitionResult) -> None:
        self.results.append(result)


@pytest.fixture(scope="module")
def stage(built_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    path = tmp_path_factory.mktemp("prefect")
    world = copy_world(built_world, path / "world")
    world.execute(f"DELETE FROM accounts WHERE event_date = DATE '{THIN}' AND account_id > 1010")
    with (
        Inbox() as inbox,
        pytest.MonkeyPatch.context() as patch,
    ):
        told = {"DAYBREAK_NOTIFY": f"json://user:{SECRET}@127.0.0.1:{inbox.port}/hook"}
        with LocalPrefect(path / "prefect", world.env | told) as prefect:
            for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"):
                patch.delenv(name, raising=False)
            for name, value in {**world.env, "PREFECT_API_URL": prefect.url}.items():
                patch.setenv(name, value)
            yield Stage(world, prefect, inbox, path)


def backfill(first: dt.date, last: dt.date, *options: str) -> Result:
    arguments = ["backfill", NAME, "--from", str(first), "--to", str(last), "--via", "prefect"]
    return CliRunner().invoke(app, [*arguments, *options], env={"COLUMNS": "100"})


def said(result: Result) -> str:
    return " ".join(result.stderr.split())


def test_a_backfill_without_its_deployment_says_how_to_make_it(stage: Stage) -> None:
    result = backfill(GOOD, GOOD)
    assert result.exit_code == 1
    assert "this Prefect has no deployment backfill/tiny" in said(result)
    assert "prefect deploy --all" in said(result)


def test_a_pipeline_folder_is_deployed_as_it_is(stage: Stage) -> None:
    stage.deploy()
    scoring, deadline = stage.deployment("scoring"), stage.deployment("deadline")
    (schedule,) = scoring["schedules"]
    assert schedule["schedule"]["cron"] == "30 2 * * *"
    assert schedule["schedule"]["timezone"] == "Europe/Berlin" and schedule["active"]
    assert scoring["global_concurrency_limit"]["limit"] == 1
    assert scoring["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert scoring["parameters"] == {"pipeline": NAME}
    assert scoring["version"] == stage.world.pipeline().digest[:12]
    assert stage.world.pipeline().config.description in scoring["description"]
    form = scoring["parameter_openapi_schema"]["properties"]
    assert form["partition_date"]["anyOf"][0] == {"format": "date", "type": "string"}
    assert form["rescore"]["enum"] == ["missing", "stale", "all"]
    assert form["dry_run"]["type"] == "boolean"
    assert all(form[name]["description"] for name in form)
    assert stage.deployment("backfill")["schedules"] == []
    (automation,) = stage.prefect.call("POST", "automations/filter", {})
    # From 02:30 to 08:00, in the night when clocks skip 02:30.
    assert automation["trigger"]["within"] == 5 * 3600
    assert automation["actions"][0]["deployment_id"] == deadline["id"]


def test_a_run_that_asks_for_the_impossible_is_refused_at_once(stage: Stage) -> None:
    path = f"deployments/{stage.deployment('scoring')['id']}/create_flow_run"
    with pytest.raises(OSError, match="409"):
        stage.prefect.call("POST", path, {"parameters": {"rescore": "everything"}})


@pytest.mark.parametrize("what", ["deployment", "work queue", "work pool"])
def test_what_is_paused_is_named_before_anything_starts(stage: Stage, what: str) -> None:
    path, key = {
        "deployment": (f"deployments/{stage.deployment('backfill')['id']}", "paused"),
        "work queue": (f"work_pools/{POOL}/queues/backfill", "is_paused"),
        "work pool": (f"work_pools/{POOL}", "is_paused"),
    }[what]
    stage.prefect.call("PATCH", path, {key: True})
    try:
        result = backfill(GOOD, GOOD)
    finally:
        stage.prefect.call("PATCH", path, {key: False})
    assert result.exit_code == 1
    assert f"the {what} " in said(result) and "is paused" in said(result)


def test_two_backfills_share_the_run_of_a_date_until_what_it_makes_changes(stage: Stage) -> None:
    now, api = dt.datetime.now(dt.UTC), stage.api

    def run() -> str:
        plan = plan_prefect(plan_backfill(NAME, GOOD, GOOD, "missing", now), api, now)
        return run_of(plan, api, plan.backfill.partitions[0]).id

    first = run()
    assert run() == first
    config = (stage.world.folder / "pipeline.yaml").read_text("utf-8")
    stage.world.configure({"gate": {"min_rows": 99}})
    other = run()
    assert other != first
    (stage.world.folder / "pipeline.yaml").write_text(config, "utf-8")
    assert run() == first  # which still waits for a worker
    for each in (first, other):
        stage.prefect.call(
            "POST", f"flow_runs/{each}/set_state", {"state": {"type": "CANCELLED"}, "force": True}
        )
    again = run()  # one that ended, however, stands in nobody's way
    assert again not in (first, other)
    stage.prefect.call(
        "POST", f"flow_runs/{again}/set_state", {"state": {"type": "CANCELLED"}, "force": True}
    )


def test_a_backfill_that_no_worker_takes_says_so_and_goes_on_once_one_does(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill_prefect, "PATIENCE_SECONDS", 1.0)
    now, board, results = dt.datetime.now(dt.UTC), Heard(), Results()
    plan = plan_prefect(plan_backfill(NAME, GOOD, GOOD, "missing", now), stage.api, now)
    going = threading.Thread(target=run_prefect, args=(plan, stage.api, 1, board, results))
    going.start()
    try:
        assert wait_for(lambda: board.lines), "nothing was said of the missing worker"
        assert board.lines == [
            f"{GOOD} waits in Prefect, no worker of the pool {POOL} answers: start one with "
            f"prefect worker start --pool {POOL}"
        ]
    finally:
        stage.work()
        going.join(PATIENCE)
    assert not going.is_alive(), stage.prefect.log("worker")
    (result,) = results.found
    assert (result.state, result.rows, result.error) == ("published", ROWS, None), result
    (version,) = table_of(NAME).store.versions(GOOD)
    assert version.current and version.version == result.version
    assert result.run_id == version.run_id and version.run_id.startswith("prefect-")
    assert result.report is not None and Path(result.report.removeprefix("file://")).exists()


def test_a_second_backfill_does_not_run_again_what_is_published(stage: Stage) -> None:
    result = backfill(GOOD, GOOD, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["partitions"] == []
    planned = backfill(GOOD, GOOD, "--only", "all", "--dry-run", "--json")
    printed = json.loads(planned.stdout)
    assert printed["via"] == "prefect" and [one["runs"] for one in printed["partitions"]] == [True]


def test_the_page_of_a_run_shows_its_steps_and_its_report(stage: Stage) -> None:
    (version,) = table_of(NAME).store.versions(GOOD)
    found = stage.artifacts(version.run_id.removeprefix("prefect-"))
    assert set(found) == {f"{NAME}-run", f"{NAME}-report", f"{NAME}-report-page"}
    steps = json.loads(found[f"{NAME}-run"]["data"])
    assert [each["step"] for each in steps][:3] == ["plan", "extract", "gate"]
    assert {each["outcome"] for each in steps} == {"success"}
    assert f"| Published | {ROWS} |" in found[f"{NAME}-report"]["data"]
    assert "report.html" in found[f"{NAME}-report-page"]["data"]


def test_a_late_scheduled_run_alarms_people_itself_and_ends_red_at_its_gate(stage: Stage) -> None:
    stage.work()
    flow_run_id = stage.scheduled(THIN + dt.timedelta(days=1))
    run = stage.ended(flow_run_id)
    assert (run["state"]["type"], run["state"]["name"]) == ("FAILED", "Failed")
    zone = "Europe/Berlin"
    at = dt.datetime.fromisoformat(run["expected_start_time"])
    due = next_deadline(at, dt.time(8), zone)
    assert at < due < dt.datetime.fromisoformat(run["start_time"])
    message = stage.inbox.wait(PATIENCE, f"{NAME} {THIN}: late, not published by 08:00")
    assert message is not None, stage.prefect.log("worker")
    found = stage.artifacts(flow_run_id)
    assert "**gate failed:**" in found[f"{NAME}-report"]["data"]
    assert "Check that failed" in found[f"{NAME}-report"]["data"]


def test_a_run_that_never_starts_is_found_by_the_servers_automation(stage: Stage) -> None:
    stage.work()
    stage.deploy(within=10)
    assert len(stage.prefect.call("POST", "automations/filter", {})) == 1
    queue = f"work_pools/{POOL}/queues/default"
    stage.prefect.call("PATCH", queue, {"is_paused": True})
    day = GOOD + dt.timedelta(days=9)
    flow_run_id = stage.scheduled(day + dt.timedelta(days=1))
    message = stage.inbox.wait(PATIENCE, f"{NAME} {day}: late, not published by 08:00")
    assert message is not None, stage.prefect.log("server") + stage.prefect.log("worker")
    assert "the run has not started" in message["message"]
    assert flow_run_id in message["message"]
    scoring = [run.id for run in stage.api.runs(_scoring(stage), UNDER_WAY, ["auto-scheduled"])]
    assert flow_run_id in scoring
    refused = backfill(day, day)
    assert refused.exit_code == 1
    assert f"Prefect has the scheduled run of {day} under way" in said(refused)


def test_no_secret_reaches_prefect(stage: Stage) -> None:
    everything = json.dumps(
        [
            stage.prefect.call("POST", f"{kind}/filter", {"limit": 200})
            for kind in ("flow_runs", "task_runs", "artifacts", "logs", "deployments")
        ]
    )
    assert SECRET not in everything
    assert SECRET not in stage.prefect.log("worker")


def test_a_server_that_does_not_answer_is_named() -> None:
    api = PrefectApi(PrefectServer("http://127.0.0.1:9/api", None, None), pause=lambda _: None)
    with pytest.raises(Exception, match="no Prefect server answers at http://127.0.0.1:9/api") as e:
        api.deployment("backfill", NAME)
    assert "PREFECT_API_URL" in str(e.value)


@pytest.mark.skipif(not LONG, reason="a long proof: make test-all")
def test_a_backfill_runs_three_at_a_time_and_what_failed_runs_again(stage: Stage) -> None:
    first, last = GOOD, GOOD + dt.timedelta(days=4)
    result = backfill(first, last, "--parallel", "3", "--json")
    assert result.exit_code == 1, result.output
    printed = {one["as_of"]: one for one in json.loads(result.stdout)["partitions"]}
    assert _at_once(stage, [one["run_id"] for one in printed.values()]) in (2, 3)
    failed = printed.pop(str(THIN))
    assert failed["state"] == "failed"
    assert {one["state"] for one in printed.values()} == {"published"} and len(printed) == 3
    stage.world.configure({"gate": {"min_rows": 10, "max_quarantined_share": 1.0}})
    again = backfill(first, last, "--json")
    assert again.exit_code in (0, 3), again.output
    (anew,) = json.loads(again.stdout)["partitions"]
    assert anew["as_of"] == str(THIN) and anew["state"] in ("published", "held")
    assert anew["run_id"] not in (None, failed["run_id"])


def _at_once(stage: Stage, run_ids: list[str]) -> int:
    """How many of these runs were at work at one time, at the most, by Prefect's own times.

    Fewer than were asked for at a time, where a worker was slow to start one.
    """
    times = []
    for run_id in run_ids:
        run = stage.prefect.call("GET", f"flow_runs/{run_id.removeprefix('prefect-')}")
        start, end = map(dt.datetime.fromisoformat, (run["start_time"], run["end_time"]))
        times += [(start, 1), (end, -1)]
    # At one instant the end of a run comes before the start of the next.
    return max(accumulate(change for _, change in sorted(times)))


def _scoring(stage: Stage) -> Any:
    found = stage.api.deployment("scoring", NAME)
    assert found is not None
    return found
