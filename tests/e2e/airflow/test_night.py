"""A night: the schedule fires and its deadline passes while a backfill is under way."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import expect

from daybreak.local_airflow import BACKFILL_POOL
from include.partition import partitions_between
from tests.e2e.airflow.deployment import DagRun, Deployment
from tests.e2e.airflow.pages import Browser
from tests.e2e.airflow.readers import require_one_whole_version
from tests.world import FIRST_DAY, ROWS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

NIGHTLY, PAUSED, HISTORY = "nightly_churn", "paused_churn", "churn_history"
ZONE = ZoneInfo("Europe/Berlin")
PARALLEL = 3
DAYS_BACK = 10 if os.environ.get("DAYBREAK_LONG_TESTS") else 4
FIRST = FIRST_DAY + dt.timedelta(days=20)
LAST = FIRST + dt.timedelta(days=DAYS_BACK - 1)
DAYS = [each.as_of for each in partitions_between(FIRST, LAST, "day")]
# So long before the tick it is typed in, so that its first runs are under way at the tick.
START_OF_A_SHELL_SECONDS = 8
# The partition of the night's runs, whenever that is.
TONIGHTS = FIRST_DAY + dt.timedelta(days=35)


@dataclass(frozen=True)
class Night:
    """What was seen of the night, once all of it has ended."""

    tick: dt.datetime
    scheduled: DagRun
    of_history: list[DagRun]
    printed: dict[str, Any]
    exit_code: int
    said: str


@pytest.fixture(scope="module")
def night(running: Deployment) -> Night:
    """A backfill, and a run that the schedule starts at the next full minute."""
    now = dt.datetime.now(ZONE)
    # Its ticks of the backfilled days lie before. The latest one is due as soon as the DAG is
    # unpaused: a scheduled run of the very DAG that is backfilled.
    running.add(HISTORY, schedule(now - dt.timedelta(minutes=5), start=FIRST_DAY))
    tick = (dt.datetime.now(ZONE) + dt.timedelta(seconds=90)).replace(second=0, microsecond=0)
    for name in (NIGHTLY, PAUSED):
        running.add(name, schedule(tick, start=tick.date(), due=tick + dt.timedelta(seconds=2)))
    left = (tick - dt.datetime.now(ZONE)).total_seconds()
    time.sleep(max(0.0, left - START_OF_A_SHELL_SECONDS))
    backfill = running.start_shell(
        *("backfill", HISTORY, "--from", str(FIRST), "--to", str(LAST), "--via", "airflow"),
        *("--parallel", str(PARALLEL), "--json"),
    )
    try:
        running.until(lambda: running.runs(PAUSED), "a run of the schedule")
        running.pause(PAUSED)
        (scheduled,) = running.until(lambda: running.runs(NIGHTLY), "a run of the schedule")
        scheduled.ended()
        printed, said = backfill.communicate(timeout=1500)
    finally:
        backfill.kill()
    of_history = running.runs(HISTORY)
    for run in of_history:
        run.ended()
    return Night(tick, scheduled, of_history, json.loads(printed), backfill.returncode, said)


def schedule(tick: dt.datetime, start: dt.date, due: dt.datetime | None = None) -> dict[str, Any]:
    """Daily at the time of `tick`, whose run is for TONIGHTS."""
    return {
        "schedule": {
            "cron": f"{tick.minute} {tick.hour} * * *",
            "timezone": ZONE.key,
            "start_date": start,
            "deadline": f"{due:%H:%M:%S}" if due else None,
        },
        "partition": {"lag": (tick.date() - TONIGHTS).days},
    }


def test_the_schedule_starts_its_run_at_the_tick_of_its_own_zone(
    airflow: Deployment, night: Night
) -> None:
    run, shown = night.scheduled, night.scheduled.shown
    assert [each.id for each in airflow.runs(NIGHTLY)] == [run.id]
    assert shown["run_type"] == "scheduled"
    assert dt.datetime.fromisoformat(shown["logical_date"]) == night.tick
    assert shown["state"] == "success", run.states
    # Not of the UTC date: of the date in the zone, less the lag.
    assert run.as_of == TONIGHTS
    assert require_one_whole_version(NIGHTLY, TONIGHTS).rows_in == ROWS


def test_a_deadline_that_passes_is_told_with_the_step_that_runs(
    airflow: Deployment, night: Night
) -> None:
    alarm = airflow.inbox.wait(120, title=f"{NIGHTLY} {TONIGHTS}: late, not published by")
    assert alarm is not None, [message["title"] for message in airflow.inbox.messages]
    said = dict(line.split(": ", 1) for line in alarm["message"].splitlines())
    assert re.search(r"is running|the run has not started", said["Where"]), said
    assert f"/dags/{NIGHTLY}/runs/scheduled__" in said["Run"]
    assert said["Readers"] == "nothing of this table is known to be published"


def test_a_run_that_somebody_paused_is_late_all_the_same(airflow: Deployment, night: Night) -> None:
    alarm = airflow.inbox.wait(120, title=f"{PAUSED} {TONIGHTS}: late, not published by")
    assert alarm is not None, [message["title"] for message in airflow.inbox.messages]
    airflow.pause(PAUSED, False)
    (run,) = airflow.runs(PAUSED)
    assert run.ended() == "success"
    require_one_whole_version(PAUSED, TONIGHTS)


def test_a_late_run_is_told_of_once_and_a_backfill_is_never_late(
    airflow: Deployment, night: Night
) -> None:
    late = [each["title"] for each in airflow.inbox.messages if "late, not" in each["title"]]
    assert sorted(title.split()[0] for title in late) == [NIGHTLY, PAUSED]


def test_a_backfill_publishes_every_date_once_and_as_many_at_a_time_as_asked(
    airflow: Deployment, night: Night
) -> None:
    assert night.exit_code == 0, night.said
    printed = {each["as_of"]: each for each in night.printed["partitions"]}
    assert list(printed) == [str(day) for day in DAYS]
    for day in DAYS:
        manifest = require_one_whole_version(HISTORY, day)
        assert (printed[str(day)]["state"], printed[str(day)]["rows"]) == ("published", ROWS)
        assert printed[str(day)]["version"] == manifest.version
        assert Path(printed[str(day)]["report"].removeprefix("file://")).exists()
    runs = [run.shown for run in airflow.runs(HISTORY, "backfill")]
    assert [run["state"] for run in runs] == ["success"] * len(DAYS)
    begun = [(run["start_date"], 1) for run in runs]
    ended = [(run["end_date"], -1) for run in runs]
    at_once = most = 0
    for _, change in sorted([*begun, *ended]):
        at_once += change
        most = max(most, at_once)
    assert most == PARALLEL
    assert airflow.api.active_backfill(HISTORY) is None


def test_the_grid_shows_every_run_of_the_night_green(
    airflow: Deployment, night: Night, browser: Browser
) -> None:
    assert browser.colour(night.scheduled) == "green"
    grid = browser.open_grid(HISTORY)
    (scheduled,) = (run for run in night.of_history if "scheduled" in run.id)
    expect(grid.get_by_test_id(f"grid-{scheduled.id}-verdict")).to_be_visible()
    browser.shoot("grid", width=860, height=500)


def test_a_backfill_takes_no_slot_of_a_scheduled_run(airflow: Deployment, night: Night) -> None:
    (of_the_same_dag,) = (run for run in night.of_history if run.shown["run_type"] == "scheduled")
    last = max(run.shown["start_date"] for run in airflow.runs(HISTORY, "backfill"))
    for run in (of_the_same_dag, night.scheduled):
        shown = run.shown
        assert shown["state"] == "success"
        # It came while the backfill had runs to start, and did not wait for their end.
        assert shown["start_date"] < last
        assert {task["pool"] for task in run.tasks.values()} == {"default_pool"}
    require_one_whole_version(HISTORY, TONIGHTS)
    for run in airflow.runs(HISTORY, "backfill")[:1]:
        assert {task["pool"] for task in run.tasks.values()} == {BACKFILL_POOL}


def test_airflows_own_backfill_publishes_the_local_dates_of_its_ticks(
    airflow: Deployment, night: Night
) -> None:
    # A tick is an instant; its partition is the date in the zone of the pipeline, less the lag.
    earlier = [FIRST - dt.timedelta(days=2), FIRST - dt.timedelta(days=1)]
    known = {run.id for run in airflow.runs(HISTORY, "backfill")}
    of_first = next(run for run in airflow.runs(HISTORY, "backfill") if run.as_of == FIRST)
    tick = dt.datetime.fromisoformat(of_first.shown["logical_date"])
    window = (tick - dt.timedelta(days=2, hours=3), tick - dt.timedelta(hours=3))
    airflow.airflow.command(
        *("backfill", "create", "--dag-id", HISTORY, "--max-active-runs", "2"),
        *("--from-date", window[0].isoformat(), "--to-date", window[1].isoformat()),
    )
    made = [run for run in airflow.runs(HISTORY, "backfill") if run.id not in known]
    assert [run.ended() for run in made] == ["success", "success"]
    assert sorted(run.as_of for run in made) == earlier
    for day in earlier:
        require_one_whole_version(HISTORY, day)
    # The runs end first; Airflow says so of the backfill at its next look.
    airflow.until(lambda: airflow.api.active_backfill(HISTORY) is None, "an end of the backfill")


def test_a_date_that_airflow_has_a_green_run_of_is_run_again_where_it_is_asked_for(
    airflow: Deployment, night: Night
) -> None:
    one_day = ("backfill", HISTORY, "--from", str(FIRST), "--to", str(FIRST), "--via", "airflow")
    airflow.pause(HISTORY)
    paused = airflow.shell(*one_day, "--only", "all")
    assert paused.exit_code == 1 and "the DAG is paused" in " ".join(paused.stderr.split())
    airflow.pause(HISTORY, False)
    planned = airflow.shell(*one_day, "--dry-run", "--json")
    assert [each["runs"] for each in json.loads(planned.stdout)["partitions"]] == [False]
    before = {run.id for run in airflow.runs(HISTORY)}
    again = airflow.shell(*one_day, "--only", "all", "--json")
    assert again.exit_code == 0, again.stderr
    (result,) = json.loads(again.stdout)["partitions"]
    assert result["state"] == "unchanged"
    assert {run.id for run in airflow.runs(HISTORY)} == before
    require_one_whole_version(HISTORY, FIRST)


def test_no_service_url_stands_in_any_log(airflow: Deployment, night: Night) -> None:
    logs = airflow.airflow.home / "logs"
    where = f"127.0.0.1:{airflow.inbox.port}"
    told = [file for file in logs.rglob("*.log") if where in file.read_text("utf-8", "replace")]
    assert airflow.inbox.messages and told == []
