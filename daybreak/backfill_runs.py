"""What a run of a backfill came to, from what it left in the workspace."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from daybreak.backfill import PartitionResult
from daybreak.summary import load_report
from include.pipeline import Pipeline
from include.reports.model import RunReport
from include.reports.records import STEPS, step_record
from include.run import Report
from include.stores import open_store
from include.workspace import Workspace


@dataclass(frozen=True)
class EndedRun:
    """A run as its orchestrator knows it; `said` is what to say of one that is not green."""

    run_id: str
    green: bool
    said: str
    started_at: dt.datetime | None
    seconds: float | None


def report_of(workspace: Workspace, run: EndedRun) -> Report | None:
    """The run's report; None where this machine cannot read it, or the run ended before any work.

    A report of an earlier attempt of the same run says nothing about this one.
    """
    record = step_record(workspace, run.run_id, "report")
    if record is None or record.result is None:
        return None
    if run.started_at is not None and record.started_at < run.started_at:
        return None
    return Report.model_validate(record.result)


def result_of_run(as_of: dt.date, run: EndedRun, report: Report | None) -> PartitionResult:
    """What a finished run came to: by its report, else by its orchestrator's state of the run."""
    if report is None:
        return PartitionResult(
            as_of=as_of,
            state="published" if run.green else "failed",
            seconds=run.seconds,
            error=None if run.green else run.said,
            run_id=run.run_id,
        )
    content = load_report(report)
    problem = content.problem or next(iter(content.others), None)
    error = f"{problem.step}: {problem.found}" if problem else run.said
    return reported(as_of, report, content, run.seconds, None if run.green else error)


def reported(
    as_of: dt.date, report: Report, content: RunReport, seconds: float | None, error: str | None
) -> PartitionResult:
    """A run by its report, of which `content` is the JSON."""
    return PartitionResult(
        as_of=as_of,
        state=content.state,
        version=content.lineage.version,
        rows=content.counts.published,
        drift=content.drift.verdict if content.drift else None,
        seconds=seconds,
        error=error,
        run_id=report.run_id,
        report=report.html,
    )


def left_alone(
    pipeline: Pipeline,
    workspace: Workspace,
    as_of: dt.date,
    why: str,
    seconds: float | None,
    run_id: str | None = None,
) -> PartitionResult:
    """A run that found nothing to do, since readers have a version by now: they keep it."""
    store = open_store(pipeline.config.predictions, workspace.predictions())
    current = store.current(as_of)
    return PartitionResult(
        as_of=as_of,
        state="unchanged",
        version=current.version if current else None,
        rows=current.rows if current else None,
        seconds=seconds,
        run_id=run_id,
        note=why,
    )


def step_under_way(workspace: Workspace, run_id: str, started_at: dt.datetime | None) -> str | None:
    """The step that a run is at: the first without a record of its own; None after the report."""
    for step in (*STEPS, "report"):
        record = step_record(workspace, run_id, step)
        if record is None or (started_at is not None and record.started_at < started_at):
            return step
    return None
