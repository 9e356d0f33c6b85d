"""Whoever is woken at the deadline reads what is late, what it hangs on and what readers see."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import tasks.alarm
from daybreak.run import run_steps
from include import storage
from include.errors import PermanentError, TransientError
from include.lateness import Hold, Missed, expected_at
from tasks.alarm import alarm
from tasks.report import report
from tests.inbox import Inbox
from tests.test_notify import Silent
from tests.test_report import Night
from tests.world import World

STARTED = dt.datetime(2026, 3, 8, 3, 30, tzinfo=dt.UTC)
DUE = dt.datetime(2026, 3, 8, 7, 0, tzinfo=dt.UTC)
PAGE = "https://airflow.example/dags/customer_churn/runs/1"


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    with Inbox() as listening:
        monkeypatch.setenv("DAYBREAK_NOTIFY", listening.url)
        yield listening


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Night:
    monkeypatch.setenv("DAYBREAK_WORKSPACE", str(tmp_path))
    return Night(tmp_path)


def missed(run_id: str, state: str = "running", pipeline: str = "customer_churn") -> Missed:
    return Missed(
        pipeline=pipeline,
        run_id=run_id,
        due_at=DUE,
        at=STARTED,
        state=state,
        started_at=STARTED,
        url=PAGE,
    )


def soon(minutes: int) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)


def said(inbox: Inbox) -> dict[str, str]:
    """The one message that arrived, line by line."""
    (message,) = inbox.messages
    lines = dict(line.split(": ", 1) for line in message["message"].splitlines())
    return {"title": message["title"], **lines}


def test_the_message_says_which_step_runs_since_when_and_what_is_done(
    night: Night, inbox: Inbox
) -> None:
    night.plan()
    night.extract()
    assert alarm(missed(night.run_id), soon(20)).endswith("told by JSON")
    found = said(inbox)
    assert found["title"] == "customer_churn 2026-03-08: late, not published by 08:00"
    assert found["What"].endswith("they were due at 2026-03-08 08:00 Europe/Berlin")
    assert found["Where"].startswith("gate is running since ")
    assert found["Where"].endswith("Europe/Berlin (20 min); done: plan, extract")
    assert found["Run"] == PAGE
    assert found["Owner"] == "growth-analytics"


def test_a_run_that_failed_is_late_with_its_reason_and_what_to_do(
    night: Night, inbox: Inbox
) -> None:
    night.plan()
    night.extract()
    night.gate(PermanentError("customer_id stands twice", do="look at the source"))
    alarm(missed(night.run_id, "failed"), soon(60))
    found = said(inbox)
    assert found["Where"].startswith("gate failed at ")
    assert "and the run with it" in found["Where"]
    assert found["Why"] == "customer_id stands twice"
    assert found["Do"] == "Look at the source."
    assert "Expected" not in found


def test_a_step_that_is_tried_again_says_what_it_met(night: Night, inbox: Inbox) -> None:
    night.plan()
    night.step("extract", None, TransientError("the warehouse is locked"))
    alarm(missed(night.run_id), soon(1))
    found = said(inbox)
    assert "is tried again; done: plan" in found["Where"]
    assert found["Why"] == "the warehouse is locked"


def test_a_run_that_waits_behind_another_has_not_started(night: Night, inbox: Inbox) -> None:
    alarm(missed(night.run_id, "queued"))
    assert said(inbox)["Where"] == "the run has not started"


def test_what_earlier_runs_took_gives_the_expected_finish() -> None:
    now = dt.datetime(2026, 3, 8, 7, 0, tzinfo=dt.UTC)
    taken = {"gate": [60.0, 80.0, 900.0], "score": [600.0], "publish": [30.0]}
    running = Hold("gate", "running", now - dt.timedelta(seconds=50), ("plan", "extract"))
    assert expected_at(running, taken, now) == now + dt.timedelta(seconds=30 + 600 + 30)
    stuck = Hold("gate", "running", now - dt.timedelta(hours=1), ("plan", "extract"))
    assert expected_at(stuck, taken, now) is None
    assert expected_at(Hold("extract", "running", now, ("plan",)), taken, now) is None


def test_the_reports_of_published_runs_tell_what_a_step_takes(
    tmp_path: Path, night: Night, inbox: Inbox
) -> None:
    for name in ("first", "second"):
        earlier = Night(tmp_path, f"airflow-{name}")
        earlier.up_to_publish()
        earlier.drift()
        report(earlier.workspace.pipeline, earlier.run_id)
    failed = Night(tmp_path, "airflow-failed")
    failed.plan()
    report(failed.workspace.pipeline, failed.run_id)
    inbox.messages.clear()
    night.plan()
    alarm(missed(night.run_id), soon(20))
    assert said(inbox)["Expected"] == (
        "unknown: extract takes 0 s in the median of 2 earlier runs, and has taken longer"
    )


def test_nobody_is_alarmed_once_readers_have_the_predictions(night: Night, inbox: Inbox) -> None:
    night.up_to_publish()  # drift and the report are still to come
    assert "nobody is alarmed" in alarm(missed(night.run_id))
    assert inbox.messages == []


def test_a_run_that_a_person_made_instead_silences_the_alarm(tiny: World, inbox: Inbox) -> None:
    day = dt.datetime.combine(tiny.day, dt.time(2, 30), dt.UTC)
    late = missed("airflow-scheduled__1", "failed", tiny.name).model_copy(
        update={"at": day + dt.timedelta(days=1)}  # the lag is a day
    )
    alarm(late)
    assert said(inbox)["title"].startswith(f"tiny {tiny.day}: late")
    assert "nothing of this table" in said(inbox)["Readers"]
    run_steps(tiny.request(run="by hand"), Silent())
    inbox.messages.clear()
    assert "nobody is alarmed" in alarm(late)
    assert inbox.messages == []


def test_the_last_good_version_is_named(tiny: World, inbox: Inbox) -> None:
    good = run_steps(tiny.request(run="good"), Silent())
    assert good.report is not None
    version = json.loads(storage.read(good.report.json_uri))["publish"]["version"]
    after = dt.datetime.combine(tiny.day, dt.time(2, 30), dt.UTC) + dt.timedelta(days=2)
    alarm(missed("airflow-2", "running", tiny.name).model_copy(update={"at": after}))
    assert said(inbox)["Readers"].startswith(f"see version {version} of {tiny.day}, 300 rows")


def test_an_alarm_is_sent_once_and_stands_in_the_report(night: Night, inbox: Inbox) -> None:
    night.plan()
    for _ in range(2):
        alarm(missed(night.run_id))
    assert len(inbox.messages) == 1
    written = report(night.workspace.pipeline, night.run_id)
    told = json.loads(storage.read(written.json_uri))["notifications"]
    assert [each["event"] for each in told] == ["deadline", "failure"]


def test_a_storage_that_never_answers_does_not_keep_the_alarm(
    night: Night, inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "customer_churn" / "runs" / night.run_id
    folder.mkdir(parents=True)
    os.mkfifo(folder / "run.json")  # reading it waits for ever
    (tmp_path / "pipelines").mkdir()
    monkeypatch.setenv("DAYBREAK_PIPELINES", str(tmp_path / "pipelines"))
    monkeypatch.setattr(tasks.alarm, "PATIENCE_SECONDS", 0.5)
    alarm(missed(night.run_id))
    found = said(inbox)
    assert found["title"] == "customer_churn: late, not published by 07:00"
    assert found["Where"] == "the run is running; its records could not be read"
    assert found["Readers"] == "the table could not be asked"


def test_a_pipeline_may_do_without_the_alarm(tiny: World, inbox: Inbox) -> None:
    tiny.configure({"notify": {"on": ["failure"]}})
    assert "notify.on" in alarm(missed("airflow-1", pipeline=tiny.name))
    assert inbox.messages == []
