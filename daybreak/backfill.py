"""A backfill: which partitions of a range would be run, why, and how long that takes."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from daybreak.exit_codes import exit_code_of, worst_of
from include.errors import BadConfig, DaybreakError
from include.partition import Partition, partition_for, partitions_between
from include.partition_states import PartitionState, partition_states, to_run
from include.past_runs import Usual, past_runs, usual
from include.pipeline import Pipeline, load_named
from include.run import Rescore, Value
from include.settings import settings
from include.stores import open_store
from include.workspace import Workspace

if TYPE_CHECKING:
    from include.models.registry import RegisteredModel

Only = Rescore
Via = Literal["local", "airflow", "prefect"]

ROWS_UNSEEN = "Whether the warehouse's rows changed is known only by extracting: --only all does."


@dataclass(frozen=True)
class Planned:
    """One partition of the range, and whether this backfill runs it; `why` says why, or why not.

    `left_out`: it is wanted, and whoever should run it has no run for it.
    """

    state: PartitionState
    runs: bool
    why: str
    left_out: bool = False

    @property
    def partition(self) -> Partition:
        return self.state.partition


@dataclass(frozen=True)
class Backfill:
    """What was asked for and what comes of it; `usual` is what a partition took before."""

    pipeline: Pipeline
    workspace: Workspace
    only: Only
    planned: tuple[Planned, ...]
    usual: Usual | None
    notes: tuple[str, ...] = ()

    @property
    def partitions(self) -> list[Partition]:
        """Those to run, the oldest first."""
        return [each.partition for each in self.planned if each.runs]

    @property
    def left_out(self) -> list[Planned]:
        """Those that are wanted and cannot be run."""
        return [each for each in self.planned if each.left_out]

    @property
    def wanted(self) -> list[Partition]:
        """Those to run and those left out, the oldest first."""
        return [each.partition for each in self.planned if each.runs or each.left_out]

    def noting(self, note: str) -> Backfill:
        return replace(self, notes=(*self.notes, note))

    def leaving(self, left: dict[dt.date, str]) -> Backfill:
        """The same without the runs of these partitions, by `as_of`, and why each is left out."""
        planned = [
            Planned(each.state, False, left[each.partition.as_of], left_out=True)
            if each.runs and each.partition.as_of in left
            else each
            for each in self.planned
        ]
        return replace(self, planned=tuple(planned))


class PartitionResult(Value):
    """How one partition of a backfill went; of one `not run` this backfill saw no end.

    `rows` are the version's; `seconds` are from the start of the run to its end. `error` is why
    the state is not published, or what failed after it was; `note` is why a run found nothing to
    do.
    """

    as_of: dt.date
    state: Literal["published", "unchanged", "held", "failed", "not run"]
    version: str | None = None
    rows: int | None = None
    drift: str | None = None
    seconds: float | None = None
    error: str | None = None
    run_id: str | None = None
    report: str | None = None
    note: str | None = None


class Board(Protocol):
    """Is told how a backfill goes."""

    def running(self, as_of: dt.date, doing: str) -> None: ...

    def said(self, message: str) -> None: ...

    def finished(self, result: PartitionResult) -> None: ...


@dataclass
class Results:
    """The results so far, and whether a person or an error ended the backfill before its end."""

    found: list[PartitionResult] = field(default_factory=list)
    interrupted: bool = False
    error: DaybreakError | None = None

    def not_run(self, partitions: Iterable[Partition], why: str) -> None:
        """These have come to nothing that is known, unless they have a result."""
        known = {result.as_of for result in self.found}
        self.found += [
            PartitionResult(as_of=each.as_of, state="not run", error=why)
            for each in partitions
            if each.as_of not in known
        ]

    def complete(self, backfill: Backfill) -> list[PartitionResult]:
        """One result for each partition that is wanted, in their order."""
        for each in backfill.left_out:
            self.not_run([each.partition], each.why)
        stopped = f"not started: {self.error.found}" if self.error else "stopped before its turn"
        self.not_run(backfill.partitions, stopped)
        by_date = {result.as_of: result for result in self.found}
        return [by_date[each.as_of] for each in backfill.wanted]


def plan_backfill(
    name: str,
    first: dt.date,
    last: dt.date,
    only: Only,
    now: dt.datetime,
) -> Backfill:
    """The partitions from that of `first` to that of `last`, both days local and inclusive.

    Raises BadConfig for an unknown pipeline, days that are swapped, and a partition that lies in
    the future. The registry is asked where it matters what is stale.
    """
    where = settings()
    pipeline = load_named(where.pipelines, name)
    partitions = partitions_of(pipeline, first, last, now)
    model, notes = None, list[str]()
    if only != "missing":
        model = current_model(pipeline)
    if only == "stale":
        notes.append(ROWS_UNSEEN)
    workspace = Workspace(where.workspace, name)
    store = open_store(pipeline.config.predictions, workspace.predictions())
    runs = past_runs(workspace, pipeline.config)
    states = partition_states(pipeline, workspace, store, partitions, runs, model)
    return Backfill(
        pipeline=pipeline,
        workspace=workspace,
        only=only,
        planned=tuple(_planned(state, only) for state in states),
        usual=usual(workspace, (run for each in runs.values() for run in each)),
        notes=tuple(notes),
    )


def current_model(pipeline: Pipeline) -> RegisteredModel:
    """What the pipeline's alias stands for now; the import of MLflow takes seconds."""
    from include.models.registry import find_model

    return find_model(pipeline.config.model.name, pipeline.config.model.alias)


def newest_partition(pipeline: Pipeline, now: dt.datetime) -> Partition:
    """The newest partition that a run may score now."""
    rule = pipeline.config.partition
    return partition_for(rule.grain, rule.lag, pipeline.config.schedule.timezone, at=now)


def partitions_of(
    pipeline: Pipeline, first: dt.date, last: dt.date, now: dt.datetime
) -> list[Partition]:
    """The partitions of a range of days; raises BadConfig where there can be none yet."""
    if last < first:
        raise BadConfig(
            f"the range ends ({last}) before it begins ({first})",
            do="swap --from and --to",
            pipeline=pipeline.name,
        )
    partitions = partitions_between(first, last, pipeline.config.partition.grain)
    newest = newest_partition(pipeline, now)
    future = [each for each in partitions if each.start > newest.start]
    if future:
        these = str(future[0]) + (f" to {future[-1]}" if len(future) > 1 else "")
        lies = "lie" if len(future) > 1 else "lies"
        raise BadConfig(
            f"{these} {lies} in the future: the newest partition that can be scored now is "
            f"{newest}",
            do=f"pass --to {newest}",
            pipeline=pipeline.name,
        )
    return partitions


def _planned(state: PartitionState, only: Only) -> Planned:
    return Planned(state, *to_run(state, only))


@dataclass(frozen=True)
class Estimate:
    """What a backfill takes, from `runs` past ones: rows in all, and minutes of its steps."""

    runs: int
    rows: int
    minutes: float


def estimate(backfill: Backfill, parallel: int) -> Estimate | None:
    """None where no run of the past says it. What runs side by side is taken to cost no more."""
    known, count = backfill.usual, len(backfill.partitions)
    if known is None:
        return None
    rounds = math.ceil(count / parallel)
    return Estimate(known.runs, known.rows * count, round(known.seconds * rounds / 60, 1))


def plan_json(backfill: Backfill, parallel: int, via: Via) -> dict[str, Any]:
    """What `--dry-run --json` prints. Keys are added, never renamed, within a `schema_version`."""
    expected = estimate(backfill, parallel)
    return {
        "schema_version": 1,
        "pipeline": backfill.pipeline.name,
        "dry_run": True,
        "via": via,
        "only": backfill.only,
        "parallel": parallel,
        "runs": len(backfill.partitions),
        "partitions": [
            {
                "partition": str(each.partition),
                "state": each.state.state,
                "runs": each.runs,
                "left_out": each.left_out,
                "why": each.why,
                "version": each.state.version,
            }
            for each in backfill.planned
        ],
        "estimate": None
        if expected is None
        else {
            "rows": expected.rows,
            "minutes": expected.minutes,
            "from_runs": expected.runs,
        },
        "notes": list(backfill.notes),
    }


def results_json(
    backfill: Backfill,
    results: list[PartitionResult],
    via: Via,
    exit_code: int,
    error: DaybreakError | None = None,
) -> dict[str, Any]:
    """What `--json` prints at the end, `partitions` being those that are wanted.

    `error` is what ended the backfill before its end.
    """
    return {
        "schema_version": 1,
        "pipeline": backfill.pipeline.name,
        "dry_run": False,
        "via": via,
        "only": backfill.only,
        "exit_code": exit_code,
        "states": dict(Counter(result.state for result in results)),
        "partitions": [result.model_dump(mode="json") for result in results],
        "error": None if error is None else error.fields(),
    }


def code_of_results(results: Iterable[PartitionResult]) -> int:
    """0 where every partition is published and nothing failed after, 3 where some are only held."""
    return worst_of(exit_code_of(each.state, each.error) for each in results)
