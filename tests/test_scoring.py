"""score: every row of the snapshot, once, with the planned model; finished parts are kept."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include import storage
from include.errors import CorruptData, PermanentError
from include.models.pinned import local_model
from include.run import GateResult, Part, Run, Scored, Snapshot, StepRecord
from include.scoring import ScoringJob, load_job, open_job, receipts, score_part, version_id
from include.snapshots import load_manifest, read_part
from include.workspace import Workspace
from tasks.extract import extract
from tasks.plan import plan
from tasks.score import score
from tests.world import FEATURES, REGIONS, ROWS, World

COLUMNS = [
    "account_id",
    "channel",
    "region",
    "churn_probability",
    "model_name",
    "model_version",
    "model_digest",
    "run_id",
    "scored_at",
]


@dataclass(frozen=True)
class Extracted:
    run: Run
    snapshot: Snapshot
    gate: GateResult

    @property
    def parts(self) -> tuple[Part, ...]:
        return load_manifest(self.snapshot).parts

    def score(self) -> Scored:
        return score(self.run, self.snapshot, self.gate)


def _extracted(world: World, run: str = "test") -> Extracted:
    planned = plan(world.request(run=run))
    snapshot = extract(planned)
    gate = GateResult(
        passed=True, rows=snapshot.rows, quarantined=0, quarantine_uri=None, checks=()
    )
    return Extracted(planned, snapshot, gate)


def _setting_aside(there: Extracted, world: World, rows: list[tuple[int, int]]) -> Extracted:
    """The same, with these (part, position) in a quarantine file as the gate writes it."""
    file = world.home / "quarantine.parquet"
    keys = {part.index: read_part(part, ["account_id", "channel"]) for part in there.parts}
    table = pa.table(
        {
            "part": pa.array([part for part, _ in rows], pa.int32()),
            "row": pa.array([row for _, row in rows], pa.int64()),
            "account_id": pa.array([keys[p]["account_id"][r].as_py() for p, r in rows]),
            "channel": pa.array([keys[p]["channel"][r].as_py() for p, r in rows]),
            "reason": pa.array(["balance below zero"] * len(rows)),
        }
    )
    pq.write_table(table, file, compression="zstd")
    gate = there.gate.model_copy(update={"quarantined": len(rows), "quarantine_uri": file.as_uri()})
    return Extracted(there.run, there.snapshot, gate)


def _files(job: ScoringJob) -> dict[str, bytes]:
    return {entry.uri: storage.read(entry.uri) for entry in storage.entries(job.parts_uri)}


def _table(job: ScoringJob) -> pa.Table:
    return pa.concat_tables(
        pq.read_table(pa.BufferReader(storage.read(receipt.uri))) for receipt in receipts(job)
    )


def test_every_row_is_scored_by_the_planned_model_and_says_so(tiny: World) -> None:
    there = _extracted(tiny)
    scored = there.score()
    assert (scored.rows_in, scored.scored, scored.quarantined) == (ROWS, ROWS, 0)
    assert (scored.parts, scored.reused_parts) == (3, 0)

    job = load_job(scored.uri)
    rows = _table(job)
    source = pa.concat_tables(read_part(part) for part in there.parts)
    assert rows.column_names == COLUMNS
    for name in ("account_id", "channel", "region"):
        assert rows[name].type == source[name].type
        assert rows[name].combine_chunks().equals(source[name].combine_chunks())
    assert rows["scored_at"].type == pa.timestamp("us", "UTC")
    assert rows.select(COLUMNS[4:8]).slice(0, 1).to_pylist() == [
        {
            "model_name": "tiny-churn",
            "model_version": "1",
            "model_digest": there.run.model.digest,
            "run_id": there.run.run_id,
        }
    ]

    booster = lightgbm.Booster(model_file=str(local_model(there.run.model) / "model.lgb"))
    frame = source.select(list(FEATURES)).to_pandas()
    frame["region"] = frame["region"].astype("category").cat.set_categories(list(REGIONS))
    assert rows["churn_probability"].to_numpy().tolist() == booster.predict(frame).tolist()


def test_scoring_again_scores_nothing_again(tiny: World) -> None:
    there = _extracted(tiny)
    first = there.score()
    before = {uri: storage.local_path(uri) for uri in _files(load_job(first.uri))}
    times = {uri: path.stat().st_mtime_ns for uri, path in before.items() if path}
    again = there.score()
    assert again == first.model_copy(update={"reused_parts": 3})
    assert {uri: path.stat().st_mtime_ns for uri, path in before.items() if path} == times


@pytest.mark.parametrize("fault", ["no receipt", "no file", "a shorter file"])
def test_a_part_without_a_trusted_receipt_is_scored_again_to_the_same_bytes(
    tiny: World, fault: str
) -> None:
    there = _extracted(tiny)
    job = load_job(there.score().uri)
    before = _files(job)
    receipt = storage.local_path(job.receipt_uri(1))
    file = storage.local_path(receipts(job)[1].uri)
    assert receipt is not None
    assert file is not None
    if fault == "no receipt":
        receipt.unlink()
    elif fault == "no file":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-100])
    assert [found.part for found in receipts(job)] == [0, 2]
    assert there.score().reused_parts == 2
    assert _files(job) == before


def test_a_later_run_of_the_same_inputs_keeps_the_first_ones_name_and_time(tiny: World) -> None:
    first = _extracted(tiny, "a").score()
    job = load_job(first.uri)
    Path(str(storage.local_path(job.receipt_uri(0)))).unlink()
    later = _extracted(tiny, "b").score()
    assert later.uri == first.uri
    assert load_job(later.uri) == job
    assert set(_table(job)["run_id"].to_pylist()) == {"cli-a"}


def test_the_bytes_do_not_depend_on_how_many_workers_wrote_them(tiny: World) -> None:
    there = _extracted(tiny)
    job = load_job(there.score().uri)
    before = _files(job)
    storage.delete([*before, *(job.receipt_uri(part.index) for part in there.parts)])
    tiny.configure({"engine": {"workers": 3}})
    again = _extracted(tiny, "other")
    # The engine shapes no row: it is the same version.
    assert again.score().version == job.version
    assert _files(job) == before


def test_quarantined_rows_are_left_out_and_accounted_for(tiny: World) -> None:
    whole = _extracted(tiny)
    there = _setting_aside(whole, tiny, [(0, 0), (0, 99), (2, 7)])
    scored = there.score()
    assert (scored.rows_in, scored.scored, scored.quarantined) == (ROWS, ROWS - 3, 3)
    job = load_job(scored.uri)
    assert [(r.scored, r.quarantined) for r in receipts(job)] == [(98, 2), (100, 0), (99, 1)]
    keys = pa.concat_tables(read_part(part, ["account_id", "channel"]) for part in there.parts)
    expected = [row for at, row in enumerate(keys.to_pylist()) if at not in (0, 99, 207)]
    assert _table(job).select(["account_id", "channel"]).to_pylist() == expected


def test_a_part_whose_rows_are_all_in_quarantine_is_an_empty_file(tiny: World) -> None:
    there = _setting_aside(_extracted(tiny), tiny, [(1, row) for row in range(100)])
    scored = there.score()
    assert (scored.scored, scored.quarantined, scored.parts) == (200, 100, 3)
    empty = pq.read_table(pa.BufferReader(storage.read(receipts(load_job(scored.uri))[1].uri)))
    assert (empty.num_rows, empty.column_names) == (0, COLUMNS)


def test_rows_that_do_not_add_up_fail_the_step(tiny: World) -> None:
    there = _extracted(tiny)
    gate = there.gate.model_copy(update={"quarantined": 5})
    with pytest.raises(PermanentError, match="rows do not add up") as caught:
        score(there.run, there.snapshot, gate)
    assert (caught.value.pipeline, caught.value.partition) == ("tiny", str(tiny.day))


def test_a_quarantine_of_rows_that_are_not_there_is_refused(tiny: World) -> None:
    there = _extracted(tiny)
    beyond = _setting_aside(there, tiny, [(0, 5)])
    table = pq.read_table(tiny.home / "quarantine.parquet")
    pq.write_table(
        table.set_column(1, "row", pa.array([100], pa.int64())), tiny.home / "quarantine.parquet"
    )
    with pytest.raises(CorruptData, match="row 100 of part 0, which has 100"):
        beyond.score()


def test_nothing_is_scored_that_the_gate_did_not_let_through(tiny: World) -> None:
    there = _extracted(tiny)
    gate = there.gate.model_copy(update={"passed": False})
    with pytest.raises(PermanentError, match="gate did not pass"):
        score(there.run, there.snapshot, gate)
    workspace = Workspace(tiny.workspace, "tiny")
    assert not list(storage.entries(workspace.at("scores")))


def test_the_step_leaves_its_record(tiny: World) -> None:
    there = _extracted(tiny)
    scored = there.score()
    uri = Workspace(tiny.workspace, "tiny").step(there.run.run_id, "score")
    record = StepRecord.model_validate_json(storage.read(uri))
    assert record.outcome == "success"
    assert Scored.model_validate(record.result) == scored


def test_a_changed_part_of_the_snapshot_is_not_scored(tiny: World) -> None:
    there = _extracted(tiny)
    path = storage.local_path(there.parts[2].uri)
    assert path is not None
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptData, match="part 2"):
        there.score()
    workspace = Workspace(tiny.workspace, "tiny")
    left = [entry.uri for entry in storage.entries(workspace.at("scores"))]
    # The others are finished, and need not be done again once the part is mended.
    assert [uri.rpartition("/")[2] for uri in left] == [
        "failure-00002.json",
        "job.json",
        "part-00000.json",
        "part-00001.json",
    ]


class _Stubborn:
    """A model that gives what it is told to, or fails."""

    columns: tuple[str, ...] = FEATURES
    releases_gil = True
    device = "cpu"

    def __init__(self, scores: Any) -> None:
        self.scores = scores

    def score(self, batch: pa.RecordBatch) -> pa.Array:
        if isinstance(self.scores, Exception):
            raise self.scores
        return pa.array(self.scores, pa.float64())


def _job(tiny: World, there: Extracted, **changes: Any) -> ScoringJob:
    workspace = Workspace(tiny.workspace, "tiny")
    job = ScoringJob(
        pipeline="tiny",
        as_of=tiny.day,
        version="v0",
        run_id="r",
        scored_at=dt.datetime(2026, 2, 6, tzinfo=dt.UTC),
        model=there.run.model,
        output="probability",
        key=("account_id", "channel"),
        pass_through=(),
        score_column="score",
        quarantine_uri=None,
        parts_uri=workspace.at("parts"),
        receipts_uri=workspace.scores(tiny.day, "v0"),
    )
    return job.model_copy(update=changes)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_names_the_part_and_the_first_key(
    tiny: World, value: float
) -> None:
    there = _extracted(tiny)
    scores = np.full(100, 0.5)
    scores[[42, 77]] = value
    job = _job(tiny, there)
    with pytest.raises(PermanentError) as caught:
        score_part(job, there.parts[1], _Stubborn(scores), {})
    key = read_part(there.parts[1], ["account_id", "channel"]).slice(42, 1).to_pylist()[0]
    assert f"account_id={key['account_id']}, channel={key['channel']}" in str(caught.value)
    assert "2 of the 100 rows of part 1" in str(caught.value)
    assert receipts(job) == []
    assert _files(job) == {}


def test_a_model_that_fails_names_the_part(tiny: World) -> None:
    there = _extracted(tiny)
    said = "failed on a row of part 2, first on account_id=.*: KeyError: 'age'"
    with pytest.raises(PermanentError, match=said):
        score_part(_job(tiny, there), there.parts[2], _Stubborn(KeyError("age")), {})


def test_a_column_that_the_snapshot_lacks_is_named(tiny: World) -> None:
    there = _extracted(tiny)
    job = _job(tiny, there, pass_through=("postcode",))
    with pytest.raises(PermanentError, match="no column postcode"):
        score_part(job, there.parts[0], _Stubborn(np.zeros(100)), {})


def test_a_table_that_moved_gets_its_parts_anew(tiny: World) -> None:
    there = _extracted(tiny)
    job = open_job(_job(tiny, there))
    score_part(job, there.parts[0], _Stubborn(np.zeros(100)), {})
    elsewhere = Workspace(tiny.workspace, "tiny").at("elsewhere")
    moved = open_job(_job(tiny, there, parts_uri=elsewhere))
    assert (moved.parts_uri, moved.run_id) == (elsewhere, "r")
    assert receipts(moved) == []
    assert load_job(job.uri) == moved


def test_parts_of_another_claim_are_other_files_and_are_scored_anew(tiny: World) -> None:
    there = _extracted(tiny)
    job = open_job(_job(tiny, there))
    first = score_part(job, there.parts[0], _Stubborn(np.zeros(100)), {})
    claimed = open_job(_job(tiny, there, run_id="other"))
    assert (claimed.uri, claimed.run_id) == (job.uri, "other")
    assert receipts(claimed) == []
    second = score_part(claimed, there.parts[0], _Stubborn(np.zeros(100)), {})
    assert sorted(_files(job)) == sorted([first.uri, second.uri])


def test_a_part_of_a_published_version_is_not_written_with_other_bytes(tiny: World) -> None:
    there = _extracted(tiny)
    job = _job(tiny, there)
    published = score_part(job, there.parts[0], _Stubborn(np.zeros(100)), {})
    storage.delete([published.uri])
    held = _job(tiny, there, published={0: published.digest}, environment={"lightgbm": "3.0"})
    said = (
        r"part 0 of version .* was published.*other bytes \(.*lightgbm 3\.0.*\).*restore the file"
    )
    with pytest.raises(CorruptData, match=said):
        score_part(held, there.parts[0], _Stubborn(np.ones(100)), {})
    assert _files(job) == {}
    assert score_part(held, there.parts[0], _Stubborn(np.zeros(100)), {}).digest == published.digest


def test_a_worker_that_comes_too_late_with_other_bytes_writes_over_no_part(tiny: World) -> None:
    """As one of a machine that was cut off, and that rounds otherwise than those after it."""
    there = _extracted(tiny)
    late = open_job(_job(tiny, there))
    first = score_part(late, there.parts[0], _Stubborn(np.zeros(100)), {})
    before = _files(late)
    score_part(late, there.parts[0], _Stubborn(np.full(100, 1e-9)), {})
    assert _files(late).items() > before.items()
    # What was published meanwhile is what counts, and is made again.
    again = open_job(_job(tiny, there, published={0: first.digest}))
    assert receipts(again) == []
    assert score_part(again, there.parts[0], _Stubborn(np.zeros(100)), {}).uri == first.uri
    assert [receipt.digest for receipt in receipts(again)] == [first.digest]


def test_a_version_is_named_by_all_that_it_is_made_from() -> None:
    assert version_id("a", "b", "c") == version_id("a", "b", "c")
    names = {
        version_id(*digests)
        for digests in [("a", "b", "c"), ("x", "b", "c"), ("a", "x", "c"), ("a", "b", "x")]
    }
    names |= {version_id("ab", "", "c"), version_id("a", "bc", "")}
    assert len(names) == 6
    assert all(len(name) == 13 and name.startswith("v") for name in names)
