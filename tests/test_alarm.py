"""Whoever is woken at the deadline reads what is late, what it hangs on and what readers see."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

import tasks.alarm
from daybreak.run import run_steps
from include import approvals, storage
from include.approvals import Answer, Held
from include.audit import HeldForApproval
from include.config import Schedule
from include.errors import PermanentError, TransientError
from include.lateness import Hold, Missed, expected_at, made_instead
from include.partition import Partition
from include.reports.records import HELD
from include.score_shift import Shift
from tasks.alarm import alarm, message_of
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


def held(night: Night) -> Held:
    """The night's version waits for a person until 20:40 of its zone."""
    night.plan()
    night.extract()
    night.gate()
    scored = night.score()
    asked = dt.datetime(2026, 3, 8, 7, 40, tzinfo=dt.UTC)
    question = Held(
        pipeline="customer_churn",
        as_of=night.run.partition.as_of,
        version=scored.version,
        run=night.run,
        held_at=asked,
        until=asked + dt.timedelta(hours=12),
        replaces=None,
        shift=Shift(
            psi=0.8,
            noise_psi=0.1,
            limit=0.25,
            mean=0.4,
            reference_mean=0.2,
            against_as_of=night.run.partition.as_of,
            against_version="v0123456789ab",
        ),
        message="the scores moved",
        checks=(),
    )
    approvals.ask(night.workspace, question)
    night.publish(HeldForApproval("the scores moved", do=question.how_to_answer()))
    return question


@pytest.mark.parametrize("state", ["running", "failed"])  # as Airflow and Prefect call such a run
def test_a_held_version_waits_for_a_person_and_nobody_is_told_that_it_is_tried_again(
    night: Night, inbox: Inbox, state: str
) -> None:
    held(night)
    alarm(missed(night.run_id, state), dt.datetime(2026, 3, 8, 8, 0, tzinfo=dt.UTC))
    found = said(inbox)
    assert found["Where"] == (
        "publish waits for a person until 2026-03-08 20:40 Europe/Berlin; "
        "done: plan, extract, gate, score"
    )
    assert found["Why"] == "the scores moved"
    assert "daybreak approve customer_churn --date 2026-03-08" in found["Do"]
    assert "Expected" not in found


def test_a_held_version_that_was_answered_waits_for_nobody(night: Night, inbox: Inbox) -> None:
    question = held(night)
    no = Answer(verdict="rejected", by="ann", at=question.held_at, reason="no visits")
    approvals.answer(night.workspace, question, no)
    alarm(missed(night.run_id), dt.datetime(2026, 3, 8, 8, 0, tzinfo=dt.UTC))
    assert said(inbox)["Where"].startswith("publish failed at 2026-03-08 08:40 Europe/Berlin")
    assert "rejected by ann" in said(inbox)["Why"]


def test_the_record_of_a_held_version_is_known_by_the_name_of_its_error() -> None:
    assert HeldForApproval.__name__ == HELD


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


def test_the_step_is_said_to_take_the_median_that_the_expected_finish_is_made_of() -> None:
    now = dt.datetime(2026, 3, 8, 7, 0, tzinfo=dt.UTC)
    queued = Hold("publish", "queued", None, ("plan", "extract", "gate", "score"))
    taken = {"publish": [600.0, 1200.0]}
    late = missed("airflow-1")
    text = message_of(late, None, None, queued, taken, "see nothing", now).body
    assert "Expected: published at about 2026-03-08 07:15 UTC; publish takes 15 min in" in text


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


def test_what_an_asset_published_tonight_silences_the_alarm_of_the_tick_behind_it(
    tiny: World, inbox: Inbox
) -> None:
    # The commit's time is this machine's: the tick lies an hour ahead, and the lag leads back.
    tick = dt.datetime.now(dt.UTC).replace(second=0, microsecond=0) + dt.timedelta(hours=1)
    schedule = {"cron": f"{tick.minute} {tick.hour} * * *", "timezone": "UTC"}
    lag = (tick.date() - tiny.day).days
    tiny.configure({"schedule": schedule, "partition": {"lag": lag}})
    tiny.configure({"predictions": {"audit": {"max_score_psi": 1000.0}}})
    second = tiny.register_model(seed=7)  # so that the second run has something to publish
    for hours_before, model, told in ((26, "1", 1), (2, second, 0)):
        asked = tick - dt.timedelta(hours=hours_before)
        request = tiny.request(run=f"{hours_before} hours before", model_version=model)
        made = run_steps(request.model_copy(update={"at": asked}), Silent())
        assert made.report is not None and made.report.state == "published"
        inbox.messages.clear()
        late = missed(f"airflow-{hours_before}", "queued", tiny.name)
        alarm(late.model_copy(update={"at": tick}))
        assert len(inbox.messages) == told, inbox.messages


def test_a_version_counts_as_tonights_if_it_came_after_the_tick_before_and_is_whole() -> None:
    ticks = Schedule(cron="0 5 * * *", timezone="Europe/Berlin")

    def at(day: int, hour: int) -> dt.datetime:
        return dt.datetime(2026, 3, day, hour, tzinfo=ZoneInfo("Europe/Berlin"))

    over, tonight = Partition.containing(at(8, 0).date(), "day"), at(9, 5)
    assert made_instead(ticks, over, tonight, at(9, 3))
    assert made_instead(ticks, over, tonight, at(9, 6))
    assert not made_instead(ticks, over, tonight, at(8, 22)), "the day was not over"
    week = Partition.containing(at(10, 0).date(), "week")
    assert made_instead(ticks, week, at(11, 5), at(10, 23))
    assert not made_instead(ticks, week, at(11, 5), at(10, 5)), "last night's own run"
    assert not made_instead(Schedule(), over, tonight, at(9, 3)), "nothing says since when"


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
