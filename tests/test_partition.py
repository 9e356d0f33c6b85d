"""The partition of a run is decided once, in the pipeline's own time zone."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import PermanentError
from include.partition import Partition, partition_for

GRAINS = ("day", "week", "month")
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
    "Australia/Lord_Howe",
)
days = st.dates(dt.date(1900, 1, 1), dt.date(2200, 12, 31))
grains = st.sampled_from(GRAINS)
zones = st.sampled_from(ZONES)
instants = st.datetimes(
    dt.datetime(1990, 1, 1),
    dt.datetime(2100, 1, 1),
    timezones=st.just(dt.UTC),
)


def at(text: str, zone: str = "UTC") -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


@given(day=days, grain=grains)
def test_a_partition_holds_its_day_and_every_day_names_the_same_partition(day, grain):
    partition = Partition.containing(day, grain)
    assert partition.start <= day <= partition.as_of < partition.end
    assert Partition.containing(partition.start, grain) == partition
    assert Partition.containing(partition.as_of, grain) == partition
    assert Partition.containing(partition.end, grain).start == partition.end


@given(day=days, grain=grains, count=st.integers(0, 40))
def test_going_back_leaves_no_gap_and_no_overlap(day, grain, count):
    partition = Partition.containing(day, grain)
    earlier = partition.back(count)
    if count:
        assert earlier.back(0) == earlier and partition.back(count - 1).start == earlier.end
    else:
        assert earlier == partition


@given(day=days, grain=grains)
def test_a_partition_survives_json(day, grain):
    partition = Partition.containing(day, grain)
    assert Partition.model_validate_json(partition.model_dump_json()) == partition


@pytest.mark.parametrize(
    ("day", "grain", "start", "as_of"),
    [
        ("2024-02-10", "month", "2024-02-01", "2024-02-29"),
        ("2023-02-10", "month", "2023-02-01", "2023-02-28"),
        ("1900-02-10", "month", "1900-02-01", "1900-02-28"),
        ("2000-02-29", "month", "2000-02-01", "2000-02-29"),
        ("2013-12-31", "month", "2013-12-01", "2013-12-31"),
        ("2013-12-31", "week", "2013-12-30", "2014-01-05"),
        ("2013-10-06", "week", "2013-09-30", "2013-10-06"),
        ("2013-10-07", "week", "2013-10-07", "2013-10-13"),
        ("2013-10-01", "day", "2013-10-01", "2013-10-01"),
    ],
)
def test_partitions_end_where_the_calendar_says(day, grain, start, as_of):
    partition = Partition.containing(dt.date.fromisoformat(day), grain)
    assert (str(partition.start), str(partition)) == (start, as_of)


@given(instant=instants, grain=grains, zone=zones, lag=st.integers(0, 5))
def test_the_partition_of_an_instant_holds_its_local_date_less_the_lag(instant, grain, zone, lag):
    partition = partition_for(grain, lag, zone, at=instant)
    local = instant.astimezone(ZoneInfo(zone)).date()
    assert partition == Partition.containing(local, grain).back(lag)
    if lag:
        assert partition.ends_at(zone) <= instant


@given(instant=instants, grain=grains, zone=zones, other=zones)
def test_the_same_instant_written_in_another_zone_is_the_same_partition(
    instant, grain, zone, other
):
    there = instant.astimezone(ZoneInfo(other))
    assert partition_for(grain, 1, zone, at=there) == partition_for(grain, 1, zone, at=instant)


@given(day=days, grain=grains, zone=zones, lag=st.integers(0, 5))
def test_a_date_that_a_person_asks_for_is_not_moved_by_lag_zone_or_time(day, grain, zone, lag):
    partition = partition_for(grain, lag, zone, explicit=day, at=at("2020-01-01T00:00:00"))
    assert partition == Partition.containing(day, grain)


def test_local_midnight_belongs_to_the_local_day_and_not_to_the_utc_day_before():
    midnight = at("2013-10-22T00:00:00", "Europe/Berlin")
    assert midnight.astimezone(dt.UTC).date() == dt.date(2013, 10, 21)
    assert str(partition_for("day", 0, "Europe/Berlin", at=midnight)) == "2013-10-22"
    assert str(partition_for("day", 1, "Europe/Berlin", at=midnight)) == "2013-10-21"


@pytest.mark.parametrize(
    ("instant", "as_of"),
    [
        # New York leaves summer time on 3 November 2013 at 06:00 UTC: that day has 25 hours.
        ("2013-11-03T03:59:59", "2013-11-02"),
        ("2013-11-03T04:00:00", "2013-11-03"),
        ("2013-11-03T05:30:00", "2013-11-03"),
        ("2013-11-03T06:30:00", "2013-11-03"),
        ("2013-11-04T04:59:59", "2013-11-03"),
        ("2013-11-04T05:00:00", "2013-11-04"),
        # It enters summer time on 10 March 2013 at 07:00 UTC: that day has 23 hours.
        ("2013-03-10T04:59:59", "2013-03-09"),
        ("2013-03-10T05:00:00", "2013-03-10"),
        ("2013-03-11T03:59:59", "2013-03-10"),
        ("2013-03-11T04:00:00", "2013-03-11"),
    ],
)
def test_a_day_lasts_from_local_midnight_to_local_midnight_when_the_clocks_change(instant, as_of):
    assert str(partition_for("day", 0, "America/New_York", at=at(instant))) == as_of


def test_an_hour_that_comes_twice_is_one_day_and_an_hour_that_never_comes_is_no_error():
    twice = dt.datetime(2013, 11, 3, 1, 30, tzinfo=ZoneInfo("America/New_York"))
    for fold in (0, 1):
        partition = partition_for("day", 1, "America/New_York", at=twice.replace(fold=fold))
        assert str(partition) == "2013-11-02"
    never = dt.datetime(2013, 3, 10, 2, 30, tzinfo=ZoneInfo("America/New_York"))
    assert str(partition_for("day", 1, "America/New_York", at=never)) == "2013-03-09"


def test_a_nightly_lag_of_one_never_skips_or_repeats_a_day_over_a_year_of_clock_changes():
    zone = ZoneInfo("Europe/Berlin")
    starts = [
        dt.datetime.combine(dt.date(2013, 1, 1) + dt.timedelta(days=n), dt.time(2, 30), zone)
        for n in range(366)
    ]
    partitions = [partition_for("day", 1, "Europe/Berlin", at=start) for start in starts]
    assert [str(p) for p in partitions] == [
        str(dt.date(2012, 12, 31) + dt.timedelta(days=n)) for n in range(366)
    ]


def test_the_end_of_a_partition_is_local_midnight_on_both_sides_of_the_clock_change():
    before = Partition.containing(dt.date(2013, 11, 2), "day").ends_at("America/New_York")
    after = Partition.containing(dt.date(2013, 11, 3), "day").ends_at("America/New_York")
    utc = [moment.astimezone(dt.UTC) for moment in (before, after)]
    assert utc[1] - utc[0] == dt.timedelta(hours=25)


def test_the_month_before_a_long_month_is_the_short_one():
    at_the_end = at("2024-03-31T12:00:00")
    assert str(partition_for("month", 1, "UTC", at=at_the_end)) == "2024-02-29"
    assert str(partition_for("month", 13, "UTC", at=at_the_end)) == "2023-02-28"


@pytest.mark.parametrize("moment", [None, dt.datetime(2013, 10, 1)])
def test_without_a_date_or_a_time_with_a_zone_the_run_is_refused(moment):
    with pytest.raises(PermanentError, match="Pass a partition date"):
        partition_for("day", 0, "UTC", at=moment)
