"""publish makes a scored version what readers see, or says in one message why it does not."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from include import approvals, storage
from include.approval_page import question
from include.approvals import Answer, Held, Rejected, held_uri, standing_of
from include.audit import Audited, AuditFailed, HeldForApproval, audit
from include.config import Predictions
from include.errors import CorruptData, PermanentError
from include.pipeline import planned_pipeline
from include.run import GateResult, Published, Rescore, Run, Scored, Snapshot
from include.scoring import load_job, receipts
from include.stores import Decision, Store, open_store
from include.stores.delta_files import verify
from include.workspace import Workspace
from tasks.extract import extract
from tasks.gate import gate
from tasks.plan import plan
from tasks.publish import publish
from tasks.score import score
from tests.world import ROWS, World


class Prepared(NamedTuple):
    """A run as it stands when publish starts."""

    run: Run
    snapshot: Snapshot
    gate: GateResult
    scored: Scored

    def publish(self) -> Published:
        return publish(*self)

    @property
    def step(self) -> dict[str, object]:
        """What the step's record says."""
        uri = Workspace(self.run.workspace, self.run.pipeline).step(self.run.run_id, "publish")
        return dict(json.loads(storage.read(uri)))


Prepare = Callable[..., Prepared]


@pytest.fixture
def prepare(tiny: World) -> Prepare:
    def prepared(
        date: dt.date | None = None, run: str = "test", rescore: Rescore = "all"
    ) -> Prepared:
        planned = plan(tiny.request(date, run=run, rescore=rescore))
        snapshot = extract(planned)
        gated = gate(planned, snapshot)
        return Prepared(planned, snapshot, gated, score(planned, snapshot, gated))

    return prepared


@pytest.fixture
def store(tiny: World) -> Store:
    workspace = Workspace(tiny.workspace, tiny.name)
    return open_store(Predictions(), workspace.predictions())


def rewrite(tiny: World, sql: str) -> None:
    """Let the pipeline select other features from now on."""
    (tiny.folder / "features.sql").write_text(sql, "utf-8")


POORER = """
SELECT account_id, channel, region, 1e6 AS balance, CAST(0 AS DOUBLE) AS visits, tenure_days,
       updated_at
FROM accounts WHERE event_date = $as_of
"""
RICHER = """
SELECT account_id, channel, region, balance + 1 AS balance, visits, tenure_days, updated_at
FROM accounts WHERE event_date = $as_of
"""


def test_a_published_version_is_complete_and_names_what_made_it(
    tiny: World, prepare: Prepare, store: Store
) -> None:
    prepared = prepare()
    published = prepared.publish()
    assert (published.outcome, published.rows, published.replaced) == ("published", ROWS, None)
    assert all(check.passed for check in published.checks)
    assert {"parts", "rows", "keys", "scores"} <= {check.name for check in published.checks}
    rows = store.read(tiny.day)
    assert rows.num_rows == ROWS
    assert rows.column_names == [
        "account_id",
        "channel",
        "region",
        "churn_probability",
        "model_name",
        "model_version",
        "model_digest",
        "run_id",
        "scored_at",
        "as_of",
        "version",
    ]
    assert set(rows["model_digest"].to_pylist()) == {prepared.run.model.digest}
    assert set(rows["run_id"].to_pylist()) == {prepared.run.run_id}
    manifest = store.manifest(tiny.day, published.version)
    assert manifest is not None
    assert (manifest.rows_in, manifest.snapshot_digest, manifest.config_digest) == (
        ROWS,
        prepared.snapshot.digest,
        prepared.run.config_digest,
    )
    record = prepared.step
    assert (record["outcome"], record["result"]) == ("success", published.model_dump(mode="json"))


def test_publishing_again_changes_nothing_and_says_so(prepare: Prepare, store: Store) -> None:
    prepared = prepare()
    first = prepared.publish()
    versions = store.versions(prepared.run.partition.as_of)
    again = prepared.publish()
    assert (again.outcome, again.version, again.rows) == ("unchanged", first.version, first.rows)
    assert again.table_version == first.table_version
    assert store.versions(prepared.run.partition.as_of) == versions
    # Another run over the same data, model and configuration makes the same version.
    assert prepare(run="another").publish().outcome == "unchanged"
    assert store.versions(prepared.run.partition.as_of) == versions


def test_new_data_make_a_new_version_that_takes_the_place_of_the_old_one(
    tiny: World, prepare: Prepare, store: Store
) -> None:
    first = prepare().publish()
    rewrite(tiny, RICHER)
    second = prepare(run="second").publish()
    assert (second.outcome, second.replaced) == ("published", first.version)
    assert [(v.version, v.current) for v in store.versions(tiny.day)] == [
        (first.version, False),
        (second.version, True),
    ]


def published_and_held(tiny: World, prepare: Prepare) -> tuple[Published, Prepared, str]:
    """What readers have, a run whose scores moved too far from it, and what the audit says."""
    tiny.configure({"predictions": {"audit": {"max_score_psi": 0.5}}})
    first = prepare().publish()
    rewrite(tiny, POORER)
    shifted = prepare(run="shifted")
    with pytest.raises(HeldForApproval) as error:
        shifted.publish()
    return first, shifted, str(error.value)


def test_a_shift_against_the_same_dates_version_is_held(
    tiny: World, prepare: Prepare, store: Store
) -> None:
    first, shifted, message = published_and_held(tiny, prepare)
    assert message.startswith(f"tiny {tiny.day}: version {shifted.scored.version} is held")
    assert f"from version {first.version} of {tiny.day}" in message
    # Readers keep what they had, and whoever asks finds what waits and why.
    assert store.current(tiny.day).version == first.version  # type: ignore[union-attr]
    assert store.manifest(tiny.day, shifted.scored.version) is not None
    workspace = Workspace(tiny.workspace, tiny.name)
    uri = held_uri(workspace, tiny.day, shifted.scored.version)
    held = Held.model_validate_json(storage.read(uri))
    assert held.shift.psi > 0.5
    assert (held.shift.against_version, held.version) == (first.version, shifted.scored.version)
    assert [check.name for check in held.checks if not check.passed] == ["score_shift"]
    assert shifted.step["outcome"] == "failed"
    assert shifted.step["error"]["error"] == "HeldForApproval"  # type: ignore[index]
    # What the message says to do works, and scores nothing again.
    tiny.configure({"predictions": {"audit": {"max_score_psi": 100.0}}})
    accepted = prepare(run="accepted")
    assert accepted.scored.version == shifted.scored.version
    assert accepted.scored.reused_parts == accepted.scored.parts
    assert accepted.publish().replaced == first.version
    assert not storage.exists(uri)


def approve_without_publishing(tiny: World, version: str) -> None:
    """An approval whose process was killed right after it was on record."""
    held = standing_of(Workspace(tiny.workspace, tiny.name), tiny.day, version).held
    assert held is not None
    given = Answer(verdict="approved", by="ann", at=held.held_at, reason="a strike")
    approvals.answer(Workspace(tiny.workspace, tiny.name), held, given)


def test_a_run_that_is_repeated_after_the_approval_publishes_and_asks_nobody_again(
    tiny: World, prepare: Prepare, store: Store
) -> None:
    first, shifted, _ = published_and_held(tiny, prepare)
    approve_without_publishing(tiny, shifted.scored.version)
    assert shifted.publish().replaced == first.version
    approval = store.versions(tiny.day)[-1].approval
    assert approval is not None and (approval.by, approval.reason) == ("ann", "a strike")
    # Killed after the commit, it finds itself there.
    assert shifted.publish().outcome == "unchanged"


def test_an_approval_is_for_what_readers_had_and_is_asked_again_once_they_have_another_version(
    tiny: World, prepare: Prepare, store: Store
) -> None:
    sql = planned_pipeline(prepare().run).sql
    first, shifted, _ = published_and_held(tiny, prepare)
    version = shifted.scored.version
    approve_without_publishing(tiny, version)
    rewrite(tiny, RICHER)
    other = prepare(run="other").publish()
    assert (other.outcome, other.replaced) == ("published", first.version)
    rewrite(tiny, POORER)
    for attempt in ("again", "once more"):
        with pytest.raises(HeldForApproval) as error:
            prepare(run=attempt).publish()
        message = str(error.value)
        assert f"from version {other.version} of {tiny.day}" in message
        assert "approved by ann at" in message and "a strike" in message
        assert f"to replace {first.version}; readers have {other.version} now" in message
    current = store.current(tiny.day)
    assert current is not None and current.version == other.version
    workspace = Workspace(tiny.workspace, tiny.name)
    standing = standing_of(workspace, tiny.day, version)
    assert standing.held is not None
    assert (standing.held.question, standing.held.replaces) == (2, other.version)
    assert "approved by ann" in question(standing.held, None, None)
    # And so with what was published by an approval, and is made again after another version.
    approve_without_publishing(tiny, version)
    assert prepare(run="approved").publish().replaced == other.version
    rewrite(tiny, sql)
    tiny.configure({"predictions": {"audit": {"max_score_psi": 100.0}}})
    last = prepare(run="back").publish()
    assert last.version == first.version
    tiny.configure({"predictions": {"audit": {"max_score_psi": 0.5}}})
    rewrite(tiny, POORER)
    with pytest.raises(HeldForApproval, match=f"to replace {other.version}; readers have"):
        prepare(run="last").publish()


def test_the_first_version_of_a_date_is_compared_with_the_latest_date_before_it(
    tiny: World, prepare: Prepare
) -> None:
    prepare(tiny.day - dt.timedelta(days=3)).publish()
    before = prepare(tiny.day - dt.timedelta(days=1)).publish()
    prepare(tiny.day + dt.timedelta(days=1)).publish()
    rewrite(tiny, POORER)
    shifted = prepare(run="shifted")
    expected = f"from version {before.version} of {tiny.day - dt.timedelta(days=1)}"
    with pytest.raises(HeldForApproval, match=expected):
        shifted.publish()


def test_a_part_that_changed_after_scoring_is_not_published(
    tiny: World, prepare: Prepare, store: Store
) -> None:
    prepared = prepare()
    uri = receipts(load_job(prepared.scored.uri))[1].uri
    content = bytearray(storage.read(uri))
    content[len(content) // 2] ^= 1
    storage.write(uri, bytes(content))
    with pytest.raises(AuditFailed, match="part 1 is not the file that was scored"):
        prepared.publish()
    assert store.current(tiny.day) is None


def test_a_part_that_vanished_is_missed(tiny: World, prepare: Prepare, store: Store) -> None:
    prepared = prepare()
    storage.delete([receipts(load_job(prepared.scored.uri))[1].uri])
    with pytest.raises(CorruptData, match=r"part 1 .* is gone.*part-00001.*(?i:run the partition)"):
        prepared.publish()
    assert store.current(tiny.day) is None


def test_quarantined_rows_are_counted_and_left_out(
    tiny: World, prepare: Prepare, store: Store
) -> None:
    (tiny.folder / "suite.yaml").write_text(
        "expectations:\n"
        "  - type: expect_column_values_to_be_between\n"
        "    kwargs: {column: tenure_days, min_value: 60, max_value: 10000}\n"
        "    severity: warning\n",
        "utf-8",
    )
    tiny.configure({"gate": {"max_quarantined_share": 0.5}})
    prepared = prepare()
    assert prepared.gate.quarantined > 0
    published = prepared.publish()
    assert published.rows == ROWS - prepared.gate.quarantined
    assert store.read(tiny.day).num_rows == published.rows
    manifest = store.manifest(tiny.day, published.version)
    assert manifest is not None and manifest.quarantine_uri == prepared.gate.quarantine_uri
    quarantine = pq.read_table(storage.local_path(str(manifest.quarantine_uri)))
    key = ["account_id", "channel"]
    both = quarantine.select(key).join(store.read(tiny.day, columns=key), key, join_type="inner")
    assert both.num_rows == 0


def test_a_slow_run_does_not_supersede_one_that_was_planned_after_it(
    tiny: World, prepare: Prepare, store: Store
) -> None:
    slow = prepare(run="slow")
    rewrite(tiny, RICHER)
    fast = prepare(run="fast")
    fast.publish()
    with pytest.raises(PermanentError, match="comes too late"):
        slow.publish()
    assert store.current(tiny.day).version == fast.scored.version  # type: ignore[union-attr]


def test_a_run_that_is_overtaken_after_its_audit_is_audited_again(
    tiny: World, prepare: Prepare, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.configure({"predictions": {"audit": {"max_score_psi": 0.5}}})
    sql = (tiny.folder / "features.sql").read_text("utf-8")
    rewrite(tiny, POORER)
    fast = prepare(run="fast")
    rewrite(tiny, sql)
    slow = prepare(run="slow")
    publish_after_the_first_audit(monkeypatch, fast)
    # Nothing was there when it was audited: without another look it would be published unasked.
    with pytest.raises(HeldForApproval, match=f"from version {fast.scored.version} of {tiny.day}"):
        slow.publish()
    assert store.current(tiny.day).version == fast.scored.version  # type: ignore[union-attr]
    approve_without_publishing(tiny, slow.scored.version)
    # Neither does an approval count for another version than the one that it was to replace.
    rewrite(tiny, RICHER)
    tiny.configure({"predictions": {"audit": {"max_score_psi": 100.0}}})
    richer = prepare(run="richer")
    publish_after_the_first_audit(monkeypatch, richer)
    with pytest.raises(PermanentError, match="comes too late"):
        slow.publish()
    assert store.current(tiny.day).version == richer.scored.version  # type: ignore[union-attr]


def publish_after_the_first_audit(patch: pytest.MonkeyPatch, other: Prepared) -> None:
    """Let another run publish in the moment in which the next one has audited its version."""

    def audited(*values: Any) -> Audited:
        found = audit(*values)
        patch.setattr("tasks.publish.audit", audit)
        other.publish()
        return found

    patch.setattr("tasks.publish.audit", audited)


def test_a_run_that_was_to_leave_published_partitions_alone_leaves_one_that_came_meanwhile(
    tiny: World, prepare: Prepare, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly = prepare(run="nightly")
    rewrite(tiny, RICHER)
    backfill = prepare(run="backfill", rescore="missing")
    publish_after_the_first_audit(monkeypatch, nightly)
    found = f"run {nightly.run.run_id} has published version {nightly.scored.version} meanwhile"
    for attempt in ("overtaken", "again"):
        with pytest.raises(PermanentError, match=found) as error:
            backfill.publish()
        assert "rescore: all" in error.value.do, attempt
    assert store.current(tiny.day).version == nightly.scored.version  # type: ignore[union-attr]
    # One that may replace what is stale does, unless a person rolled the partition back meanwhile.
    stale = prepare(run="stale", rescore="stale")
    assert stale.publish().replaced == nightly.scored.version
    rewrite(tiny, POORER)
    late = prepare(run="late", rescore="stale")
    decision = Decision(by="ann", at=late.run.planned_at - dt.timedelta(seconds=1), reason="r")
    store.rollback(tiny.day, nightly.scored.version, decision, replacing=stale.scored.version)
    with pytest.raises(PermanentError, match="was rolled back to version .* by ann"):
        late.publish()
    assert store.current(tiny.day).version == nightly.scored.version  # type: ignore[union-attr]


def test_a_rejection_that_comes_during_the_audit_counts(
    tiny: World, prepare: Prepare, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, shifted, _ = published_and_held(tiny, prepare)
    workspace, version = Workspace(tiny.workspace, tiny.name), shifted.scored.version
    held = standing_of(workspace, tiny.day, version).held
    assert held is not None
    tiny.configure({"predictions": {"audit": {"max_score_psi": 100.0}}})
    again = prepare(run="again")

    def audited(*values: Any) -> Audited:
        no = Answer(verdict="rejected", by="ann", at=held.held_at, reason="no visits")
        approvals.answer(workspace, held, no)
        return audit(*values)

    monkeypatch.setattr("tasks.publish.audit", audited)
    with pytest.raises(Rejected, match=f"rejected by ann.*daybreak approve {tiny.name} --date"):
        again.publish()
    assert store.current(tiny.day).version == first.version  # type: ignore[union-attr]


def test_nobody_is_asked_about_a_version_that_comes_too_late(
    tiny: World, prepare: Prepare, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.configure({"predictions": {"audit": {"max_score_psi": 0.5}}})
    sql = (tiny.folder / "features.sql").read_text("utf-8")
    rewrite(tiny, POORER)
    slow = prepare(run="slow")
    rewrite(tiny, sql)
    fast = prepare(run="fast").publish()
    with pytest.raises(PermanentError, match="comes too late"):
        slow.publish()
    workspace = Workspace(tiny.workspace, tiny.name)
    assert standing_of(workspace, tiny.day, slow.scored.version).held is None
    assert store.current(tiny.day).version == fast.version  # type: ignore[union-attr]
    # Also where that is so only once it was audited.
    rewrite(tiny, POORER)
    slow = prepare(run="slow again")
    rewrite(tiny, RICHER)
    faster = prepare(run="faster")
    publish_after_the_first_audit(monkeypatch, faster)
    with pytest.raises(PermanentError, match="comes too late"):
        slow.publish()
    assert standing_of(workspace, tiny.day, slow.scored.version).held is None
    assert store.current(tiny.day).version == faster.scored.version  # type: ignore[union-attr]


def test_a_pass_through_column_that_the_table_cannot_hold_says_what_to_cast(
    tiny: World, prepare: Prepare, store: Store
) -> None:
    rewrite(
        tiny,
        "SELECT account_id, channel, region, balance, visits, tenure_days, updated_at, "
        "CAST(7 AS UINTEGER) AS plan FROM accounts WHERE event_date = $as_of",
    )
    tiny.configure({"predictions": {"pass_through": ["plan"]}})
    with pytest.raises(PermanentError, match=r"plan \(uint32\).*Cast plan to BIGINT"):
        prepare().publish()
    assert store.current(tiny.day) is None


# What is published stays as it is.


def _stands(store: Store, day: dt.date) -> dict[str, bytes]:
    """The files of the date's versions; each version is whole and by its manifest."""
    current = store.current(day)
    assert current is not None
    manifest = store.manifest(day, current.version)
    assert manifest is not None
    verify(manifest)
    rows = store.read(day)
    assert set(rows["run_id"].to_pylist()) == {manifest.run_id}
    files = storage.entries(store.parts_uri(day, current.version))
    return {entry.uri: storage.read(entry.uri) for entry in files}


def test_a_job_that_somebody_deleted_leaves_the_published_version_as_it_is(
    tiny: World, prepare: Prepare, store: Store
) -> None:
    first = prepare(run="first")
    first.publish()
    before = _stands(store, tiny.day)
    storage.delete([first.scored.uri])
    again = prepare(run="second")
    assert _stands(store, tiny.day) == before
    assert (again.publish().outcome, again.scored.reused_parts) == ("unchanged", again.scored.parts)
    # Nor where its receipts are gone too: then it is scored again, to the same bytes.
    storage.delete([entry.uri for entry in storage.entries(first.scored.uri.rpartition("/")[0])])
    third = prepare(run="third")
    assert third.scored.reused_parts == 0
    assert third.publish().outcome == "unchanged"
    assert _stands(store, tiny.day) == before


@pytest.mark.parametrize("published", [True, False])
def test_two_workspaces_with_one_table_make_one_version_of_the_same_inputs(
    tiny: World, prepare: Prepare, monkeypatch: pytest.MonkeyPatch, *, published: bool
) -> None:
    place = (tiny.home / "shared").as_uri()
    tiny.configure({"predictions": {"uri": place}})
    store = open_store(Predictions(uri=place), place)
    first = prepare(run="production")
    if published:
        first.publish()
        before = _stands(store, tiny.day)
    monkeypatch.setenv("DAYBREAK_WORKSPACE", (tiny.home / "laptop").as_uri())
    second = prepare(run="laptop")
    assert second.run.workspace != first.run.workspace
    assert second.scored.version == first.scored.version
    if published:
        assert _stands(store, tiny.day) == before
        assert second.publish().outcome == "unchanged"
    else:
        assert second.publish().outcome == "published"
        before = _stands(store, tiny.day)
        assert first.publish().outcome == "unchanged"
    assert _stands(store, tiny.day) == before
    assert set(store.read(tiny.day)["run_id"].to_pylist()) == {first.run.run_id}


def test_receipts_that_are_not_the_published_versions_are_no_unchanged_version(
    tiny: World, prepare: Prepare, store: Store
) -> None:
    prepared = prepare()
    prepared.publish()
    job = load_job(prepared.scored.uri)
    receipt = json.loads(storage.read(job.receipt_uri(1)))
    storage.write(job.receipt_uri(1), json.dumps(receipt | {"digest": "0" * 64}).encode())
    with pytest.raises(CorruptData, match="part 1 of version .* not the one that was published"):
        prepared.publish()
    storage.delete([job.receipt_uri(1)])
    assert prepare(run="again").publish().outcome == "unchanged"


def test_a_version_that_was_deleted_and_made_again_has_files_of_its_own(
    tiny: World, prepare: Prepare, store: Store
) -> None:
    first = prepare(run="first")
    first.publish()
    before = _stands(store, tiny.day)
    rewrite(tiny, RICHER)
    other = prepare(run="other")
    other.publish()
    deleted = [(tiny.day, first.scored.version)]
    assert store.delete(deleted, "too old", dt.datetime.now(dt.UTC)) == deleted
    rewrite(tiny, planned_pipeline(first.run).sql)
    again = prepare(run="again")
    assert again.scored.version == first.scored.version
    again.publish()
    assert not before.keys() & _stands(store, tiny.day).keys()


def test_a_run_whose_version_was_deleted_since_it_began_is_refused_and_published_by_the_next(
    tiny: World, prepare: Prepare, store: Store
) -> None:
    slow = prepare(run="slow")
    parts = {part.uri: storage.read(part.uri) for part in receipts(load_job(slow.scored.uri))}
    left = [(tiny.day, slow.scored.version)]
    assert store.delete(left, "scored and never staged", dt.datetime.now(dt.UTC)) == left
    for uri, content in parts.items():  # it writes its last ones after the deletion
        storage.write(uri, content)
    with pytest.raises(PermanentError, match="was deleted after run cli-slow had begun"):
        slow.publish()
    again = prepare(run="again")
    assert again.scored.version == slow.scored.version
    assert again.publish().outcome == "published"
    storage.delete(list(parts))  # the deletion goes on
    assert store.read(tiny.day).num_rows == again.scored.scored
