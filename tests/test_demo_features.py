"""The features of the example pipelines: right, known in time, and let through by their suites."""

from __future__ import annotations

import datetime as dt
import itertools
import statistics
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from demo import customer_churn, flight_delay
from include.gates.suite import load_suite
from include.gates.validation import columns_read, validate
from include.partition import Partition
from tests.demo_world import (
    Change,
    asked,
    customers_of,
    flights_of,
    local,
    opened,
    pipeline,
    rows,
)

pytest_plugins = ("tests.demo_fixtures",)

DAY = dt.date(2013, 7, 10)
MONTH_END = dt.date(1998, 3, 31)

# The features of the weather and what they are called in the warehouse.
WEATHER = {
    "temperature_f": "temp",
    "dew_point_f": "dewp",
    "humidity_percent": "humid",
    "wind_direction_degrees": "wind_dir",
    "wind_speed_mph": "wind_speed",
    "wind_gust_mph": "wind_gust",
    "precipitation_in": "precip",
    "pressure_mbar": "pressure",
    "visibility_miles": "visib",
}


# Flights


def test_the_flights_key_is_unique_over_the_whole_year(loaded: Path) -> None:
    key = ", ".join(pipeline("flight_delay").config.key)
    found = asked(loaded, f"SELECT count(*), count(DISTINCT ({key})) FROM flights")
    assert found == [(336_776, 336_776)]


@pytest.mark.parametrize("day", [dt.date(2013, 2, 9), DAY, dt.date(2013, 11, 3)])
def test_every_scheduled_flight_of_the_day_is_there_once_cancelled_ones_too(
    loaded: Path, day: dt.date
) -> None:
    found = flights_of(loaded, day)
    expected = asked(
        loaded,
        f"""
        SELECT scheduled_at, carrier, flight, origin FROM flights
        WHERE flight_date = '{day}' ORDER BY ALL
        """,
    )
    assert list(zip(*(found[name].to_pylist() for name in flight_key()), strict=True)) == expected
    assert asked(
        loaded, f"SELECT count(*) FROM flights WHERE flight_date = '{day}' AND dep_time IS NULL"
    ) > [(0,)]


def flight_key() -> tuple[str, ...]:
    return pipeline("flight_delay").config.key


@pytest.mark.parametrize("day", [dt.date(2013, 3, 8), DAY, dt.date(2013, 11, 3)])
def test_no_flight_feature_knows_how_its_day_went_or_what_came_after_it(
    loaded: Path, changed: Change, day: dt.date
) -> None:
    after = day + dt.timedelta(days=1)
    outcomes = """
        dep_time = 1, dep_delay = 999, arr_time = 2, air_time = 3,
        arr_delay = CASE WHEN flight % 3 = 0 THEN NULL ELSE flight END
    """
    weather = ", ".join(f"{name} = -999" for name in WEATHER.values())
    scrambled = changed(
        f"UPDATE flights SET {outcomes} WHERE flight_date >= '{day}'",
        f"UPDATE weather SET {weather} WHERE observed_at >= TIMESTAMP '{after} 00:00'",
    )
    deleted = changed(
        f"DELETE FROM flights WHERE flight_date > '{day}'",
        f"UPDATE flights SET dep_time = NULL, arr_delay = NULL WHERE flight_date = '{day}'",
        f"DELETE FROM weather WHERE observed_at >= TIMESTAMP '{after} 00:00'",
        "DELETE FROM purchases",
    )
    known = flights_of(loaded, day)
    assert flights_of(scrambled, day).equals(known)
    assert flights_of(deleted, day).equals(known)


def test_a_flights_weather_is_that_of_its_origin_and_hour_and_of_none_after_it(
    loaded: Path, changed: Change
) -> None:
    noon = local(f"{DAY} 12:00")
    other = changed(
        "UPDATE weather SET temp = 0, wind_speed = 99 "
        f"WHERE origin = 'JFK' AND observed_at >= TIMESTAMP '{noon}'"
    )
    before, after = flights_of(loaded, DAY).to_pylist(), flights_of(other, DAY).to_pylist()
    assert len(before) == len(after)
    for one, same in zip(before, after, strict=True):
        if one["origin"] == "JFK" and one["scheduled_at"] >= noon:
            assert (same["temperature_f"], same["wind_speed_mph"]) == (0, 99)
        else:
            assert same == one

    observed = {
        tuple(row[:2]): row[2:]
        for row in asked(
            loaded, f"SELECT origin, observed_at, {', '.join(WEATHER.values())} FROM weather"
        )
    }
    for row in before:
        hour = row["scheduled_at"].replace(minute=0)
        assert row["weather_observed_at"] == hour
        assert tuple(row[name] for name in WEATHER) == observed[row["origin"], hour]


def test_an_hour_that_the_weather_feed_left_out_has_the_weather_of_the_hour_before(
    loaded: Path, changed: Change
) -> None:
    other = changed(f"DELETE FROM weather WHERE observed_at = TIMESTAMP '{DAY} 12:00'")
    noon = [row for row in flights_of(other, DAY).to_pylist() if row["scheduled_at"].hour == 12]
    assert noon
    assert {row["weather_observed_at"] for row in noon} == {local(f"{DAY} 11:00")}


def test_flight_features_do_know_yesterdays_results(loaded: Path, changed: Change) -> None:
    yesterday = DAY - dt.timedelta(days=1)
    other = changed(f"UPDATE flights SET arr_delay = 0 WHERE flight_date = '{yesterday}'")
    before, after = flights_of(loaded, DAY), flights_of(other, DAY)
    differ = {name for name in before.column_names if not before[name].equals(after[name])}
    assert {"carrier_late_share_1d", "origin_late_share_28d", "route_late_share_28d"} <= differ
    assert not differ & {"departure_minute", "plane_seats", "tailnum", *WEATHER}


def test_a_query_over_weeks_gives_each_flight_what_its_own_days_query_gives(loaded: Path) -> None:
    """So training, which asks for months, is trained on what serving will ask for."""
    start, days = dt.date(2013, 2, 6), 7
    together = flights_of(loaded, start, start + dt.timedelta(days=days))
    apart = [flights_of(loaded, start + dt.timedelta(days=number)) for number in range(days)]
    assert together.combine_chunks().equals(pa.concat_tables(apart).combine_chunks())


def test_training_rows_are_the_servings_rows_with_their_outcome(loaded: Path) -> None:
    one = pipeline("flight_delay")
    with opened(loaded) as source:
        training = flight_delay.read(one, source, DAY, DAY + dt.timedelta(days=1))
    assert training.drop_columns(["arr_delay"]).equals(flights_of(loaded, DAY))
    late = flight_delay.late(training)
    assert late.sum() == pc.sum(pc.greater_equal(training["arr_delay"], 15)).as_py() > 0


def test_the_same_day_is_the_same_rows_however_many_threads_read_it(loaded: Path) -> None:
    one = pipeline("flight_delay")
    found = []
    for threads in (1, 2, 4):
        with opened(loaded) as source:
            source._connection.execute(f"SET threads = {threads}")
            params = {"partition_start": DAY, "partition_end": DAY + dt.timedelta(days=1)}
            found.append(source.read(one.sql, params, one.config.key).read_all())
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])


def test_on_time_records_count_arrivals_of_the_days_before_and_no_cancelled_flight(
    loaded: Path,
) -> None:
    """Counted again in plain Python, from the flights alone."""
    history = asked(
        loaded,
        f"""
        SELECT carrier, origin, dest, flight_date, arr_delay FROM flights
        WHERE flight_date >= DATE '{DAY}' - 28 AND flight_date < '{DAY}'
        """,
    )
    assert sum(delay is None for *_, delay in history) > 100

    def late_share(days: int, position: int, name: str) -> float | None:
        first = DAY - dt.timedelta(days=days)
        delays = [
            row[4]
            for row in history
            if row[4] is not None and row[3] >= first and row[position] == name
        ]
        return sum(delay >= 15 for delay in delays) / len(delays) if delays else None

    for row in flights_of(loaded, DAY).to_pylist()[::60]:
        carrier, origin, dest = row["carrier"], row["origin"], row["dest"]
        for days in (1, 7, 28):
            assert row[f"carrier_late_share_{days}d"] == pytest.approx(late_share(days, 0, carrier))
            assert row[f"origin_late_share_{days}d"] == pytest.approx(late_share(days, 1, origin))
        route = [one for one in history if one[1:3] == (origin, dest)]
        arrived = [one[4] for one in route if one[4] is not None]
        assert row["route_arrivals_28d"] == len(arrived)
        if arrived:
            assert row["route_mean_delay_minutes_28d"] == pytest.approx(statistics.mean(arrived))
            assert row["route_cancelled_share_28d"] == pytest.approx(1 - len(arrived) / len(route))


def test_on_the_first_day_of_the_data_there_is_no_record_and_no_nan(loaded: Path) -> None:
    first = flights_of(loaded, dt.date(2013, 1, 1))
    assert first["carrier_late_share_28d"].null_count == first.num_rows == 842
    assert pc.sum(first["route_arrivals_28d"]).as_py() == 0
    for name, column in zip(first.column_names, first.columns, strict=True):
        if pa.types.is_floating(column.type):
            assert not pc.any(pc.is_nan(column)).as_py(), name


# Customers


def test_no_customer_feature_knows_a_purchase_after_the_month(
    loaded: Path, changed: Change
) -> None:
    blinded = changed(f"DELETE FROM purchases WHERE purchased_on > '{MONTH_END}'")
    assert customers_of(blinded, MONTH_END).equals(customers_of(loaded, MONTH_END))


def test_customer_features_are_what_their_names_say(loaded: Path) -> None:
    """Counted again in plain Python, from the purchases alone."""
    purchases: dict[int, list[tuple[dt.date, int, float]]] = {}
    for customer, day, cds, amount in asked(
        loaded,
        f"SELECT * FROM purchases WHERE purchased_on <= '{MONTH_END}' AND customer_id % 50 = 7",
    ):
        purchases.setdefault(customer, []).append((day, cds, float(amount)))
    found = [
        row for row in customers_of(loaded, MONTH_END).to_pylist() if row["customer_id"] % 50 == 7
    ]
    assert len(found) == len(purchases) > 400
    for row in found:
        orders = purchases[row["customer_id"]]
        days = sorted({day for day, _, _ in orders})
        gaps = [(after - before).days for before, after in itertools.pairwise(days)]
        amounts = [amount for _, _, amount in orders]
        recent = [o for o in orders if 0 <= (MONTH_END - o[0]).days < 90]
        earlier = [o for o in orders if 90 <= (MONTH_END - o[0]).days < 180]
        expected = {
            "customer_id": row["customer_id"],
            "last_purchase_at": dt.datetime.combine(days[-1], dt.time()),
            "recency_days": (MONTH_END - days[-1]).days,
            "tenure_days": (MONTH_END - days[0]).days,
            "purchase_days": len(days),
            "orders": len(orders),
            "cds": sum(cds for _, cds, _ in orders),
            "amount_dollars": sum(amounts),
            "mean_order_dollars": statistics.mean(amounts),
            "largest_order_dollars": max(amounts),
            "last_amount_dollars": sum(amount for day, _, amount in orders if day == days[-1]),
            "mean_interval_days": statistics.mean(gaps) if gaps else None,
            "sd_interval_days": statistics.stdev(gaps) if len(gaps) > 1 else None,
            "intervals_overdue": (
                (MONTH_END - days[-1]).days / statistics.mean(gaps) if gaps else None
            ),
            "purchase_days_90d": len({day for day, _, _ in recent}),
            "purchase_days_prior_90d": len({day for day, _, _ in earlier}),
            "amount_dollars_90d": sum(amount for _, _, amount in recent),
            "amount_dollars_prior_90d": sum(amount for _, _, amount in earlier),
        }
        for name, value in expected.items():
            if isinstance(value, float):
                assert row[name] == pytest.approx(value, abs=1e-9), name
            else:
                assert row[name] == value, name
        assert set(expected) == set(row)


def test_who_buys_within_ninety_days_has_not_churned(loaded: Path) -> None:
    one = pipeline("customer_churn")
    with opened(loaded) as source:
        training = customer_churn.read(one, source, customer_churn.VALIDATION)
    as_of = customer_churn.VALIDATION
    buyers = {
        customer
        for customer, days in asked(
            loaded,
            f"""
            SELECT customer_id, date_diff('day', DATE '{as_of}', purchased_on) FROM purchases
            WHERE purchased_on > '{as_of}'
            """,
        )
        if days <= 90
    }
    assert len(buyers) > 1_000
    churned = dict(
        zip(training["customer_id"].to_pylist(), training["churned"].to_pylist(), strict=True)
    )
    assert {customer for customer, lost in churned.items() if not lost} == buyers


def test_churn_labels_of_training_are_known_before_the_held_out_month_and_in_the_data() -> None:
    window = dt.timedelta(days=customer_churn.WINDOW_DAYS)
    assert max(customer_churn.TRAINING) + window <= customer_churn.VALIDATION
    assert customer_churn.VALIDATION + window <= dt.date(1998, 6, 30)


# The suites


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("flight_delay", dt.date(2013, 2, 9)),  # after a blizzard: 393 of 684 flights cancelled
        ("flight_delay", dt.date(2013, 3, 7)),  # the largest share of odd aircraft
        ("flight_delay", dt.date(2013, 7, 27)),  # a flight of 17 miles
        ("flight_delay", dt.date(2013, 10, 1)),
        ("flight_delay", dt.date(2013, 12, 30)),  # the last weather, of 18:00
        ("flight_delay", dt.date(2013, 11, 28)),  # Thanksgiving, the fewest flights
        ("flight_delay", dt.date(2013, 12, 25)),
        ("customer_churn", dt.date(1998, 1, 31)),
        ("customer_churn", dt.date(1998, 6, 30)),
    ],
)
def test_the_suites_let_real_days_through_and_set_a_few_rows_aside(
    loaded: Path, name: str, day: dt.date
) -> None:
    config = pipeline(name).config
    partition = Partition.containing(day, config.partition.grain)
    table = rows(loaded, name, partition)
    assert config.gate.min_rows <= table.num_rows <= (config.gate.max_rows or table.num_rows)
    outcomes = judged(name, table)
    failed = [one.check for one in outcomes if not one.check.passed]
    assert {check.severity for check in failed} <= {"warning", "info"}, failed
    aside = {int(row) for one in outcomes if one.check.quarantines for row in one.failing}
    assert 0 < len(aside) <= config.gate.max_quarantined_share * table.num_rows
    freshness = config.gate.freshness
    assert freshness is not None
    newest = pc.max(table[freshness.column]).as_py()
    end = dt.datetime.combine(partition.end, dt.time())
    assert end - newest <= dt.timedelta(hours=freshness.max_age_hours)


def judged(name: str, table: pa.Table) -> list[Any]:
    one = pipeline(name)
    suite = load_suite(one.suite)
    columns = [*dict.fromkeys([*columns_read(suite, table.column_names), *one.config.key])]
    return validate(suite, table.select(columns), table.column_names, one.config.key)


def test_the_flight_of_seventeen_miles_and_the_airliner_that_is_a_helicopter_are_set_aside(
    loaded: Path,
) -> None:
    table = flights_of(loaded, dt.date(2013, 7, 27))
    reasons = {
        one.check.column: one.failing
        for one in judged("flight_delay", table)
        if one.check.quarantines
    }
    assert set(reasons) == {"distance_miles", "plane_seats"}
    (short,) = table.take(reasons["distance_miles"]).to_pylist()
    assert (short["origin"], short["dest"], short["distance_miles"]) == ("EWR", "LGA", 17)
    assert max(table["plane_seats"].take(reasons["plane_seats"]).to_pylist()) < 20


def test_a_day_without_an_airport_is_a_critical_failure(loaded: Path, changed: Change) -> None:
    cut = changed(f"DELETE FROM flights WHERE flight_date = '{DAY}' AND origin = 'LGA'")
    outcomes = judged("flight_delay", flights_of(cut, DAY))
    assert [
        one.check.column
        for one in outcomes
        if not one.check.passed and one.check.severity == "critical"
    ] == ["origin"]


def test_on_the_last_day_of_the_year_the_weather_feed_has_stopped(loaded: Path) -> None:
    """The data's own outage: the gate's freshness rule is what stops the run."""
    freshness = pipeline("flight_delay").config.gate.freshness
    assert freshness is not None
    newest = pc.max(flights_of(loaded, dt.date(2013, 12, 31))[freshness.column]).as_py()
    assert newest == local("2013-12-30 18:00")
    assert local("2014-01-01") - newest > dt.timedelta(hours=freshness.max_age_hours)
