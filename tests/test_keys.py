"""Keys rise strictly over the parts of a snapshot, or the first that does not is named."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.keys import KeyOrder


def first(tables: list[dict[str, list[Any]]], *key: str) -> str | None:
    order = KeyOrder(key)
    found = None
    for columns in tables:
        found = order.first_violation(pa.table(columns))
    return found


def test_rising_keys_are_good_over_any_number_of_parts() -> None:
    assert (
        first([{"a": [1, 1, 2], "b": ["x", "y", "a"]}, {"a": [2, 3], "b": ["b", "a"]}], *"ab")
        is None
    )


def test_a_key_that_stands_twice_is_named_with_its_values() -> None:
    found = first([{"account_id": [17, 17], "channel": ["web", "web"]}], "account_id", "channel")
    assert found == "the key (account_id=17, channel='web') stands twice"


def test_a_duplicate_across_two_parts_is_found() -> None:
    assert first([{"a": [1, 2]}, {"a": []}, {"a": [2, 3]}], "a") == "the key (a=2) stands twice"


def test_rows_out_of_order_are_named() -> None:
    day = dt.date(2013, 1, 2)
    found = first([{"a": [day, dt.date(2013, 1, 1)]}], "a")
    assert found == "the rows are not sorted by key: (a=2013-01-01) follows (a=2013-01-02)"


@pytest.mark.parametrize("column", [[None, 1], [1, None], [1, None, 0], [1.0, float("nan")]])
def test_a_key_without_a_value_is_named_before_what_follows_it(column: list[Any]) -> None:
    assert str(first([{"a": column}], "a")).startswith("a key is null: (a=")


def test_the_earlier_of_two_violations_is_the_answer_and_stays_it() -> None:
    order = KeyOrder(("a",))
    assert order.first_violation(pa.table({"a": [5, 5, None]})) == "the key (a=5) stands twice"
    assert order.first_violation(pa.table({"a": [9]})) == "the key (a=5) stands twice"


def test_a_type_without_an_order_is_no_key() -> None:
    assert "has no order" in str(first([{"a": [[1], [2]]}], "a"))


def test_texts_compare_by_their_bytes_also_as_dictionaries() -> None:
    texts = ["Z", "a", "é", "ａ", "𐀀"]  # UTF-16 would put the last one before the one before it
    assert first([{"a": texts}], "a") is None
    assert (
        KeyOrder(("a",)).first_violation(pa.table({"a": pa.array(texts).dictionary_encode()}))
        is None
    )


KEYS = st.lists(st.tuples(st.integers(-3, 3), st.text("aé𐀀Z", max_size=2)), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


@settings(deadline=None)
@given(rows=KEYS, cut=st.integers(0, 12))
def test_what_duckdb_sorted_is_sorted_and_every_duplicate_is_found(
    database: duckdb.DuckDBPyConnection, rows: list[tuple[int, str]], cut: int
) -> None:
    table = pa.table({"a": [row[0] for row in rows], "b": [row[1] for row in rows]})
    database.register("rows", table)
    ordered = database.sql("SELECT a, b FROM rows ORDER BY a, b").to_arrow_table()
    order = KeyOrder(("a", "b"))
    order.first_violation(ordered.slice(0, cut))
    found = order.first_violation(ordered.slice(cut))
    assert (found is not None) == (len(set(rows)) < len(rows))
    assert found is None or found.endswith("stands twice")


@settings(deadline=None)
@given(rows=KEYS, cut=st.integers(0, 12))
def test_any_order_but_the_right_one_is_refused(rows: list[tuple[int, str]], cut: int) -> None:
    table = pa.table({"a": [row[0] for row in rows], "b": [row[1] for row in rows]})
    order = KeyOrder(("a", "b"))
    order.first_violation(table.slice(0, cut))
    found = order.first_violation(table.slice(cut))
    coded = [(number, text.encode()) for number, text in rows]
    assert (found is None) == all(x < y for x, y in itertools.pairwise(coded))
