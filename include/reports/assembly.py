"""Assemble what a run's report says from the records that its steps left."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from include import storage
from include.approvals import standing_of
from include.drift.charts import Chart
from include.drift.numbers import DriftNumbers
from include.notify import notifications
from include.pipeline import Pipeline, planned_pipeline
from include.reports.model import Counts, HeldSection, Problem, Readers, RunReport, State
from include.reports.records import STEPS, RunRecords, read_records
from include.reports.sections import (
    counts_of,
    drift_section,
    gate_section,
    held_section,
    lineage_of,
    publish_section,
    reasons_of,
    step_lines,
)
from include.run import Run
from include.snapshots import load_manifest
from include.stores import Store, Version, open_store
from include.workspace import Workspace

_PUBLISHING = STEPS[:-1]  # drift decides nothing: readers have the version whatever it finds

Read = TypeVar("Read")


@dataclass(frozen=True)
class Seen:
    """What readers see of the date; `known` is false where the table could not be asked."""

    version: Version | None
    known: bool


class Attempts:
    """Reads what must not cost the rest of the report; `notes` name what could not be read."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def read(self, what: str, read: Callable[[], Read]) -> Read | None:
        """What `read` returns, or None where it raised."""
        try:
            return read()
        except Exception as error:  # noqa: BLE001 - the report of a broken run meets broken things
            self.notes.append(f"{what} could not be read: {type(error).__name__}: {error}")
            return None


def assemble(workspace: Workspace, run_id: str, folder: Pipeline | None = None) -> RunReport:
    """The report of a run, however far it came.

    `folder` is the pipeline as it stands now; it says where the table is where nothing was planned.
    Whatever cannot be read (a manifest that is gone, a table that does not answer) is named in the
    report's notes; nothing but the run's own records can make it fail.
    """
    records, attempts = read_records(workspace, run_id), Attempts()
    run, request, snapshot = records.run, records.request, records.snapshot
    gate, drift, published = records.gate, records.drift, records.published
    read = attempts.read
    pipeline = read("The pipeline's configuration", lambda: planned_pipeline(run)) if run else None
    seen = _seen(attempts, workspace, run, pipeline)
    table = pipeline or (folder if run is None else None)
    readers = read("The versions before", lambda: _readers(workspace, run, table, seen))
    source = read("The snapshot's manifest", lambda: load_manifest(snapshot)) if snapshot else None
    numbers = read("The drift numbers", lambda: _numbers(drift.uri)) if drift else None
    reasons = (
        read("The quarantined rows", lambda: reasons_of(gate, records.scored)) if gate else None
    )
    config = pipeline.config if pipeline else None
    deadline = config.schedule.deadline if config else None
    held = read("The question to a person", lambda: _held(workspace, records))
    state, counts = state_of(records), counts_of(records)
    problem, others = _problems(records, state)
    return RunReport(
        state=state,
        verdict=_verdict(records, state, counts, problem, seen),
        pipeline=workspace.pipeline,
        description=config.description if config else "",
        owner=config.owner if config else "",
        partition=str(run.partition)
        if run
        else str(request.partition_date or "")
        if request
        else "",
        timezone=run.timezone if run else "UTC",
        deadline=f"{deadline:%H:%M}" if deadline else None,
        run_id=run_id,
        invocation=run.invocation if run else request.invocation if request else None,
        planned_at=run.planned_at if run else None,
        finished_at=_finished_at(records),
        generated_at=dt.datetime.now(dt.UTC),
        problem=problem,
        others=others,
        counts=counts,
        steps=step_lines(records),
        gate=gate_section(gate, reasons or []) if gate else None,
        publish=publish_section(published) if published else None,
        held=held,
        scores=_score_chart(numbers) if numbers else None,
        drift=drift_section(drift, numbers, config.drift if config else None) if drift else None,
        lineage=lineage_of(records, source),
        links=_links(workspace, run_id, records),
        readers=readers,
        notifications=tuple(
            read("What people were told", lambda: notifications(workspace, run_id)) or ()
        ),
        notes=tuple(attempts.notes),
    )


def readers_see(store: Store, as_of: dt.date | None) -> Version | None:
    """The current version of the date, else of the latest date before; of any date without one."""
    dates = [date for date in store.current_dates() if as_of is None or date <= as_of]
    return store.current(dates[-1]) if dates else None


def state_of(records: RunRecords) -> State:
    """What became of the run, by the first of its steps that failed."""
    failed = next((step for step in _PUBLISHING if records.failed(step)), None)
    if failed is not None:
        return "held" if failed == "publish" and records.held else "failed"
    return records.published.outcome if records.published is not None else "failed"


def _seen(
    attempts: Attempts, workspace: Workspace, run: Run | None, pipeline: Pipeline | None
) -> Seen:
    if run is None or pipeline is None:
        return Seen(None, known=False)
    predictions, notes = pipeline.config.predictions, len(attempts.notes)
    found = attempts.read(
        "The prediction table",
        lambda: open_store(predictions, workspace.predictions()).current(run.partition.as_of),
    )
    return Seen(found, known=len(attempts.notes) == notes)


def _held(workspace: Workspace, records: RunRecords) -> HeldSection | None:
    """Of the version that this run scored."""
    if records.run is None or records.scored is None:
        return None
    as_of = records.run.partition.as_of
    standing = standing_of(workspace, as_of, records.scored.version)
    return held_section(standing, dt.datetime.now(dt.UTC))


def _readers(
    workspace: Workspace, run: Run | None, pipeline: Pipeline | None, seen: Seen
) -> Readers | None:
    found = seen.version
    if found is None and pipeline is not None and (seen.known or run is None):
        store = open_store(pipeline.config.predictions, workspace.predictions())
        found = readers_see(store, run.partition.as_of if run else None)
    return Readers.of(found) if found is not None else None


def _problems(records: RunRecords, state: State) -> tuple[Problem | None, tuple[Problem, ...]]:
    """The error that decided the state, and those that did not."""
    found = [
        Problem(
            step=step,
            error=error.get("error", "Error"),
            found=error.get("found", ""),
            where=error.get("where", ""),
            do=error.get("do", ""),
        )
        for step, record in records.records.items()
        if (error := record.error) and not records.outdated(step)
    ]
    deciding = next((problem for problem in found if problem.step in _PUBLISHING), None)
    others = tuple(problem for problem in found if problem is not deciding)
    if deciding is None and state == "failed":
        deciding = _unrecorded(records)
    return deciding, others


def _unrecorded(records: RunRecords) -> Problem:
    step = next((step for step in _PUBLISHING if step not in records.records), "publish")
    return Problem(
        step=step,
        error="NoRecord",
        found=f"the step {step} left no record of this attempt: it did not run, or its process "
        "was killed",
        do="look at the orchestrator's log of that task, and run the partition again: finished "
        "parts are not redone",
    )


def _verdict(
    records: RunRecords, state: State, counts: Counts, problem: Problem | None, seen: Seen
) -> str:
    """One sentence on what readers see now."""
    published = records.published
    if published is not None and state in ("published", "unchanged"):
        rows = f"{published.rows:,} rows"
        if counts.rows_in is not None and counts.scored is not None:
            rows = (
                f"{counts.rows_in:,} rows in = {counts.scored:,} scored + "
                f"{counts.quarantined:,} quarantined"
            )
        if seen.version is not None and seen.version.version != published.version:
            return (
                f"{rows}; this run's version was {published.version}, and readers see version "
                f"{seen.version.version} since."
            )
        had = "see" if state == "published" else "had already, and still see,"
        return f"{rows}; readers {had} version {published.version}."
    if seen.version is not None:
        still = f"readers still see version {seen.version.version}"
    elif seen.known:
        still = "readers have no predictions for this date"
    elif records.run is None:
        still = "nothing changed for readers"
    else:
        still = "what readers see could not be read"
    if state == "held":
        return f"The new version waits for a person to look at it; {still}."
    step = problem.step if problem else "publish"
    if problem is not None and problem.error == "NoRecord":
        return f"The run did not get past {step}; {still}."
    return f"The run failed at {step}; {still}."


def _finished_at(records: RunRecords) -> dt.datetime | None:
    ends = (
        record.started_at + dt.timedelta(seconds=record.seconds)
        for record in records.records.values()
    )
    return max(ends, default=None)


def _numbers(uri: str) -> DriftNumbers:
    return DriftNumbers.model_validate_json(storage.read(uri))


def _score_chart(numbers: DriftNumbers) -> Chart | None:
    return next((each for each in numbers.charts if each.column == numbers.score_column), None)


def _links(workspace: Workspace, run_id: str, records: RunRecords) -> dict[str, str]:
    """Where to look on: the run's folder, its page in the orchestrator, Evidently's, the table."""
    run, drift, published = records.run, records.drift, records.published
    links = {
        "run": workspace.run(run_id),
        "orchestrator": run.invocation.url if run else None,
        "evidently": drift.evidently_uri if drift else None,
        "table": published.table if published else None,
    }
    return {name: uri for name, uri in links.items() if uri}
