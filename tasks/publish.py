"""publish: stage the scored parts as a version, audit it, and make it what readers see."""

from __future__ import annotations

import datetime as dt
import logging

from include import approvals, storage
from include.approvals import Held, standing_of
from include.audit import Audited, HeldForApproval, audit, require
from include.config import PipelineConfig
from include.errors import CorruptData, DaybreakError, PermanentError
from include.pipeline import planned_pipeline
from include.run import (
    GateResult,
    Published,
    Receipt,
    Run,
    Scored,
    Snapshot,
    SnapshotManifest,
)
from include.score_shift import Reference
from include.scoring import ScoringJob, load_job, receipts, scored_columns
from include.snapshots import load_manifest
from include.stores import (
    Decision,
    Overtaken,
    Seen,
    Store,
    Version,
    VersionManifest,
    open_store,
)
from include.workspace import Workspace
from tasks.step import step_of

log = logging.getLogger("daybreak")


def publish(run: Run, snapshot: Snapshot, gate: GateResult, scored: Scored) -> Published:
    """Make the scored version current; safe to repeat, and `unchanged` where it is already.

    Raises AuditFailed where the files are no version to publish, and HeldForApproval, after
    `held.json` is written, where the scores moved too far from the version that it follows and
    nobody has approved it yet. Raises Rejected where a person rejected this very version,
    RolledBack where a person rolled back from it, and PermanentError where a run that was planned
    later came first, or readers got what the run was asked to leave alone.
    """
    with step_of(run, "publish") as recorder:
        config = planned_pipeline(run).config
        workspace = Workspace(run.workspace, run.pipeline)
        store = open_store(config.predictions, workspace.predictions())
        published = None
        while published is None:
            current = store.current(run.partition.as_of)
            try:
                published = _published(run, config, store, current, snapshot, gate, scored)
            except DaybreakError as error:
                # Whatever was found, the error too, was found beside what readers had then.
                if Seen.of(store.current(run.partition.as_of)) == Seen.of(current):
                    raise
                log.info("looking again, since readers have another version: %s", error.found)
        recorder.result = published
        return published


def _published(
    run: Run,
    config: PipelineConfig,
    store: Store,
    current: Version | None,
    snapshot: Snapshot,
    gate: GateResult,
    scored: Scored,
) -> Published:
    """Publish over `current` and nothing else: Overtaken where readers have another one by then."""
    as_of, manifest = run.partition.as_of, store.manifest(run.partition.as_of, scored.version)
    audited, approval = Audited((), None), None
    if current is None or manifest is None or current.version != scored.version:
        _require_wanted(run, current, scored.version)
        source = load_manifest(snapshot)
        manifest = _manifest(run, config, source, gate, scored, snapshot.uri)
        store.stage(manifest)
        store.require_not_superseded(manifest, run.planned_at)
        _require_not_rejected(run, scored.version)
        reference = followed(store, as_of, current)
        audited = audit(manifest, source, config.predictions.audit, config.model.output, reference)
        _forget_damaged(scored, audited)
        # An audit takes minutes: nobody is asked, or passed over, by what was true before it.
        if Seen.of(store.current(as_of)) != Seen.of(current):
            raise Overtaken(
                "readers got another version during the audit", do="run the partition again"
            )
        _require_not_rejected(run, scored.version)
        approval = _cleared(run, config, manifest, audited, current)
    else:
        _require_same_parts(manifest, load_job(scored.uri))
    published = store.commit(manifest, run.planned_at, approval, seen=Seen.of(current))
    if approval is None and audited.checks:
        approvals.forget(Workspace(run.workspace, run.pipeline), as_of, scored.version)
    return noted(run, published, approval, audited)


def _require_not_rejected(run: Run, version: str) -> None:
    workspace = Workspace(run.workspace, run.pipeline)
    standing = standing_of(workspace, run.partition.as_of, version)
    approvals.require_not_rejected(standing, run.pipeline)


def _require_wanted(run: Run, current: Version | None, version: str) -> None:
    """Raise where readers got, while the run was under way, what it was asked to leave alone.

    It looked before it was planned (tasks/preview.py), and hours may have passed since.
    """
    if current is None or run.rescore == "all":
        return
    if run.rescore == "missing":
        found = f"run {current.run_id} has published version {current.version} meanwhile"
    elif current.decision is not None:
        found = f"the partition was rolled back to version {current.version} {current.decision}"
    else:
        return
    raise PermanentError(
        f"{found}, and this run was asked to leave such a partition alone (rescore: "
        f"{run.rescore}): readers keep it, and do not get version {version}",
        do="nothing, if that version is the one to have; otherwise run the partition with "
        "rescore: all",
    )


def _require_same_parts(manifest: VersionManifest, job: ScoringJob) -> None:
    """Hold the parts that are there against those that were published, which readers have."""
    found = {receipt.part: receipt.digest for receipt in receipts(job)}
    others = [part.part for part in manifest.parts if found.get(part.part) != part.digest]
    if others:
        raise CorruptData(
            f"part {min(others)} of version {manifest.version} is not the one that was published"
            + (f", nor are {len(others) - 1} more" if len(others) > 1 else ""),
            where=job.receipt_uri(min(others)),
            do="delete that receipt and run the partition again, which scores the part once more",
        )


def _forget_damaged(scored: Scored, audited: Audited) -> None:
    """Without their receipts, the next run scores the parts again whose files are damaged."""
    if audited.damaged:
        job = load_job(scored.uri)
        storage.delete([job.receipt_uri(part) for part in audited.damaged])


def noted(run: Run, published: Published, approval: Decision | None, audited: Audited) -> Published:
    """What was published, with its audit and what a person should know of it."""
    notes = [published.note, f"approved {approval}" if approval is not None else None]
    if published.note:
        log.warning(f"{run.pipeline} {run.partition}: {published.note}")
    note = "; ".join(filter(None, notes)) or None
    return published.model_copy(update={"checks": audited.checks, "note": note})


def _cleared(
    run: Run,
    config: PipelineConfig,
    manifest: VersionManifest,
    audited: Audited,
    current: Version | None,
) -> Decision | None:
    """The approval of a version that needed one; raises HeldForApproval, after the question.

    An approval is one of replacing what readers had then: where they have another version since,
    it is asked again.
    """
    workspace, now = Workspace(run.workspace, run.pipeline), dt.datetime.now(dt.UTC)
    try:
        require(audited, manifest)
    except HeldForApproval as error:
        replaces = Seen.of(current)
        standing = standing_of(workspace, manifest.as_of, manifest.version)
        given = standing.approval_to_replace(replaces.version, now)
        if given is not None:
            return given.decision
        again = standing.why_again(replaces.version)
        raise asked(run, config, manifest, audited, replaces, error.found, again, now) from None
    return None


def asked(
    run: Run,
    config: PipelineConfig,
    manifest: VersionManifest,
    audited: Audited,
    replaces: Seen,
    found: str,
    again: str,
    now: dt.datetime,
    *,
    overruling: bool = False,
) -> HeldForApproval:
    """Put the question whether the version is to be published to a person; its error.

    `found` says why it is asked, and `again` why an answer from before does not count.
    """
    assert audited.shift is not None  # what is held moved
    held = approvals.ask(
        Workspace(run.workspace, run.pipeline),
        Held(
            pipeline=manifest.pipeline,
            as_of=manifest.as_of,
            version=manifest.version,
            run=run,
            held_at=now,
            until=now + dt.timedelta(hours=config.predictions.audit.approval_hours),
            replaces=replaces.version,
            shift=audited.shift,
            message="; ".join(filter(None, (found, again))),
            checks=audited.checks,
            again=again,
            overruling=overruling,
        ),
    )
    return HeldForApproval(held.message, do=held.how_to_answer())


def followed(store: Store, as_of: dt.date, current: Version | None) -> Reference | None:
    """What readers have of the date, `current`, else of the latest date before it."""
    if current is None:
        earlier = [date for date in store.current_dates() if date < as_of]
        current = store.current(earlier[-1]) if earlier else None
    if current is None:
        return None
    manifest = store.manifest(current.as_of, current.version)
    if manifest is None:
        raise CorruptData(
            f"version {current.version} of {current.as_of} has no manifest",
            where=current.manifest_uri,
            do="restore it from a backup of the table's folder",
        )
    scores = store.read(current.as_of, current.version, [manifest.score_column])
    return Reference(
        as_of=current.as_of,
        version=current.version,
        scores=scores[manifest.score_column].to_numpy(),
    )


def _whole_parts(job: ScoringJob, source: SnapshotManifest) -> tuple[Receipt, ...]:
    """The receipts in the order of the parts; CorruptData where a part is not as it was scored."""
    found = receipts(job)
    missing = {part.index for part in source.parts} - {receipt.part for receipt in found}
    if missing:
        first = min(missing)
        raise CorruptData(
            f"part {first} of version {job.version} is gone, or not of the size that was scored"
            + (f", and so are {len(missing) - 1} more" if len(missing) > 1 else ""),
            where=f"{job.parts_uri}/part-{first:05d}-*.parquet",
            do="run the partition again, which scores what is missing",
        )
    return tuple(sorted(found, key=lambda receipt: receipt.part))


def _manifest(
    run: Run,
    config: PipelineConfig,
    source: SnapshotManifest,
    gate: GateResult,
    scored: Scored,
    snapshot_uri: str,
) -> VersionManifest:
    job = load_job(scored.uri)
    parts = _whole_parts(job, source)
    return VersionManifest(
        pipeline=run.pipeline,
        as_of=job.as_of,
        version=job.version,
        rows_in=scored.rows_in,
        rows=scored.scored,
        quarantined=scored.quarantined,
        key=job.key,
        score_column=job.score_column,
        columns=scored_columns(job.key, job.pass_through, job.score_column, source.columns),
        parts=parts,
        snapshot_uri=snapshot_uri,
        snapshot_digest=source.digest,
        quarantine_uri=gate.quarantine_uri,
        model_name=job.model.name,
        model_version=job.model.version,
        model_digest=job.model.digest,
        config_digest=run.config_digest,
        run_id=job.run_id,
        scored_at=job.scored_at,
        environment=job.environment,
        failed=scored.failed,
    )
