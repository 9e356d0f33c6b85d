"""score: every part of the snapshot through the model, on the pipeline's engine."""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
from collections.abc import Callable

from include.config import PipelineConfig
from include.engines import open_engine
from include.environment import environment_for
from include.errors import PermanentError
from include.pace import Pace
from include.pipeline import planned_pipeline
from include.poison import require_few_failed
from include.receipts import failures, forget_failures, receipts
from include.run import GateResult, Receipt, Run, Scored, Snapshot, SnapshotManifest
from include.scoring import ScoringJob, open_job, version_id
from include.snapshots import load_manifest
from include.stores import Claim, Store, open_store
from include.workspace import Workspace
from tasks.step import step_of

log = logging.getLogger("daybreak")


def score(
    run: Run,
    snapshot: Snapshot,
    gate: GateResult,
    watch: Callable[[Pace], None] | None = None,
    *,
    tried: bool = False,
) -> Scored:
    """Score the rows that the gate let through; parts that are finished stay as they are.

    Rows on which the model fails are set aside too, with the reason, as far as the pipeline's
    `gate.max_quarantined_share` allows. Raises PermanentError where the gate did not pass, where
    the model fails on more, or where rows do not add up: rows_in = scored + quarantined + failed,
    over every part of the snapshot. `watch` hears of each part that is finished.

    `tried` says that someone else has just scored the same job (see tasks/pods.py): a failure that
    they left word of, and that a retry cannot help, is raised, and only what else is missing is
    scored here.
    """
    with step_of(run, "score") as recorder:
        config = planned_pipeline(run).config
        job, manifest, finished = opened(run, config, snapshot, gate)
        rest = [part for part in manifest.parts if part.index not in finished]
        reused = len(finished)
        require_few_failed(job, finished.values())
        if tried:
            _require_no_failure(job, {part.index for part in rest})
        forget_failures(job, [part.index for part in rest])
        pace = Pace(
            rows=manifest.rows,
            parts=len(manifest.parts),
            rows_done=sum(receipt.rows_in for receipt in finished.values()),
            parts_done=reused,
        )
        if watch is not None:
            watch(pace)
        for receipt in open_engine(config.engine).score(job, rest):
            finished[receipt.part] = receipt
            if receipt.failed:
                require_few_failed(job, finished.values())
            pace.add(receipt)
            _log_progress(run, receipt, pace)
            if watch is not None:
                watch(pace)
        recorder.result = _reconciled(job, manifest, gate, finished, reused)
    return recorder.result


def opened(
    run: Run, config: PipelineConfig, snapshot: Snapshot, gate: GateResult
) -> tuple[ScoringJob, SnapshotManifest, dict[int, Receipt]]:
    """The job in storage, the parts that it is of, and the receipts of those that are finished."""
    if not gate.passed:
        raise PermanentError("the gate did not pass: nothing is scored", do="see the gate's checks")
    manifest = load_manifest(snapshot)
    job = open_job(_job(run, config, snapshot, manifest, gate))
    rows = {part.index: part.rows for part in manifest.parts}
    return job, manifest, {r.part: r for r in receipts(job) if rows.get(r.part) == r.rows_in}


def _require_no_failure(job: ScoringJob, parts: set[int]) -> None:
    for failure in failures(job):
        if failure.permanent and parts and (failure.part is None or failure.part in parts):
            raise failure.as_error()


def _job(
    run: Run,
    config: PipelineConfig,
    snapshot: Snapshot,
    manifest: SnapshotManifest,
    gate: GateResult,
) -> ScoringJob:
    workspace, as_of = Workspace(run.workspace, run.pipeline), run.partition.as_of
    version = version_id(manifest.digest, run.model.digest, run.config_digest)
    store = open_store(config.predictions, workspace.predictions())
    asked = Claim(run_id=run.run_id, scored_at=dt.datetime.now(dt.UTC))
    claim = store.claim(as_of, version, asked)
    return ScoringJob(
        pipeline=run.pipeline,
        as_of=as_of,
        version=version,
        run_id=claim.run_id,
        scored_at=claim.scored_at,
        model=run.model,
        output=config.model.output,
        key=config.key,
        pass_through=config.predictions.pass_through,
        score_column=config.predictions.score_column,
        quarantine_uri=gate.quarantine_uri,
        parts_uri=store.parts_uri(as_of, version),
        receipts_uri=workspace.scores(as_of, version),
        snapshot_uri=snapshot.uri,
        max_failed=_max_failed(config, manifest, gate),
        device=config.model.device,
        environment=environment_for(run.model.flavor),
        published=_published(store, as_of, version),
    )


def _published(store: Store, as_of: dt.date, version: str) -> dict[int, str]:
    """The digests of the version's parts, by their number, where it was committed before."""
    manifest = store.manifest(as_of, version)
    if manifest is None or version not in {one.version for one in store.versions(as_of)}:
        return {}
    return {receipt.part: receipt.digest for receipt in manifest.parts}


def _max_failed(config: PipelineConfig, manifest: SnapshotManifest, gate: GateResult) -> int:
    """What `max_quarantined_share` still allows, beside the rows that the gate set aside."""
    share = config.gate.max_quarantined_share
    allowed = math.floor(share * manifest.rows) + 1
    while allowed / manifest.rows > share:  # as the gate compares
        allowed -= 1
    return max(0, allowed - gate.quarantined)


def _reconciled(
    job: ScoringJob,
    manifest: SnapshotManifest,
    gate: GateResult,
    finished: dict[int, Receipt],
    reused: int,
) -> Scored:
    """The result, once every row of the snapshot is accounted for."""
    done = finished.values()
    scored = Scored(
        version=job.version,
        uri=job.uri,
        rows_in=sum(receipt.rows_in for receipt in done),
        scored=sum(receipt.scored for receipt in done),
        quarantined=sum(receipt.quarantined for receipt in done),
        parts=len(finished),
        reused_parts=reused,
        failed=sum(receipt.failed for receipt in done),
    )
    if (
        scored.parts != len(manifest.parts)
        or scored.rows_in != manifest.rows
        or scored.quarantined != gate.quarantined
        or scored.rows_in != scored.scored + scored.quarantined + scored.failed
    ):
        raise PermanentError(
            f"rows do not add up: the snapshot has {manifest.rows:,} rows in "
            f"{len(manifest.parts)} parts, {gate.quarantined:,} of them in quarantine; scored were "
            f"{scored.scored:,} in {scored.parts} parts, {scored.quarantined:,} were left out for "
            f"the gate and {scored.failed:,} because the model failed on them",
            where=job.uri,
            do=f"delete the receipts part-*.json below {job.receipts_uri} and score it again",
        )
    return scored


def _log_progress(run: Run, receipt: Receipt, pace: Pace) -> None:
    # A line for each tenth of the way: enough to see that it moves and how fast.
    done, parts = pace.parts_done, pace.parts
    if done == parts or done * 10 // parts > (done - 1) * 10 // parts:
        line = {
            "step": "score",
            "pipeline": run.pipeline,
            "partition": str(run.partition),
            "part_rows": receipt.scored,
            "part_seconds": receipt.seconds,
            **pace.fields(),
        }
        log.info(json.dumps(line))
