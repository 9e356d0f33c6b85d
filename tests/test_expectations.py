"""suite.yaml: mistakes are named before the night, and the night's judgement is strict."""

from __future__ import annotations

import datetime as dt
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.errors import BadConfig
from include.gates.quarantine import quarantined
from include.gates.suite import check_suite, load_suite
from include.gates.suite_errors import SQL_ONLY, kinds
from include.gates.validation import Outcome, columns_read, validate
from include.run import Check
from include.yaml_lines import parse_yaml

BETWEEN = "expect_column_values_to_be_between"


def entry(kind: str, severity: str = "critical", note: str = "", **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "severity": severity, "note": note}


def times(*texts: str | None, zone: str | None = None) -> pa.Array:
    return pa.array(
        [text and dt.datetime.fromisoformat(text) for text in texts], pa.timestamp("us")
    ).cast(pa.timestamp("us", tz=zone))


def outcomes(table: pa.Table, *entries: dict[str, Any]) -> list[Outcome]:
    suite = load_suite({"expectations": list(entries)})
    return validate(suite, table, table.column_names, ["id"])


def outcome(table: pa.Table, kind: str, severity: str = "critical", **kwargs: Any) -> Outcome:
    [found] = outcomes(table, entry(kind, severity, **kwargs))
    return found


def rows_of(**columns: Any) -> pa.Table:
    count = len(next(iter(columns.values())))
    return pa.table({"id": pa.array(range(count), pa.int64()), **columns})


def failing(found: Outcome) -> list[int]:
    assert found.failing is not None, found.check.message
    return [int(row) for row in found.failing]


# --- what the author of a suite wrote wrong -------------------------------------------------


def wrong(text: str, tmp_path: Path) -> BadConfig:
    values, lines = parse_yaml(text, tmp_path / "suite.yaml")
    with pytest.raises(BadConfig) as raised:
        check_suite(values, lines=lines, file="flights/suite.yaml")
    return raised.value


@pytest.mark.parametrize(
    ("line", "found", "do"),
    [
        (f"type: {BETWEEN[:-1]}", "no known expectation", f"did you mean '{BETWEEN}'?"),
        ("type: ExpectColumnToExist", "no known expectation", "'expect_column_to_exist'"),
        (
            f"{{type: {BETWEEN}, kwargs: {{column: x, min_valu: 1}}}}",
            f"{BETWEEN} takes no 'min_valu'",
            "did you mean 'min_value'?",
        ),
        (f"{{type: {BETWEEN}, kwargs: {{min_value: 1}}}}", "column: field required", "add column"),
        (
            f"{{type: {BETWEEN}, kwargs: {{column: x}}}}",
            "min_value and max_value cannot both be None",
            "correct kwargs",
        ),
        (
            f"{{type: {BETWEEN}, kwargs: {{column: x, min_value: 1, mostly: 95}}}}",
            "mostly: ensure this value is less than or equal to 1",
            "correct or add mostly",
        ),
        (
            f"{{type: {BETWEEN}, kwargs: {{column: x, min_value: 2, max_value: 1}}}}",
            "min_value (2) is above max_value (1)",
            "exchange them",
        ),
        (
            f"{{type: {BETWEEN}, kwargs: {{column: x, min_value: 2, severity: info}}}}",
            "'severity' does not belong in kwargs",
            "beside kwargs",
        ),
        (
            f"{{type: {BETWEEN}, kwargs: {{column: x, min_value: 2}}, severty: info}}",
            "unknown key 'severty'",
            "did you mean 'severity'?",
        ),
        (
            f"{{type: {BETWEEN}, kwargs: {{column: x, min_value: 2}}, severity: warn}}",
            "unknown severity 'warn'",
            "did you mean 'warning'?",
        ),
        (
            f"{{type: {BETWEEN}, kwargs: {{column: x, min_value: {{$PARAMETER: low}}}}}}",
            "min_value holds a suite parameter",
            "write the value itself",
        ),
        (
            "{type: expect_column_values_to_match_regex, kwargs: {column: x, regex: '('}}",
            "'(' is no regular expression",
            "correct it",
        ),
        (
            "{type: expect_column_values_to_match_like_pattern, kwargs: {column: x}}",
            "runs only in SQL databases",
            "did you mean 'expect_column_values_to_match_regex'?",
        ),
        (
            "{type: expect_column_quantile_values_to_be_between, kwargs: {column: x, "
            "quantile_ranges: {quantiles: [0.1, 0.5], value_ranges: [[0, 1]]}}}",
            "2 quantiles have 1 value_ranges",
            "one range",
        ),
        ("kwargs: {column: x}", "an expectation has no type", "write `type:"),
        ("just text", "is a block of keys, not 'just text'", "write `type:"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_its_remedy(
    line: str, found: str, do: str, tmp_path: Path
) -> None:
    text = (
        f"expectations:\n  - type: {BETWEEN}\n    kwargs: {{column: x, min_value: 0}}\n  - {line}\n"
    )
    error = wrong(text, tmp_path)
    assert found in error.found
    assert do in error.do
    assert error.where == "flights/suite.yaml:4"


def test_every_mistake_of_a_suite_is_named_at_once(tmp_path: Path) -> None:
    text = "expectations:\n  - type: expect_nothing_at_all\n  - type: expect_column_to_exist\n"
    error = wrong(text, tmp_path)
    assert "suite.yaml:2" in str(error)
    assert "suite.yaml:3" in str(error)


@pytest.mark.parametrize("text", ["expectation: []", "{}", "expectations: 3"])
def test_a_file_that_is_no_suite_is_refused(text: str, tmp_path: Path) -> None:
    assert "expectations" in wrong(text, tmp_path).do


def test_without_lines_the_number_of_the_expectation_is_its_place() -> None:
    with pytest.raises(BadConfig, match=r"suite\.yaml, expectation 1"):
        check_suite({"expectations": [{"type": "expect_column_to_exist", "kwargs": {}}]})


def test_a_column_that_the_query_does_not_give_is_named_with_the_nearest() -> None:
    suite = {"expectations": [entry(BETWEEN, column="distanc", min_value=1)]}
    check_suite(suite)
    check_suite(suite, columns=["distanc"])
    with pytest.raises(BadConfig, match="Did you mean 'distance'"):
        check_suite(suite, columns=["id", "distance"])


def test_a_suite_without_expectations_does_not_import_great_expectations() -> None:
    code = (
        "import sys, pyarrow as pa; from include.gates.suite import check_suite, load_suite; "
        "from include.gates.validation import validate; "
        "check_suite({'expectations': []}); validate(load_suite({'expectations': []}), "
        "pa.table({'a': [1]}), ['a'], ['a']); assert 'great_expectations' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_expectations_called_sql_only_are_those_that_pandas_cannot_evaluate() -> None:
    from great_expectations.exceptions import MetricProviderError
    from great_expectations.execution_engine import PandasExecutionEngine
    from great_expectations.expectations.registry import get_metric_provider

    engine, refused = PandasExecutionEngine(), set()
    for name, kind in kinds().items():
        metadata = kind.schema()["properties"]["metadata"]["properties"]
        sources = metadata.get("supported_data_sources", {}).get("const")
        if getattr(kind, "map_metric", None):
            try:
                get_metric_provider(f"{kind.map_metric}.condition", engine)
            except MetricProviderError:
                refused.add(name)
        elif sources is not None and "Pandas" not in sources:
            refused.add(name)
    assert refused == SQL_ONLY


# --- what each severity means ---------------------------------------------------------------

DISTANCES = rows_of(distance=[5, -3, None, 7000, 10])


def test_a_failed_warning_about_rows_names_them_and_sets_them_aside() -> None:
    found = outcome(DISTANCES, BETWEEN, "warning", column="distance", min_value=1, max_value=6000)
    assert failing(found) == [1, 3]
    check = found.check
    assert (check.passed, check.severity, check.quarantines) == (False, "warning", True)
    assert (check.failing, check.share, check.column) == (2, 0.5, "distance")
    assert check.name == f"distance: {BETWEEN}(min_value=1, max_value=6000)"
    assert check.examples == ("(id=1): -3", "(id=3): 7000")


@pytest.mark.parametrize("severity", ["critical", "info"])
def test_only_a_warning_sets_rows_aside(severity: str) -> None:
    found = outcome(DISTANCES, BETWEEN, severity, column="distance", min_value=1)
    assert not found.check.quarantines
    set_aside, positions = quarantined([found], DISTANCES, [5], ["id"])
    assert set_aside.num_rows == len(positions) == 0


def test_rows_that_mostly_tolerates_are_counted_and_stay() -> None:
    found = outcome(DISTANCES, BETWEEN, "warning", column="distance", min_value=1, mostly=0.7)
    assert found.check.passed
    assert found.failing is None
    assert not found.check.quarantines
    assert found.check.failing == 1
    assert "mostly=0.7 allows" in found.check.message


def test_where_mostly_fails_all_the_failing_rows_are_set_aside() -> None:
    found = outcome(
        DISTANCES, BETWEEN, "warning", column="distance", min_value=1, max_value=9, mostly=0.9
    )
    assert failing(found) == [1, 3, 4]


def test_a_failed_warning_about_the_table_is_recorded_with_what_was_observed() -> None:
    found = outcome(
        DISTANCES, "expect_column_max_to_be_between", "warning", column="distance", max_value=100
    )
    assert (found.check.passed, found.check.severity) == (False, "warning")
    assert found.failing is None
    assert found.check.message == "observed 7000"


def test_the_note_of_an_expectation_stands_in_its_message() -> None:
    [found] = outcomes(DISTANCES, entry(BETWEEN, note="ask Ines", column="distance", min_value=1))
    assert found.check.message.endswith("rows fail (ask Ines)")


@pytest.mark.parametrize(
    ("kind", "kwargs", "said"),
    [
        (BETWEEN, {"column": "nope", "min_value": 1}, "no column 'nope'"),
        (BETWEEN, {"column": "ID", "min_value": 1}, "no column 'ID'"),
        (BETWEEN, {"column": "name", "min_value": 1}, "it raised"),
        (BETWEEN, {"column": "id", "min_value": 1, "row_condition": "nope > 1"}, "nope"),
        ("expect_column_max_to_be_between", {"column": "name", "min_value": 1}, "it raised"),
        (
            "expect_column_values_to_not_be_in_set",
            {"column": "id", "value_set": ["1"]},
            "never equals",
        ),
        (
            "expect_column_values_to_not_be_in_set",
            {"column": "name", "value_set": [1]},
            "never equals",
        ),
        (
            "expect_column_values_to_not_be_in_set",
            {"column": "at", "value_set": ["2013-01-01"]},
            "never equals",
        ),
        (
            "expect_column_pair_values_to_be_equal",
            {"column_A": "name", "column_B": "NAME"},
            "differ in case only",
        ),
    ],
)
def test_an_expectation_without_an_answer_is_critical_whatever_its_severity(
    kind: str, kwargs: dict[str, Any], said: str
) -> None:
    moment = times("2013-01-01", zone="UTC")
    table = rows_of(name=["x"], NAME=["y"], at=moment)
    for severity in ("warning", "info"):
        check = outcome(table, kind, severity, **kwargs).check
        assert (check.passed, check.severity, check.quarantines) == (False, "critical", False)
        assert said in check.message


def test_without_any_value_rows_pass_and_say_so_and_aggregates_fail() -> None:
    table = rows_of(x=pa.array([None, None], pa.float64()))
    by_row = outcome(table, BETWEEN, "warning", column="x", min_value=1).check
    assert (by_row.passed, by_row.failing, by_row.share) == (True, 0, 0.0)
    assert "no row has a value" in by_row.message
    largest = outcome(table, "expect_column_max_to_be_between", column="x", min_value=1).check
    assert (largest.passed, largest.message) == (False, "observed nothing: there are no values")


def test_outcomes_keep_the_order_of_the_suite_and_a_twin_has_its_own() -> None:
    twin = entry(BETWEEN, column="distance", min_value=1)
    found = outcomes(
        DISTANCES,
        entry("expect_table_row_count_to_equal", value=5),
        twin,
        entry(BETWEEN, column="id", max_value=9),
        entry(BETWEEN, column="nope", max_value=9),
        twin,
    )
    assert [one.check.passed for one in found] == [True, False, True, False, False]
    assert [one.expected.columns for one in found] == [
        (),
        ("distance",),
        ("id",),
        ("nope",),
        ("distance",),
    ]


# --- the types of a warehouse ---------------------------------------------------------------

BIG = 2**60


@pytest.mark.parametrize(
    ("column", "kwargs", "expected"),
    [
        (pa.array([1, 5, None], pa.int32()), {"max_value": 3}, [1]),
        (pa.array([1, 5, 9], pa.uint64()), {"max_value": 3}, [1, 2]),
        (pa.array([1, 5, None], pa.float32()), {"max_value": 3}, [1]),
        (pa.array([BIG, BIG + 1, None], pa.int64()), {"max_value": BIG}, [1]),
        (
            pa.array([dt.date(2013, 1, 1), dt.date(2013, 1, 9), None]),
            {"max_value": "2013-01-05"},
            [1],
        ),
        (
            times("2013-01-05", "2013-01-05T00:01", None),
            {"max_value": "2013-01-05"},
            [1],
        ),
        (
            times("2013-01-05", "2999-01-05", None),
            {"max_value": "2013-01-05T00:00:00"},
            [1],
        ),
        (
            times("2013-01-05", "2013-01-06", zone="UTC"),
            {"max_value": "2013-01-05T12:00:00Z"},
            [1],
        ),
    ],
)
def test_bounds_hold_for_every_ordered_type(
    column: pa.Array, kwargs: dict[str, Any], expected: list[int]
) -> None:
    found = outcome(rows_of(x=column), BETWEEN, "warning", column="x", **kwargs)
    assert failing(found) == expected


@pytest.mark.parametrize(
    ("column", "allowed"),
    [
        (pa.array(["a", "b", None]), ["a"]),
        (pa.array(["a", "b", None]).dictionary_encode(), ["a"]),
        (pa.array([1, 2, None], pa.int16()), [1]),
        (pa.array([True, False, None]), [True]),
        (pa.array([dt.date(2013, 1, 1), dt.date(2013, 1, 2), None]), ["2013-01-01"]),
        (times("2013-01-01", "2013-01-02", None), ["2013-01-01"]),
    ],
)
def test_sets_hold_for_every_type(column: pa.Array, allowed: list[Any]) -> None:
    table = rows_of(x=column)
    inside = outcome(
        table, "expect_column_values_to_be_in_set", "warning", column="x", value_set=allowed
    )
    assert failing(inside) == [1]
    outside = outcome(
        table, "expect_column_values_to_not_be_in_set", "warning", column="x", value_set=allowed
    )
    assert failing(outside) == [0]


@pytest.mark.parametrize(
    ("kind", "kwargs", "expected"),
    [
        ("expect_column_values_to_not_be_null", {"column": "s"}, [1]),
        ("expect_column_values_to_be_unique", {"column": "s"}, [0, 4]),
        ("expect_column_values_to_match_regex", {"column": "s", "regex": "^.$"}, [2, 3]),
        ("expect_column_value_lengths_to_equal", {"column": "s", "value": 1}, [2, 3]),
        ("expect_column_values_to_be_increasing", {"column": "x"}, [2]),
        (BETWEEN, {"column": "x", "min_value": 2, "row_condition": "id > 1"}, [2]),
        (
            "expect_column_pair_values_a_to_be_greater_than_b",
            {"column_A": "id", "column_B": "x", "ignore_row_if": "either_value_is_missing"},
            [0, 1, 3],
        ),
        ("expect_compound_columns_to_be_unique", {"column_list": ["g", "h"]}, [0, 1]),
        (
            "expect_select_column_values_to_be_unique_within_record",
            {"column_list": ["g", "h"]},
            [0, 1, 4],
        ),
    ],
)
def test_every_kind_of_row_expectation_names_its_rows(
    kind: str, kwargs: dict[str, Any], expected: list[int]
) -> None:
    table = rows_of(
        s=["a", None, "bb", "cc!", "a"], x=[1, 2, 1, 3, None], g=[1, 1, 2, 3, 4], h=[1, 1, 1, 1, 4]
    )
    assert failing(outcome(table, kind, "warning", **kwargs)) == expected


def test_more_failing_rows_than_great_expectations_lists_values_for_are_all_known() -> None:
    table = rows_of(x=pa.array(np.arange(1_000)))
    assert failing(outcome(table, BETWEEN, "warning", column="x", max_value=9)) == list(
        range(10, 1_000)
    )


def test_quantiles_and_other_numbers_are_shown_without_numpy() -> None:
    table = rows_of(x=pa.array(np.arange(101.0)))
    ranges = {"quantiles": [0.1, 0.5], "value_ranges": [[0, 20], [0, 20]]}
    found = outcome(
        table, "expect_column_quantile_values_to_be_between", column="x", quantile_ranges=ranges
    )
    assert found.check.message == "observed {'quantiles': [0.1, 0.5], 'values': [10.0, 50.0]}"
    Check.model_validate_json(found.check.model_dump_json())
    mean = outcome(table, "expect_column_mean_to_be_between", column="x", max_value=1)
    assert mean.check.message == "observed 50.0"


def test_expectations_about_the_table_see_every_column_and_read_none() -> None:
    columns = ["id", "unread", "x"]
    entries = [
        entry("expect_table_columns_to_match_ordered_list", column_list=columns),
        entry("expect_table_column_count_to_equal", value=3),
        entry("expect_table_row_count_to_be_between", max_value=1, row_condition="x > 1"),
        entry("expect_column_to_exist", column="unread"),
        entry("expect_column_to_exist", "info", column="nope"),
    ]
    suite = load_suite({"expectations": entries})
    assert columns_read(suite, columns) == ["x"]
    found = validate(suite, pa.table({"id": [0, 1, 2], "x": [1, 2, 0]}), columns, ["id"])
    assert [one.check.passed for one in found] == [True, True, True, True, False]
    assert found[-1].check.severity == "info"


# --- quarantine -----------------------------------------------------------------------------


def test_a_row_that_fails_twice_stands_once_with_both_reasons() -> None:
    table = pa.table(
        {"id": pa.array([7, 8, 9], pa.int32()), "x": [1, -3, None], "s": ["a", "b'", "a"]}
    )
    found = outcomes(
        table,
        entry(BETWEEN, "warning", column="x", min_value=0),
        entry("expect_column_values_to_be_in_set", "warning", column="s", value_set=["a"]),
        entry("expect_column_values_to_not_be_null", "warning", column="x"),
        entry(
            "expect_column_pair_values_a_to_be_greater_than_b",
            "warning",
            column_A="x",
            column_B="id",
            ignore_row_if="either_value_is_missing",
        ),
    )
    set_aside, positions = quarantined(found, table, [1, 2], ["id"])
    assert positions.tolist() == [0, 1, 2]
    assert set_aside.schema == pa.schema(
        [("part", pa.int32()), ("row", pa.int64()), ("id", pa.int32()), ("reason", pa.string())]
    )
    pair = "x, id: expect_column_pair_values_a_to_be_greater_than_b"
    pair += "(ignore_row_if='either_value_is_missing'), found "
    assert set_aside.to_pydict() == {
        "part": [0, 1, 1],
        "row": [0, 0, 1],
        "id": [7, 8, 9],
        "reason": [
            f"{pair}x=1, id=7",
            f"x: {BETWEEN}(min_value=0), found -3; "
            "s: expect_column_values_to_be_in_set(value_set=['a']), found 'b''; "
            f"{pair}x=-3, id=8",
            "x: expect_column_values_to_not_be_null(), found null",
        ],
    }


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.none() | st.integers(-5, 15), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    low=st.integers(-5, 15),
    width=st.integers(0, 8),
    kind=st.sampled_from([pa.int64(), pa.int8(), pa.float64()]),
)
def test_quarantine_holds_exactly_the_rows_outside_wherever_parts_begin(
    values: list[int | None], cuts: list[int], low: int, width: int, kind: pa.DataType
) -> None:
    table = rows_of(x=pa.array(values, kind))
    found = outcome(table, BETWEEN, "warning", column="x", min_value=low, max_value=low + width)
    bounds = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    part_rows = [end - start for start, end in itertools.pairwise(bounds)]
    set_aside, positions = quarantined([found], table, part_rows, ["id"])

    outside = [
        row
        for row, value in enumerate(values)
        if value is not None and not low <= value <= low + width
    ]
    assert set_aside["id"].to_pylist() == positions.tolist() == outside
    assert found.check.failing == len(outside)
    starts = bounds[:-1]
    places = zip(set_aside["part"].to_pylist(), set_aside["row"].to_pylist(), strict=True)
    rebuilt = []
    for part, row in places:
        assert 0 <= row < part_rows[part]
        rebuilt.append(starts[part] + row)
    assert rebuilt == outside
