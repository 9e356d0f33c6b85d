"""What a run that an orchestrator made came to, from what it left in the workspace."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from daybreak.backfill import PartitionResult
from daybreak.summary import load_report
from include import storage
from include.reports.records import STEPS
from include.run import Report, StepRecord
from include.workspace import Workspace


@dataclass(frozen=True)
class EndedRun:
    """A run as its orchestrator knows it; `said` is what to say of one that is not green."""

    run_id: str
    green: bool
    said: str
    started_at: dt.datetime | None
    seconds: float | None


def result_of_run(workspace: Workspace, as_of: dt.date, run: EndedRun) -> PartitionResult:
    """What a finished run came to: by its report, where this machine can read it.

    Where it cannot, as where the orchestrator has another workspace, its state of the run is all.
    """
    record = _record(workspace, run.run_id, "report")
    # A report of an earlier attempt of the same run says nothing about this one.
    current = record is not None and (run.started_at is None or record.started_at >= run.started_at)
    if record is None or record.result is None or not current:
        return PartitionResult(
            as_of=as_of,
            state="published" if run.green else "failed",
            seconds=run.seconds,
            error=None if run.green else run.said,
            run_id=run.run_id,
        )
    report = Report.model_validate(record.result)
    content = load_report(report)
    problem = content.problem or next(iter(content.others), None)
    error = f"{problem.step}: {problem.found}" if problem else run.said
    return PartitionResult(
        as_of=as_of,
        state=content.state,
        version=content.lineage.version,
        rows=content.counts.published,
        drift=content.drift.verdict if content.drift else None,
        seconds=run.seconds,
        error=None if run.green else error,
        run_id=run.run_id,
        report=report.html,
    )


def step_under_way(workspace: Workspace, run_id: str, started_at: dt.datetime | None) -> str | None:
    """The step that a run is at: the first without a record of its own; None after the report."""
    for step in (*STEPS, "report"):
        record = _record(workspace, run_id, step)
        if record is None or (started_at is not None and record.started_at < started_at):
            return step
    return None


def _record(workspace: Workspace, run_id: str, step: str) -> StepRecord | None:
    try:
        return StepRecord.model_validate_json(storage.read(workspace.step(run_id, step)))
    except FileNotFoundError:
        return None
