"""publish: stage the scored parts as a version, audit it, and make it what readers see."""

from __future__ import annotations

import datetime as dt
import logging

from include import storage
from include.audit import Audited, HeldForApproval, audit, require
from include.config import PipelineConfig
from include.errors import CorruptData
from include.pipeline import planned_pipeline
from include.run import (
    Check,
    Column,
    GateResult,
    Published,
    Run,
    Scored,
    Snapshot,
    SnapshotManifest,
    Value,
)
from include.score_shift import Reference, Shift
from include.scoring import ScoringJob, load_job, receipts
from include.snapshots import load_manifest
from include.stores import RolledBack, Store, VersionManifest, open_store
from include.workspace import Workspace
from tasks.step import step_of

log = logging.getLogger("daybreak")


class Held(Value):
    """A version that waits for a person, as `held.json` beside its receipts."""

    pipeline: str
    as_of: dt.date
    version: str
    run_id: str
    held_at: dt.datetime
    shift: Shift
    message: str
    checks: tuple[Check, ...]


def publish(run: Run, snapshot: Snapshot, gate: GateResult, scored: Scored) -> Published:
    """Make the scored version current; safe to repeat, and `unchanged` where it is already.

    Raises AuditFailed where the files are no version to publish, and HeldForApproval, after
    `held.json` is written, where the scores moved too far from the version that it follows.
    Raises RolledBack where a person rolled back from this very version.
    """
    with step_of(run, "publish") as recorder:
        config = planned_pipeline(run).config
        workspace = Workspace(run.workspace, run.pipeline)
        store = open_store(config.predictions, workspace.predictions())
        as_of = run.partition.as_of
        current, manifest = store.current(as_of), store.manifest(as_of, scored.version)
        checks: tuple[Check, ...] = ()
        if current is None or manifest is None or current.version != scored.version:
            source = load_manifest(snapshot)
            manifest = _manifest(run, config, source, gate, scored, snapshot.uri)
            store.stage(manifest)
            _require_not_rolled_back(store, manifest)
            reference = _followed(store, as_of)
            audited = audit(
                manifest, source, config.predictions.audit, config.model.output, reference
            )
            _require(audited, manifest, workspace)
            checks = audited.checks
        published = store.commit(manifest, run.planned_at)
        storage.delete([held_uri(workspace, as_of, scored.version)])
        if published.note:
            log.warning(f"{run.pipeline} {run.partition}: {published.note}")
        recorder.result = published.model_copy(update={"checks": checks})
        return recorder.result


def _require_not_rolled_back(store: Store, manifest: VersionManifest) -> None:
    """`commit` would refuse it too, but only after an audit that may hold it for a person."""
    known = {version.version: version for version in store.versions(manifest.as_of)}
    version = known.get(manifest.version)
    if version is not None and version.rolled_back:
        raise RolledBack(
            f"a person rolled back from version {manifest.version}, and these rows, this model and "
            "this configuration are that version again",
            do="point the model's alias to a better version or mend the features; if the version "
            f"is right after all: daybreak rollback {manifest.pipeline} --date {manifest.as_of} "
            f"--to {manifest.version}",
        )


def held_uri(workspace: Workspace, as_of: dt.date, version: str) -> str:
    return storage.join(workspace.scores(as_of, version), "held.json")


def _require(audited: Audited, manifest: VersionManifest, workspace: Workspace) -> None:
    try:
        require(audited, manifest)
    except HeldForApproval as error:
        assert audited.shift is not None
        held = Held(
            pipeline=manifest.pipeline,
            as_of=manifest.as_of,
            version=manifest.version,
            run_id=manifest.run_id,
            held_at=dt.datetime.now(dt.UTC),
            shift=audited.shift,
            message=error.found,
            checks=audited.checks,
        )
        uri = held_uri(workspace, manifest.as_of, manifest.version)
        storage.write(uri, held.model_dump_json(indent=2).encode())
        raise


def _followed(store: Store, as_of: dt.date) -> Reference | None:
    """What readers have of the date, else of the latest date before it."""
    current = store.current(as_of)
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


def _manifest(
    run: Run,
    config: PipelineConfig,
    source: SnapshotManifest,
    gate: GateResult,
    scored: Scored,
    snapshot_uri: str,
) -> VersionManifest:
    job = load_job(scored.uri)
    return VersionManifest(
        pipeline=run.pipeline,
        as_of=job.as_of,
        version=job.version,
        rows_in=scored.rows_in,
        rows=scored.scored,
        quarantined=scored.quarantined,
        key=job.key,
        score_column=job.score_column,
        columns=_columns(job, source),
        parts=tuple(sorted(receipts(job), key=lambda receipt: receipt.part)),
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
    )


def _columns(job: ScoringJob, source: SnapshotManifest) -> tuple[Column, ...]:
    """The columns of the scored files, in order."""
    kept = {column.name: column for column in source.columns}
    lineage = ("model_name", "model_version", "model_digest", "run_id")
    return (
        *(kept[name] for name in (*job.key, *job.pass_through)),
        Column(name=job.score_column, type="double"),
        *(Column(name=name, type="string") for name in lineage),
        Column(name="scored_at", type="timestamp[us, tz=UTC]"),
    )
