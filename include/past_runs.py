"""The runs of a pipeline by partition, from what they left in the workspace's runs/."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median

from include import storage
from include.config import PipelineConfig
from include.errors import PermanentError
from include.partition import Partition, partition_for
from include.reports.records import PLANNED, RunRecords, read_records
from include.run import Request, Run
from include.stored import load
from include.workspace import Workspace

# The records are small files: reading them waits for the storage, not for the processor.
READERS = 16

ESTIMATED_FROM = 10  # the newest whole runs, of at most four times as many that are looked at


@dataclass(frozen=True)
class PastRun:
    """A run that began; `ended` says that it has a report, so that no step of it is still to come.

    `planned_at` orders the runs of a partition; of a run that failed to plan it is when it began.
    """

    run_id: str
    partition: Partition
    planned_at: dt.datetime
    ended: bool


@dataclass(frozen=True)
class Usual:
    """What a partition usually takes: medians over `runs` whole runs, the steps' seconds alone."""

    runs: int
    rows: int
    seconds: float


@dataclass
class _Files:
    names: set[str] = field(default_factory=set)
    requested_at: dt.datetime | None = None


def past_runs(workspace: Workspace, config: PipelineConfig) -> dict[dt.date, list[PastRun]]:
    """Every run whose partition is known, by the partition's `as_of`, in the order of planning."""
    root, found = workspace.runs(), dict[str, _Files]()
    for entry in storage.entries(root):
        run_id, _, name = entry.uri.removeprefix(f"{root}/").partition("/")
        files = found.setdefault(run_id, _Files())
        files.names.add(name)
        if name == "request.json":
            files.requested_at = entry.modified_at
    runs: dict[dt.date, list[PastRun]] = {}
    with ThreadPoolExecutor(READERS) as readers:
        read = readers.map(lambda item: _past_run(workspace, config, *item), found.items())
        for run in sorted(filter(None, read), key=lambda run: (run.planned_at, run.run_id)):
            runs.setdefault(run.partition.as_of, []).append(run)
    return runs


def _past_run(
    workspace: Workspace, config: PipelineConfig, run_id: str, files: _Files
) -> PastRun | None:
    folder, ended = workspace.run(run_id), "steps/report.json" in files.names
    if "run.json" in files.names:
        run = load(Run, storage.join(folder, "run.json"), PLANNED)
        return PastRun(run_id, run.partition, run.planned_at, ended)
    if files.requested_at is None:
        return None  # its request was refused before it named a partition
    asked = storage.join(folder, "request.json")
    request = load(Request, asked, "the record of what was asked for")
    rule = config.partition
    try:
        partition = partition_for(
            rule.grain,
            rule.lag,
            config.schedule.timezone,
            explicit=request.partition_date,
            at=request.at,
        )
    except PermanentError:  # it named none
        return None
    return PastRun(run_id, partition, files.requested_at, ended)


def usual(workspace: Workspace, runs: Iterable[PastRun]) -> Usual | None:
    """What the newest of these runs took that did all of the work; None where there is none.

    A run that found a version current already, or parts of it scored, is no measure.
    """
    newest = sorted(runs, key=lambda run: run.planned_at, reverse=True)[: 4 * ESTIMATED_FROM]
    with ThreadPoolExecutor(READERS) as readers:
        read = readers.map(lambda run: read_records(workspace, run.run_id), newest)
        whole = [records for records in read if _whole(records)][:ESTIMATED_FROM]
    if not whole:
        return None
    return Usual(
        runs=len(whole),
        rows=round(median(records.snapshot.rows for records in whole if records.snapshot)),
        seconds=median(sum(step.seconds for step in run.records.values()) for run in whole),
    )


def _whole(records: RunRecords) -> bool:
    scored, published = records.scored, records.published
    return (
        records.snapshot is not None
        and scored is not None
        and scored.reused_parts == 0
        and published is not None
        and published.outcome == "published"
    )
