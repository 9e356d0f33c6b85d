"""The contract: columns and types of the model, key, row count, freshness, share set aside."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from include.config import Freshness, Gate, PipelineConfig
from include.gates.contract import (
    GateFailed,
    column_checks,
    freshness_check,
    key_check,
    null_checks,
    quarantine_check,
    row_count_check,
)
from include.partition import Partition
from include.run import Check, Column, GateResult, ModelInput

CONFIG = PipelineConfig.model_validate(
    {
        "description": "test",
        "warehouse": {"kind": "duckdb", "connection": "none"},
        "key": ["id"],
        "model": {"name": "m", "output": "value"},
        "predictions": {"pass_through": ["region"]},
    }
)
OWN = [Column(name="id", type="int64"), Column(name="region", type="string")]
DAY = Partition.containing(dt.date(2013, 1, 15), "day")


def fits(needed: str, found: pa.DataType) -> bool:
    inputs = [ModelInput(name="x", type=needed)]
    *_, check = column_checks(CONFIG, inputs, [*OWN, Column(name="x", type=str(found))])
    return check.passed


@pytest.mark.parametrize(
    ("needed", "good", "bad"),
    [
        (
            "double",
            [pa.float64(), pa.float32(), pa.int8(), pa.int32(), pa.uint32()],
            [pa.int64(), pa.uint64(), pa.decimal128(38, 0), pa.string(), pa.bool_()],
        ),
        ("float", [pa.float32(), pa.int16()], [pa.float64(), pa.int32()]),
        ("long", [pa.int64(), pa.int32(), pa.uint32()], [pa.uint64(), pa.float64(), pa.bool_()]),
        ("integer", [pa.int32(), pa.uint16()], [pa.int64(), pa.uint32()]),
        (
            "string",
            [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())],
            [pa.int64(), pa.dictionary(pa.int32(), pa.int64()), pa.list_(pa.string())],
        ),
        ("boolean", [pa.bool_()], [pa.int8(), pa.string()]),
        (
            "datetime",
            [pa.date32(), pa.timestamp("us"), pa.timestamp("ns", tz="UTC")],
            [pa.string(), pa.int64(), pa.time64("us")],
        ),
        ("binary", [pa.binary(), pa.large_binary()], [pa.string()]),
    ],
)
def test_a_column_fits_where_the_models_type_holds_its_every_value(
    needed: str, good: list[pa.DataType], bad: list[pa.DataType]
) -> None:
    assert all(fits(needed, found) for found in good)
    assert not any(fits(needed, found) for found in bad)


def test_a_misfit_names_the_column_both_types_and_the_cast() -> None:
    inputs = [ModelInput(name="distance", type="double"), ModelInput(name="hour", type="long")]
    columns = [*OWN, Column(name="distance", type="decimal128(38, 0)")]
    own, distance, hour = column_checks(CONFIG, inputs, columns)
    assert own.passed
    assert (distance.passed, distance.severity, distance.column) == (False, "critical", "distance")
    assert distance.message == (
        "the snapshot has decimal128(38, 0), the model needs double: "
        "cast it in features.sql, CAST(distance AS DOUBLE)"
    )
    assert hour.message == "the snapshot has no column hour: select it in features.sql"


def test_missing_key_and_pass_through_columns_are_named() -> None:
    own, inputs = column_checks(CONFIG, [], [])
    assert not own.passed
    assert "no id, region" in own.message
    assert inputs.passed
    assert not key_check(CONFIG.key, [], None).passed


def test_a_key_passes_unless_a_violation_was_found() -> None:
    assert key_check(CONFIG.key, OWN, None).passed
    check = key_check(CONFIG.key, OWN, "the key (id=7) stands twice")
    assert (check.passed, check.message) == (False, "the key (id=7) stands twice")


@pytest.mark.parametrize(
    ("rows", "bounds", "passed"),
    [
        (0, {}, False),
        (1, {}, True),
        (9, {"min_rows": 10}, False),
        (10, {"min_rows": 10, "max_rows": 10}, True),
        (11, {"max_rows": 10}, False),
    ],
)
def test_the_number_of_rows_lies_within_its_bounds(
    rows: int, bounds: dict[str, int], passed: bool
) -> None:
    assert row_count_check(rows, Gate(**bounds)).passed is passed


NULLS = pa.table({"id": [1, 2, 3], "hour": [1, None, None], "wind": [None, 1.0, None]})


def nulls(set_aside: list[int], *inputs: ModelInput) -> list[Check]:
    return null_checks(inputs, NULLS, np.array(set_aside, dtype=np.int64), ["id"])


def test_nulls_fail_required_integers_only() -> None:
    hour, wind = ModelInput(name="hour", type="long"), ModelInput(name="wind", type="double")
    [check] = nulls([], hour, wind)
    assert (check.passed, check.column, check.failing, check.share) == (False, "hour", 2, 2 / 3)
    assert check.examples == ("(id=2)", "(id=3)")
    assert "type long cannot be" in check.message
    assert nulls([], hour.model_copy(update={"required": False}), wind) == []


def test_nulls_in_rows_that_are_set_aside_are_not_scored_and_do_not_count() -> None:
    hour = ModelInput(name="hour", type="long")
    assert nulls([1], hour)[0].failing == 1
    assert nulls([1, 2], hour) == []


@pytest.mark.parametrize(
    ("count", "allowed", "passed"),
    [
        (0, 0.0, True),
        (1, 0.0, False),
        (3, 0.1, True),
        (4, 0.1, False),
        (29, 1, True),
        (30, 1, False),
    ],
)
def test_the_share_set_aside_has_a_limit_and_some_row_is_left(
    count: int, allowed: float, passed: bool
) -> None:
    check = quarantine_check(count, 30, Gate(max_quarantined_share=allowed))
    assert check.passed is passed
    assert (check.failing, check.share) == (count, count / 30)


def fresh(values: Any, hours: float = 24, zone: str = "UTC", partition: Partition = DAY) -> Check:
    rule = Freshness(column="at", max_age_hours=hours)
    return freshness_check(rule, values, partition, zone)


def moments(*texts: str | None, unit: str = "us", zone: str | None = None) -> pa.ChunkedArray:
    values = [text and dt.datetime.fromisoformat(text) for text in texts]
    return pa.chunked_array([pa.array(values, pa.timestamp("us"))]).cast(
        pa.timestamp(unit, tz=zone)
    )


def days(*texts: str | None) -> pa.ChunkedArray:
    values = [text and dt.date.fromisoformat(text) for text in texts]
    return pa.chunked_array([pa.array(values, pa.date32())])


@pytest.mark.parametrize(
    ("values", "hours", "zone", "passed"),
    [
        (days("2013-01-01", "2013-01-15", None), 24, "UTC", True),
        (days("2013-01-14"), 24, "UTC", False),
        (days("2013-01-14"), 48, "UTC", True),
        (moments("2013-01-15T23:00"), 1, "UTC", True),
        (moments("2013-01-15T22:59"), 1, "UTC", False),
        (moments("2013-01-15T23:00", unit="ns"), 1, "UTC", True),
        (moments("2013-01-16T00:00"), 1, "UTC", True),
        # A timestamp without a zone is local time, one with a zone is an instant.
        (moments("2013-01-15T23:00"), 1, "America/New_York", True),
        (moments("2013-01-16T04:00", zone="UTC"), 1, "America/New_York", True),
        (moments("2013-01-16T03:59", zone="UTC"), 1, "America/New_York", False),
        (moments("2013-01-15T23:00", zone="UTC"), 1, "Asia/Tokyo", False),
    ],
)
def test_the_newest_value_is_at_most_so_old_at_the_partitions_end(
    values: pa.ChunkedArray, hours: float, zone: str, passed: bool
) -> None:
    check = fresh(values, hours, zone)
    assert check.passed is passed, check.message
    assert check.name == "freshness of at"


@pytest.mark.parametrize(
    ("values", "zone"),
    [
        (days("2013-01-15", "2013-01-16"), "UTC"),
        (moments("2013-01-16T00:01"), "UTC"),
        (moments("2013-01-15T15:01", zone="UTC"), "Asia/Tokyo"),
    ],
)
def test_a_value_after_the_partitions_end_is_a_look_into_the_future(
    values: pa.ChunkedArray, zone: str
) -> None:
    check = fresh(values, zone=zone)
    assert not check.passed
    assert "looks into the future" in check.message


def test_the_day_on_which_clocks_go_forward_has_23_hours() -> None:
    spring = Partition.containing(dt.date(2013, 3, 10), "day")
    values = moments("2013-03-10T00:00")
    assert fresh(values, 23, "America/New_York", spring).passed
    assert not fresh(values, 22.9, "America/New_York", spring).passed


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (None, "no column at"),
        (days(None), "every value is null"),
        (pa.chunked_array([["2013-01-15"]]), "CAST(at AS TIMESTAMP)"),
        (pa.chunked_array([pa.array([2**62], pa.timestamp("us"))]), "no time of this age"),
        (pa.chunked_array([pa.array([2**62], pa.timestamp("s"))]), "no time of this age"),
    ],
)
def test_a_freshness_that_cannot_be_told_fails(values: pa.ChunkedArray | None, said: str) -> None:
    check = fresh(values)
    assert not check.passed
    assert said in check.message


def test_the_failure_names_three_checks_and_where_the_rows_are() -> None:
    checks = [
        Check(name=f"c{n}", passed=n == 0, severity="critical", message=f"m{n}") for n in range(6)
    ]
    checks.append(Check(name="w", passed=False, severity="warning", message="only a warning"))
    result = GateResult(
        passed=False, rows=9, quarantined=1, quarantine_uri="file:///q", checks=tuple(checks)
    )
    error = GateFailed.by(result)
    assert error.found.endswith("nothing was scored: c1: m1; c2: m2; c3: m3; and 2 more")
    assert error.where == "file:///q"
