"""A row on which the model fails costs itself: the others score as if it had not been there."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.errors import PartFailed, PermanentError
from include.poison import described, require_few_failed, scores_without_poison
from include.quarantine import quarantine_table, write_quarantine
from include.run import ModelVersion, Part, Receipt
from include.scoring import ScoringJob

PART = Part(index=3, uri="file:///part", rows=0, bytes=0, digest="")
MODEL = ModelVersion(
    name="m",
    version="1",
    alias=None,
    flavor="sklearn",
    digest="d",
    uri="file:///m",
    mlflow_run_id=None,
    inputs=(),
)


def _job(max_failed: int) -> ScoringJob:
    return ScoringJob(
        pipeline="p",
        as_of=dt.date(2026, 1, 1),
        version="v",
        run_id="r",
        scored_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        model=MODEL,
        output="value",
        key=("id",),
        pass_through=(),
        score_column="score",
        quarantine_uri=None,
        parts_uri="file:///parts",
        receipts_uri="file:///receipts",
        max_failed=max_failed,
    )


class Touchy:
    """Raises on the rows of `raises`, gives NaN for those of `nan`; a sum over all the rows of a
    batch is in the last bits of each score, as in a library that adds in blocks.
    """

    columns: tuple[str, ...] = ("value",)
    releases_gil = True
    device = "cpu"

    def __init__(self, raises: set[int] = frozenset(), nan: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.raises, self.nan, self.calls, self.rows = raises, nan, 0, 0

    def score(self, batch: pa.RecordBatch) -> pa.Array:
        self.calls += 1
        self.rows += batch.num_rows
        values = batch.column("value").to_numpy()
        for value in values:
            if int(value) in self.raises:
                raise ValueError(f"cannot take {int(value)}")
        scores = values + np.sum(np.sqrt(values)) * 1e-12 + len(values) * 1e-9
        return pa.array(np.where(np.isin(values, list(self.nan)), np.nan, scores))


def _rows(count: int) -> pa.Table:
    return pa.table({"id": pa.array(range(count)), "value": pa.array(np.arange(count) * 1.0)})


def _spared(rows: pa.Table, bad: set[int]) -> list[float]:
    """The scores of the others where the bad rows were never there."""
    good = [row for row in range(rows.num_rows) if row not in bad]
    batches = rows.take(good).combine_chunks().to_batches()
    return [score for batch in batches for score in Touchy().score(batch).to_pylist()]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_others_score_as_if_the_bad_rows_had_not_been_there(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 300))
    positions = st.sets(st.integers(0, count - 1), max_size=min(15, count - 1))
    raises, nan = data.draw(positions), data.draw(positions)
    bad = raises | nan
    rows, model = _rows(count), Touchy(raises, nan)
    if len(bad) == count:
        return
    scores, reasons = scores_without_poison(_job(count), PART, rows, model)
    assert scores.to_pylist() == _spared(rows, bad)
    assert set(reasons) == bad
    for row, reason in reasons.items():
        expected = (
            f"the model failed: ValueError: cannot take {row}"
            if row in raises
            else "the model gives nan"
        )
        assert reason == expected


@pytest.mark.parametrize("row", [0, 1, 50_000, 99_998, 99_999])
def test_one_bad_row_among_many_costs_a_logarithm_of_calls(row: int) -> None:
    rows, model = _rows(100_000), Touchy({row})
    scores, reasons = scores_without_poison(_job(1), PART, rows, model)
    assert list(reasons) == [row]
    assert scores.to_pylist() == _spared(rows, {row})
    # The first call, at most two a halving, and the good rows together.
    assert model.calls <= 2 * math.ceil(math.log2(100_000)) + 3
    assert model.rows <= 5 * 100_000


def test_without_bad_rows_the_model_is_asked_once() -> None:
    model = Touchy()
    scores, reasons = scores_without_poison(_job(0), PART, _rows(1000), model)
    assert (model.calls, reasons) == (1, {})
    assert scores.to_pylist() == _spared(_rows(1000), set())


def test_where_no_row_may_fail_the_first_bad_one_is_named_with_the_reason() -> None:
    model = Touchy({700, 40, 900})
    with pytest.raises(PartFailed) as caught:
        scores_without_poison(_job(0), PART, _rows(1000), model)
    assert caught.value.key == "id=40"
    assert caught.value.part == 3
    assert "a row of part 3, first on id=40: ValueError: cannot take 40" in str(caught.value)
    assert "allows none to be left out" in str(caught.value)
    assert model.calls < 25


def test_more_bad_rows_than_allowed_end_the_search_at_once() -> None:
    model = Touchy(set(range(0, 100_000, 2)))
    with pytest.raises(PartFailed, match="on 11 rows or more of part 3, first on id=0"):
        scores_without_poison(_job(10), PART, _rows(100_000), model)
    assert model.calls < 60


def test_a_model_that_fails_on_every_row_is_no_poison_whatever_is_allowed() -> None:
    model = Touchy(set(range(100_000)))
    with pytest.raises(PartFailed, match="on every row of part 3 that was tried.*cannot take 0"):
        scores_without_poison(_job(100_000), PART, _rows(100_000), model)
    assert model.calls < 100


def test_a_part_that_begins_with_many_bad_rows_is_searched_to_its_end() -> None:
    bad = set(range(200))
    scores, reasons = scores_without_poison(_job(500), PART, _rows(5000), Touchy(bad))
    assert set(reasons) == bad
    assert scores.to_pylist() == _spared(_rows(5000), bad)


def test_a_part_of_one_bad_row_has_no_scores_and_one_reason() -> None:
    scores, reasons = scores_without_poison(_job(1), PART, _rows(1), Touchy({0}))
    assert (len(scores), list(reasons)) == (0, [0])


def test_an_error_about_the_columns_is_raised_as_it_is_and_blames_no_row() -> None:
    class Wrong(Touchy):
        def score(self, batch: pa.RecordBatch) -> pa.Array:
            self.calls += 1
            raise PermanentError("the column 'value' is a string")

    model = Wrong()
    with pytest.raises(PermanentError, match="is a string") as caught:
        scores_without_poison(_job(1000), PART, _rows(1000), model)
    assert (caught.value.where, model.calls) == ("part 3", 1)


def test_a_model_that_fails_for_the_number_of_rows_blames_none() -> None:
    class Small(Touchy):
        def score(self, batch: pa.RecordBatch) -> pa.Array:
            if batch.num_rows > 600:
                raise RuntimeError("too many")
            return super().score(batch)

    with pytest.raises(PartFailed, match="1,000 rows of part 3 together.*too many"):
        scores_without_poison(_job(1000), PART, _rows(1000), Small())


def test_a_fault_that_passes_costs_no_row() -> None:
    class Shaky(Touchy):
        def score(self, batch: pa.RecordBatch) -> pa.Array:
            if self.calls == 0:
                self.calls = 1
                raise ConnectionError("gone for a moment")
            return super().score(batch)

    scores, reasons = scores_without_poison(_job(0), PART, _rows(100), Shaky())
    assert (len(scores), reasons) == (100, {})


def test_too_little_memory_is_about_the_part_and_no_row() -> None:
    class Large(Touchy):
        def score(self, batch: pa.RecordBatch) -> pa.Array:
            raise MemoryError

    with pytest.raises(PermanentError, match=r"100 rows of part 3.*snapshot\.part_rows"):
        scores_without_poison(_job(100), PART, _rows(100), Large())


def test_a_reason_is_one_short_line_that_stays_one_reason() -> None:
    text = described(ValueError("a; b\n  c" + "x" * 500))
    assert "\n" not in text
    assert "; " not in text  # reasons of one row are joined by it
    assert len(text) == 200
    assert text.endswith("…")


def _receipt(folder: Path, part: int, failed: int) -> Receipt:
    uri = (folder / f"quarantine-{part}.parquet").as_uri()
    reasons = {row: f"the model failed: ValueError: {part}-{row}" for row in range(failed)}
    write_quarantine(uri, quarantine_table(_rows(50), part, reasons, ["id"]))
    known: dict[str, Any] = {"uri": "u", "quarantined": 0, "bytes": 1, "digest": "d", "seconds": 1}
    return Receipt(
        part=part, rows_in=50, scored=50 - failed, failed=failed, failed_uri=uri, **known
    )


def test_the_allowed_share_holds_over_all_the_parts(tmp_path: Path) -> None:
    receipts = [_receipt(tmp_path, 5, 2), _receipt(tmp_path, 1, 1)]
    require_few_failed(_job(3), receipts)
    with pytest.raises(PermanentError) as caught:
        require_few_failed(_job(2), receipts)
    said = str(caught.value)
    assert "fails on 3 rows of 2 parts" in said
    assert "part 1, id=0: the model failed: ValueError: 1-0; part 5, id=0" in said
