"""score: every part of the snapshot through the model, on the pipeline's engine."""

from __future__ import annotations

import datetime as dt
import json
import logging

from include.config import PipelineConfig
from include.engines import open_engine
from include.environment import environment_for
from include.errors import PermanentError
from include.pipeline import planned_pipeline
from include.run import GateResult, Receipt, Run, Scored, Snapshot, SnapshotManifest
from include.scoring import ScoringJob, open_job, receipts, version_id
from include.snapshots import load_manifest
from include.stores import open_store
from include.workspace import Workspace
from tasks.step import step_of

log = logging.getLogger("daybreak")


def score(run: Run, snapshot: Snapshot, gate: GateResult) -> Scored:
    """Score the rows that the gate let through; parts that are finished stay as they are.

    Raises PermanentError where the gate did not pass, where the model fails, or where rows do not
    add up: rows_in = scored + quarantined, over every part of the snapshot.
    """
    with step_of(run, "score") as recorder:
        if not gate.passed:
            raise PermanentError(
                "the gate did not pass: nothing is scored", do="see the gate's checks"
            )
        config = planned_pipeline(run).config
        manifest = load_manifest(snapshot)
        job = open_job(_job(run, config, manifest, gate))
        rows = {part.index: part.rows for part in manifest.parts}
        finished = {r.part: r for r in receipts(job) if rows.get(r.part) == r.rows_in}
        rest = [part for part in manifest.parts if part.index not in finished]
        reused = len(finished)
        for receipt in open_engine(config.engine).score(job, rest):
            finished[receipt.part] = receipt
            _log_progress(run, receipt, len(finished), len(manifest.parts))
        recorder.result = _reconciled(job, manifest, gate, finished, reused)
    return recorder.result


def _job(
    run: Run, config: PipelineConfig, manifest: SnapshotManifest, gate: GateResult
) -> ScoringJob:
    workspace, as_of = Workspace(run.workspace, run.pipeline), run.partition.as_of
    version = version_id(manifest.digest, run.model.digest, run.config_digest)
    store = open_store(config.predictions, workspace.predictions())
    return ScoringJob(
        pipeline=run.pipeline,
        as_of=as_of,
        version=version,
        run_id=run.run_id,
        scored_at=dt.datetime.now(dt.UTC),
        model=run.model,
        output=config.model.output,
        key=config.key,
        pass_through=config.predictions.pass_through,
        score_column=config.predictions.score_column,
        quarantine_uri=gate.quarantine_uri,
        parts_uri=store.parts_uri(as_of, version),
        receipts_uri=workspace.scores(as_of, version),
        environment=environment_for(run.model.flavor),
    )


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
    )
    if (
        scored.parts != len(manifest.parts)
        or scored.rows_in != manifest.rows
        or scored.quarantined != gate.quarantined
        or scored.rows_in != scored.scored + scored.quarantined
    ):
        raise PermanentError(
            f"rows do not add up: the snapshot has {manifest.rows:,} rows in "
            f"{len(manifest.parts)} parts, {gate.quarantined:,} of them in quarantine; scored were "
            f"{scored.scored:,} in {scored.parts} parts, and {scored.quarantined:,} left out",
            where=job.uri,
            do=f"delete the receipts part-*.json below {job.receipts_uri} and score it again",
        )
    return scored


def _log_progress(run: Run, receipt: Receipt, done: int, parts: int) -> None:
    # A line for each tenth of the way: enough to see that it moves and how fast.
    if done == parts or done * 10 // parts > (done - 1) * 10 // parts:
        line = {
            "step": "score",
            "pipeline": run.pipeline,
            "partition": str(run.partition),
            "parts_done": done,
            "parts": parts,
            "part_rows": receipt.scored,
            "part_seconds": receipt.seconds,
        }
        log.info(json.dumps(line))
