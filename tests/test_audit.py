"""What a version must hold before it is published."""

from __future__ import annotations

import datetime as dt
import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include import storage
from include.audit import Audited, AuditFailed, HeldForApproval, audit, require
from include.config import Audit as Rules
from include.run import Check, Column
from include.score_shift import Reference, ShiftCounter, decile_edges
from include.stores import VersionManifest
from include.stores.delta import Table
from tests.staged_versions import DAY, rows_of, snapshot_of, write_version

YESTERDAY = DAY - dt.timedelta(days=1)


@pytest.fixture
def store(tmp_path: Path) -> Table:
    return Table((tmp_path / "predictions").as_uri())


def audited(
    manifest: VersionManifest,
    *,
    rules: Rules | None = None,
    output: str = "probability",
    reference: Reference | None = None,
) -> Audited:
    return audit(manifest, snapshot_of(manifest), rules or Rules(), output, reference)


def failing(result: Audited) -> dict[str, str]:
    return {check.name: check.message for check in result.checks if not check.passed}


def check_of(result: Audited, name: str) -> Check:
    (check,) = (check for check in result.checks if check.name == name)
    return check


def reference(scores: Any, *, as_of: dt.date = YESTERDAY) -> Reference:
    return Reference(as_of=as_of, version="vbefore", scores=np.asarray(scores, dtype=float))


def test_a_sound_version_passes_every_check(store: Table) -> None:
    manifest = write_version(store, "v1", rows_of(30))
    result = audited(manifest)
    assert failing(result) == {}
    assert [check.name for check in result.checks] == [
        "parts",
        "rows",
        "keys",
        "lineage",
        "scores",
        "score_range",
        "score_shift",
    ]
    assert check_of(result, "rows").message == "30 rows in = 30 scored + 0 set aside"
    assert check_of(result, "score_shift").message == "no earlier version to compare with"
    require(result, manifest)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("gone", "part 1 is gone"),
        ("flipped bit", "part 1 is not the file that was scored"),
        ("another part", "part 1 is not the file that was scored"),
        ("truncated, receipt too", "part 1 is no Parquet file"),
    ],
)
def test_a_damaged_part_is_found(store: Table, fault: str, message: str) -> None:
    manifest = write_version(store, "v1", rows_of(30))
    part = manifest.parts[1]
    content = bytearray(storage.read(part.uri))
    if fault == "gone":
        storage.delete([part.uri])
    elif fault == "flipped bit":
        content[len(content) // 2] ^= 1
        storage.write(part.uri, bytes(content))
    elif fault == "another part":
        storage.write(part.uri, storage.read(manifest.parts[2].uri))
    else:
        cut = bytes(content[: len(content) // 2])
        storage.write(part.uri, cut)
        receipt = part.model_copy(update={"digest": hashlib.sha256(cut).hexdigest()})
        manifest = manifest.model_copy(
            update={"parts": (manifest.parts[0], receipt, manifest.parts[2])}
        )
    found = failing(audited(manifest))
    assert list(found) == ["parts"]
    assert message in found["parts"]
    with pytest.raises(AuditFailed, match=message):
        require(audited(manifest), manifest)


def test_a_part_of_other_columns_is_found(store: Table) -> None:
    manifest = write_version(store, "v1", rows_of(30))
    other = manifest.columns[0].model_copy(update={"type": "string"})
    manifest = manifest.model_copy(update={"columns": (other, *manifest.columns[1:])})
    assert "has the columns" in failing(audited(manifest))["parts"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows_in": 31}, "rows_in is 31 and its parts add up to 30"),
        ({"rows": 29}, "rows is 29 and its parts add up to 30"),
        ({"quarantined": 1}, "quarantined is 1 and its parts add up to 0"),
    ],
    ids=str,
)
def test_rows_in_are_rows_out_and_rows_set_aside(
    store: Table, change: dict[str, int], message: str
) -> None:
    manifest = write_version(store, "v1", rows_of(30))
    snapshot = snapshot_of(manifest)
    claimed = manifest.model_copy(update=change)
    assert message in failing(audit(claimed, snapshot, Rules(), "probability"))["rows"]


def test_a_part_that_lost_rows_on_the_way_is_found(store: Table) -> None:
    manifest = write_version(store, "v1", rows_of(30))
    snapshot = snapshot_of(manifest)
    longer = snapshot.parts[2].model_copy(update={"rows": 12})
    snapshot = snapshot.model_copy(update={"parts": (*snapshot.parts[:2], longer), "rows": 32})
    found = failing(audit(manifest, snapshot, Rules(), "probability"))
    assert "part 2: 12 rows in the snapshot, 10 read, 10 scored, 0 set aside" in found["rows"]


def test_a_part_that_was_never_scored_is_found(store: Table) -> None:
    manifest = write_version(store, "v1", rows_of(30))
    snapshot = snapshot_of(manifest)
    short = manifest.model_copy(update={"parts": manifest.parts[:2], "rows": 20})
    found = failing(audit(short, snapshot, Rules(), "probability"))
    assert "the snapshot has 3 parts, the version receipts for [0, 1]" in found["rows"]


def test_a_version_without_rows_is_not_published(store: Table) -> None:
    manifest = write_version(store, "v1", rows_of(0), parts=1)
    assert failing(audited(manifest)) == {"rows": "not one row was scored"}


def with_keys(store: Table, **keys: pa.Array) -> VersionManifest:
    """A version of three parts whose key columns are `keys`."""
    count = len(next(iter(keys.values())))
    rows = rows_of(count).drop_columns(["id"])
    for position, (name, values) in enumerate(keys.items()):
        rows = rows.add_column(position, name, values)
    return write_version(store, "v1", rows).model_copy(update={"key": tuple(keys)})


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 7, 9], "stands twice"),
        ([1, 2, 3, 3, 5, 6, 7, 8, 9], "stands twice"),  # on either side of two parts
        ([1, 2, 3, 4, None, 6, 7, 8, 9], "null"),
        ([1, 2, 3, 7, 8, 9, 4, 5, 6], "not sorted"),
    ],
    ids=["within a part", "across parts", "null", "parts in another order"],
)
def test_keys_are_unique_and_complete(store: Table, ids: list[Any], message: str) -> None:
    assert message in failing(audited(with_keys(store, id=pa.array(ids, pa.int64()))))["keys"]


def test_a_key_of_several_columns_is_unique_as_a_whole(store: Table) -> None:
    regions = pa.array(["a", "a", "a", "b", "b", "b"])
    days = [dt.date(2026, 1, n) for n in (1, 2, 3, 1, 2, 3)]
    assert failing(audited(with_keys(store, region=regions, day=pa.array(days)))) == {}
    days[4] = days[3]
    assert "keys" in failing(audited(with_keys(store, region=regions, day=pa.array(days))))


@pytest.mark.parametrize("score", [None, float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("output", ["probability", "value"])
def test_a_score_that_is_no_number_is_found(store: Table, score: float | None, output: str) -> None:
    scores: list[float | None] = [0.5] * 30
    scores[17] = score
    manifest = write_version(store, "v1", rows_of(30, scores=scores))  # type: ignore[arg-type]
    result = audited(manifest, output=output)
    assert list(failing(result)) == ["scores"]
    check = check_of(result, "scores")
    assert (check.failing, check.share, check.column) == (1, 1 / 30, "score")


@pytest.mark.parametrize(
    ("output", "bounds", "outside"),
    [
        ("probability", None, 2),
        ("probability", (0.0, 2.0), 1),
        ("value", None, None),
        ("value", (-1.0, 1.0), 1),
    ],
    ids=str,
)
def test_scores_lie_in_their_range(
    store: Table, output: str, bounds: tuple[float, float] | None, outside: int | None
) -> None:
    scores = [0.0, 1.0, 0.5, -0.1, 1.1, 0.2]
    manifest = write_version(store, "v1", rows_of(6, scores=scores))
    result = audited(manifest, output=output, rules=Rules(score_range=bounds))
    found = {check.name: check.failing for check in result.checks}
    assert found.get("score_range") == outside


def test_rows_of_another_run_or_model_are_found(store: Table) -> None:
    rows = rows_of(30)
    mixed = pa.array(["run-1"] * 29 + ["run-0"])
    position = rows.column_names.index("run_id")
    manifest = write_version(store, "v1", rows.set_column(position, "run_id", mixed))
    found = failing(audited(manifest))
    assert list(found) == ["lineage"]
    assert "run_id is 'run-0' in a row, not 'run-1'" in found["lineage"]
    manifest = write_version(store, "v2", rows)
    other = manifest.model_copy(update={"model_digest": "e" * 64})
    assert "model_digest" in failing(audited(other))["lineage"]


def test_a_large_shift_is_held_and_says_how_far_and_against_what(store: Table) -> None:
    random = np.random.default_rng(1)
    before = random.beta(2, 5, 5_000)
    manifest = write_version(store, "v2", rows_of(5_000, scores=random.beta(5, 2, 5_000)))
    result = audited(manifest, reference=reference(before))
    assert list(failing(result)) == ["score_shift"]
    with pytest.raises(HeldForApproval) as held:
        require(result, manifest)
    text = str(pickle.loads(pickle.dumps(held.value)))
    assert "version v2 is held" in text
    assert f"PSI of {result.shift.psi:.3f} from version vbefore of 2026-02-28" in text  # type: ignore[union-attr]
    assert "mean 0.28" in text and "0.71" in text
    assert "max_score_psi = 0.5" in text
    assert "daybreak approve churn --date 2026-03-01 --version v2" in text
    require(audited(manifest, rules=Rules(max_score_psi=20), reference=reference(before)), manifest)


def test_a_broken_version_with_a_shift_is_broken_not_held(store: Table) -> None:
    scores = np.full(3_000, 1.5)
    manifest = write_version(store, "v2", rows_of(3_000, scores=scores))
    result = audited(manifest, reference=reference(np.linspace(0, 1, 3_000)))
    assert set(failing(result)) == {"score_range", "score_shift"}
    with pytest.raises(AuditFailed, match="3000 of 3000 values of score are outside"):
        require(result, manifest)


@given(
    n=st.integers(10, 400),
    m=st.integers(10, 400),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_small_samples_of_one_distribution_are_not_held(n: int, m: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    counter = ShiftCounter(reference(random.beta(2, 5, n)))
    counter.add(random.beta(2, 5, m))
    shift = counter.shift(0.1)
    assert shift is not None
    # At the 99.9 % quantile a few of many samples exceed it; twice it, none does.
    assert shift.psi <= max(0.1, 2 * shift.noise_psi)


def test_the_chance_of_a_false_hold_is_about_one_in_a_thousand() -> None:
    random, held = np.random.default_rng(3), 0
    for _ in range(2_000):
        counter = ShiftCounter(reference(random.random(300)))
        counter.add(random.random(300))
        shift = counter.shift(0.01)
        assert shift is not None
        held += shift.too_large
    assert held <= 10


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([0.3] * 1_000, [0.4] * 1_000),
        ([0.3] * 1_000, [0.2] * 1_000),
        ([0.1] * 900 + [0.9] * 100, [0.05] * 900 + [0.9] * 100),
        ([0.1] * 900 + [0.9] * 100, [0.5] * 900 + [0.9] * 100),
    ],
    ids=["up", "down", "most, down", "most, up"],
)
def test_scores_of_few_values_that_move_are_held(before: list[float], after: list[float]) -> None:
    counter = ShiftCounter(reference(before))
    counter.add(np.array(after))
    assert counter.shift(0.5).too_large  # type: ignore[union-attr]
    same = ShiftCounter(reference(before))
    same.add(np.array(before))
    assert same.shift(0.5).psi == 0  # type: ignore[union-attr]


@given(st.lists(st.floats(-1e300, 1e300), max_size=80))
def test_deciles_have_every_score_in_one_bin(scores: list[float]) -> None:
    values = np.array(scores, dtype=float)
    edges = decile_edges(values)
    assert list(edges) == sorted(set(edges))
    assert len(edges) <= 18
    counter = ShiftCounter(reference(values))
    assert counter.expected.sum() == len(values)


def test_shift_counts_parts_as_it_counts_the_whole(store: Table) -> None:
    random = np.random.default_rng(5)
    scores, before = random.random(999), random.random(500)
    one, three = (
        audited(write_version(store, f"v{n}", rows_of(999, scores=scores), parts=n), reference=ref)
        for n, ref in ((1, reference(before)), (3, reference(before)))
    )
    assert one.shift is not None and three.shift is not None
    assert one.shift.psi == three.shift.psi
    assert one.shift.mean == pytest.approx(three.shift.mean)


def test_the_checks_read_parts_of_pass_through_columns_too(store: Table) -> None:
    rows = rows_of(9, extra={"plan": pa.array(list("abcabcabc"))})
    manifest = write_version(store, "v1", rows)
    assert Column(name="plan", type="string") in manifest.columns
    assert failing(audited(manifest)) == {}
    assert pq.read_schema(storage.local_path(manifest.parts[0].uri)).names[1] == "plan"
