"""Profiles count every row, add up, stay small, and take whatever a column may hold."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.drift.histograms import CATEGORIES, CATEGORY_CHARACTERS, CategoryColumn, NumberColumn
from include.drift.profiles import Profile, Tally, bins_of, merged, profile, training_profile

numbers = st.lists(
    st.one_of(st.none(), st.floats(width=32), st.sampled_from([0.0, -0.0, math.inf, 1e300])),
    max_size=300,
)


def _number(found: Profile, name: str) -> NumberColumn:
    column = found.column(name)
    assert isinstance(column, NumberColumn)
    return column


def _category(found: Profile, name: str) -> CategoryColumn:
    column = found.column(name)
    assert isinstance(column, CategoryColumn)
    return column


@settings(max_examples=200, deadline=None)
@given(values=numbers)
def test_every_row_is_in_one_bin_or_missing(values: list[float | None]) -> None:
    column = _number(profile(pa.table({"x": pa.array(values, pa.float64())})), "x")
    assert column.rows == len(values)
    present = [value for value in values if value is not None and not math.isnan(value)]
    assert column.values == len(present)
    assert column.infinite == sum(math.isinf(value) for value in present)
    for edge, upto in zip(column.edges, np.cumsum(column.counts), strict=False):
        assert upto == sum(value <= edge for value in present)


@settings(max_examples=100, deadline=None)
@given(values=numbers, cut=st.integers(0, 300))
def test_counting_part_by_part_is_counting_at_once(values: list[float | None], cut: int) -> None:
    rows = pa.table({"x": pa.array(values, pa.float64()), "t": [str(v)[:1] for v in values]})
    template = bins_of(rows)
    whole, parts = Tally(template), Tally(template)
    whole.add(rows)
    parts.add(rows.slice(0, cut))
    parts.add(rows.slice(cut))
    a, b = whole.profile(), parts.profile()
    assert [column.counts for column in a.columns] == [column.counts for column in b.columns]
    assert (a.rows, _number(a, "x").limits) == (b.rows, _number(b, "x").limits)


def test_added_profiles_have_the_moments_of_all_rows_together() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(1e6, 3.0, 9_001)
    template = bins_of(pa.table({"x": values}))
    parts = []
    for piece in (values[:10], values[10:4_000], values[4_000:]):
        tally = Tally(template)
        tally.add(pa.table({"x": piece}))
        parts.append(tally.profile())
    together = _number(merged(parts), "x")
    assert together.mean == pytest.approx(values.mean(), rel=1e-12)
    assert together.std == pytest.approx(values.std(), rel=1e-6)
    assert together.limits == (values.min(), values.max())
    assert together.values == len(values)


def test_profiles_of_other_bins_are_not_added() -> None:
    a = profile(pa.table({"x": [1.0, 2.0]}))
    b = profile(pa.table({"x": [1.0, 3.0]}))
    assert a.bins_digest != b.bins_digest
    with pytest.raises(ValueError, match="different bins"):
        merged([a, b])


def test_a_profile_survives_json_whole() -> None:
    rng = np.random.default_rng(2)
    found = profile(
        pa.table(
            {"x": rng.lognormal(size=1_000), "i": rng.integers(0, 3, 1_000), "s": ["é"] * 1_000}
        )
    )
    again = Profile.model_validate_json(found.model_dump_json())
    assert again == found
    assert again.bins_digest == found.bins_digest


def test_forty_columns_take_less_than_200_kilobytes() -> None:
    rng = np.random.default_rng(3)
    n = 20_000
    columns: dict[str, object] = {f"x{i}": rng.lognormal(size=n) * 1234.5678 for i in range(30)}
    columns |= {f"d{i}": rng.integers(0, 48, n) for i in range(5)}
    columns |= {f"c{i}": [f"category number {k}" for k in rng.integers(0, 90, n)] for i in range(5)}
    assert len(profile(pa.table(columns)).model_dump_json()) < 200_000


def test_columns_that_hold_nothing_or_one_thing_or_infinities_are_profiled() -> None:
    rows = pa.table(
        {
            "null": pa.nulls(3),
            "no_number": pa.array([None] * 3, pa.float64()),
            "nan": [math.nan] * 3,
            "constant": [5.0, 5.0, 5.0],
            "infinite": [math.inf, -math.inf, math.inf],
            "huge": [1e308, -1e308, 0.0],
            "flag": [True, False, None],
            "decimal": pa.array([Decimal("1.5"), None, Decimal("2.5")]),
            "big": pa.array([2**63, 1, 2], pa.uint64()),
        }
    )
    found = profile(rows)
    assert [column.name for column in found.columns] == rows.column_names
    assert all(column.rows == 3 for column in found.columns)
    assert _number(found, "constant").std == 0.0
    assert _number(found, "infinite").limits is None
    assert _category(found, "flag").categories == ("false", "true")
    assert profile(rows.slice(0, 0)).rows == 0
    assert merged([found, found]).rows == 6


def test_dates_and_times_are_numbers_of_seconds_in_any_unit() -> None:
    moments = [dt.datetime(2026, 1, day, tzinfo=dt.UTC) for day in (1, 2)] + [None]
    for unit in ("s", "ms", "us", "ns"):
        found = profile(pa.table({"t": pa.array(moments, pa.timestamp(unit, "UTC"))}))
        column = _number(found, "t")
        assert column.kind == "time"
        assert column.limits == (1767225600.0, 1767312000.0)
    days = profile(pa.table({"t": [dt.date(2026, 1, 1), None]}))
    assert _number(days, "t").limits == (1767225600.0, 1767225600.0)


def test_categories_that_the_reference_never_saw_are_counted_as_others() -> None:
    template = bins_of(pa.table({"c": ["a", "b", "a", None]}))
    tally = Tally(template)
    tally.add(pa.table({"c": ["a", "new", None, "newer"]}))
    column = _category(tally.profile(), "c")
    assert (column.categories, column.counts, column.missing) == (("a", "b"), (1, 0, 2), 1)


def test_only_the_most_frequent_categories_have_a_bin_and_very_long_texts_never() -> None:
    names = [f"c{i:03d}" for i in range(100) for _ in range(100 - i)] + ["x" * 5_000] * 1_000
    column = _category(profile(pa.table({"c": names})), "c")
    assert column.categories == tuple(f"c{i:03d}" for i in range(CATEGORIES))
    assert all(len(name) <= CATEGORY_CHARACTERS for name in column.categories)
    assert column.rows == len(names)


def test_dictionaries_and_flags_are_counted_like_the_text_they_stand_for() -> None:
    template = bins_of(pa.table({"c": ["a", "b"], "f": [0.0, 1.0]}))
    tally = Tally(template)
    tally.add(
        pa.table({"c": pa.array(["b", "b", None]).dictionary_encode(), "f": [True, None, True]})
    )
    assert _category(tally.profile(), "c").counts == (0, 2, 0)
    assert sum(_number(tally.profile(), "f").counts) == 2


def test_a_column_that_became_text_is_left_out_and_named() -> None:
    tally = Tally(bins_of(pa.table({"x": [1.0, 2.0], "y": [1.0, 2.0], "z": [1.0, 2.0]})))
    tally.add(pa.table({"x": ["1", "2"], "y": [3.0, 4.0]}))
    found = tally.profile()
    assert [column.name for column in found.columns] == ["y"]
    assert found.left_out == ("x", "z")


def test_columns_without_a_histogram_are_named() -> None:
    assert profile(pa.table({"b": [b"1"], "l": [[1]]})).left_out == ("b", "l")


def test_a_training_profile_holds_the_features_and_the_score() -> None:
    features = pa.table({"x": [1.0, 2.0, 3.0], "c": ["a", "b", None]})
    found = training_profile(features, np.array([0.1, 0.2, 0.3]), "risk")
    assert [column.name for column in found.columns] == ["x", "c", "risk"]
    assert (found.rows, found.score_column) == (3, "risk")
