"""A deadline is a time on the wall clock, also in the nights when the clocks change."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.deadlines import next_deadline

BERLIN = "Europe/Berlin"
EIGHT = dt.time(8)


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def berlin(text: str, fold: int = 0) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(BERLIN), fold=fold)


def test_a_run_of_the_night_is_due_the_same_morning() -> None:
    assert next_deadline(berlin("2026-07-01T02:30"), EIGHT, BERLIN) == utc("2026-07-01T06:00")


def test_a_run_of_the_evening_is_due_the_next_morning() -> None:
    assert next_deadline(berlin("2026-07-01T22:00"), EIGHT, BERLIN) == utc("2026-07-02T06:00")


def test_a_run_at_the_deadline_itself_is_due_at_once() -> None:
    assert next_deadline(berlin("2026-07-01T08:00"), EIGHT, BERLIN) == utc("2026-07-01T06:00")


@pytest.mark.parametrize(
    ("started", "due"),
    [
        ("2026-03-29T00:30", "2026-03-29T06:00"),  # an hour less until 8, in summer time
        ("2026-10-25T00:30", "2026-10-25T07:00"),  # an hour more, in winter time
        ("2026-03-28T22:00", "2026-03-29T06:00"),
        ("2026-10-24T22:00", "2026-10-25T07:00"),
    ],
)
def test_eight_is_eight_after_a_night_that_changes_the_clocks(started: str, due: str) -> None:
    assert next_deadline(berlin(started), EIGHT, BERLIN) == utc(due)


def test_a_time_that_the_night_leaves_out_is_as_long_after_midnight_as_ever() -> None:
    half_past_two = dt.time(2, 30)
    due = next_deadline(berlin("2026-03-29T01:00"), half_past_two, BERLIN)
    assert due == utc("2026-03-29T01:30")  # 03:30 in Berlin, two and a half hours after midnight


def test_a_time_that_comes_twice_is_meant_the_first_time_unless_it_has_passed() -> None:
    half_past_two = dt.time(2, 30)
    assert next_deadline(berlin("2026-10-25T01:00"), half_past_two, BERLIN) == utc(
        "2026-10-25T00:30"
    )
    between = berlin("2026-10-25T02:45")
    assert next_deadline(between, half_past_two, BERLIN) == utc("2026-10-25T01:30")
    after = berlin("2026-10-25T02:45", fold=1)
    assert next_deadline(after, half_past_two, BERLIN) == utc("2026-10-26T01:30")


ZONES = (BERLIN, "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "UTC")


@settings(deadline=None)
@given(
    moment=st.datetimes(
        dt.datetime(2005, 1, 1), dt.datetime(2030, 1, 1), timezones=st.just(dt.UTC)
    ),
    minutes=st.integers(0, 24 * 60 - 1),
    timezone=st.sampled_from(ZONES),
)
def test_no_clock_shows_the_time_between_the_start_and_the_deadline(
    moment: dt.datetime, minutes: int, timezone: str
) -> None:
    time, zone = dt.time(minutes // 60, minutes % 60), ZoneInfo(timezone)
    due = next_deadline(moment, time, timezone)
    assert dt.timedelta(0) <= due - moment <= dt.timedelta(hours=26)
    # By the minute: the shown times from the start to the deadline, in UTC's whole minutes.
    whole = moment.replace(second=0, microsecond=0)
    looked_at = whole if whole == moment else whole + dt.timedelta(minutes=1)
    while looked_at < due:
        shown = looked_at.astimezone(zone).time()
        assert shown != time
        looked_at += dt.timedelta(minutes=1)
