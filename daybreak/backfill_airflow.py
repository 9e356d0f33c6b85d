"""A backfill by Airflow: which of a schedule's runs are wanted, and their way through.

Airflow has runs for the ticks of a DAG's cron and a backfill has those between two instants. A run
is for the partition of its tick's local date less the lag, so the ticks of a partition are those of
the local days of the partition `lag` after it. Airflow itself is asked which ticks these are.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from daybreak.airflow_api import RUNNING, AirflowApi, DagRun
from daybreak.backfill import Backfill, Board, PartitionResult, Results
from daybreak.backfill_runs import EndedRun, result_of_run, step_under_way
from include.config import PipelineConfig
from include.errors import PermanentError
from include.partition import Partition, partition_for
from include.workspace import Workspace, run_id_of

if TYPE_CHECKING:
    from include.pipeline import Pipeline

LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Range:
    """Neighbouring ticks that are all wanted: what one backfill of Airflow can run."""

    ticks: tuple[dt.datetime, ...]


@dataclass(frozen=True)
class AirflowPlan:
    """The ranges to run, one after the other, and the partition of each tick."""

    backfill: Backfill
    ranges: tuple[Range, ...]
    partitions: dict[dt.datetime, Partition]


def plan_airflow(backfill: Backfill, api: AirflowApi, now: dt.datetime) -> AirflowPlan:
    """Find the run of each wanted partition.

    A partition without a run is left out, and its plan says why: its schedule has none, or has it
    later. Raises PermanentError where Airflow could not run the others: no such DAG, a paused one,
    a backfill or a run of these dates under way, a DAG without a schedule or one that starts later.
    """
    pipeline = backfill.pipeline
    _require_dag(api, pipeline)
    wanted = backfill.partitions
    if not wanted:
        return AirflowPlan(backfill, (), {})
    config = pipeline.config
    first, last = window(config, wanted[0])[0], window(config, wanted[-1])[1]
    under_way = [run for run in api.runs(pipeline.name, first, last) if run.state in RUNNING]
    possible = api.ticks(pipeline.name, first, last)
    ticks = sorted({*possible, *(run.logical_date for run in under_way if run.logical_date)})
    # Of several ticks of one partition (a month that is scored nightly) the last has all of it.
    last_tick = {partition_of(config, tick): tick for tick in ticks}
    chosen = {last_tick[each]: each for each in wanted if each in last_tick}
    _require_none_under_way(pipeline, under_way, chosen)
    _require_started(pipeline, chosen)
    left = {each.as_of: _left(config, each, now) for each in wanted if each not in last_tick}
    return AirflowPlan(backfill.leaving(left), tuple(_ranges(ticks, chosen)), chosen)


def window(config: PipelineConfig, partition: Partition) -> tuple[dt.datetime, dt.datetime]:
    """The first and the last instant at which a scheduled run is for this partition."""
    days = partition.ahead(config.partition.lag)
    zone = ZoneInfo(config.schedule.timezone)
    first = dt.datetime.combine(days.start, dt.time(), zone).astimezone(dt.UTC)
    after = dt.datetime.combine(days.end, dt.time(), zone).astimezone(dt.UTC)
    return first, after - dt.timedelta(microseconds=1)


def partition_of(config: PipelineConfig, tick: dt.datetime) -> Partition:
    """The partition of a scheduled run, by the rule that its plan goes by."""
    rule = config.partition
    return partition_for(rule.grain, rule.lag, config.schedule.timezone, at=tick)


def run_airflow(
    plan: AirflowPlan,
    api: AirflowApi,
    parallel: int,
    board: Board,
    results: Results,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Run the ranges one after the other, since Airflow has one backfill a DAG at a time.

    After Ctrl-C the range that is under way goes on in Airflow, and no other starts.
    """
    backfill_id = None
    try:
        for index, each in enumerate(plan.ranges, start=1):
            first, last = each.ticks[0], each.ticks[-1]
            _require_exactly(plan, api, each)
            name = plan.backfill.pipeline.name
            backfill_id = api.start_backfill(name, first, last, parallel).id
            part = f" ({index} of {len(plan.ranges)} ranges)" if len(plan.ranges) > 1 else ""
            dates = " to ".join(dict.fromkeys(str(plan.partitions[tick]) for tick in (first, last)))
            board.said(f"Airflow's backfill {backfill_id}: {dates}{part}")
            _follow(plan, api, each, backfill_id, board, results, pause)
            # The scheduler marks it itself, but only every half minute.
            api.end_backfill(backfill_id)
            backfill_id = None
    except KeyboardInterrupt:
        results.interrupted = True
        if backfill_id is not None:
            board.said(
                f"Airflow goes on with its backfill {backfill_id}; cancel it in Airflow if that "
                "is not wanted. Nothing else is started."
            )


def _follow(
    plan: AirflowPlan,
    api: AirflowApi,
    each: Range,
    backfill_id: int,
    board: Board,
    results: Results,
    pause: Callable[[float], None],
) -> None:
    """Return once every run of the range has ended."""
    name, workspace = plan.backfill.pipeline.name, plan.backfill.workspace
    waiting, paused = dict.fromkeys(each.ticks), False
    while True:
        runs = {run.logical_date: run for run in api.runs(name, each.ticks[0], each.ticks[-1])}
        for tick in list(waiting):
            run = runs.get(tick)
            partition = plan.partitions[tick]
            if run is not None and run.state not in RUNNING:
                del waiting[tick]
                result = result_of(workspace, partition.as_of, run)
                results.found.append(result)
                board.finished(result)
            elif run is not None and run.state == "running":
                step = step_under_way(workspace, run_id_of("airflow", run.id), run.started_at)
                board.running(partition.as_of, step or "verdict")
        if not waiting:
            return
        state = api.backfill(backfill_id)
        if state.paused and not state.completed and not paused:
            board.said(f"Airflow's backfill {backfill_id} is paused: unpause it in Airflow")
        paused = state.paused
        if state.completed and not any(
            runs[tick].state in RUNNING for tick in waiting if tick in runs
        ):
            for tick in waiting:
                result = PartitionResult(
                    as_of=plan.partitions[tick].as_of,
                    state="failed",
                    error=f"Airflow ended the backfill {backfill_id} without a run of it",
                )
                results.found.append(result)
                board.finished(result)
            return
        pause(LOOK_SECONDS)


def result_of(workspace: Workspace, as_of: dt.date, run: DagRun) -> PartitionResult:
    """What a finished run came to: by its report, where this machine can read it."""
    ended = EndedRun(
        run_id=run_id_of("airflow", run.id),
        green=run.state == "success",
        said=f"run {run.id} is {run.state}: see its log in Airflow",
        started_at=run.started_at,
        seconds=run.seconds,
    )
    return result_of_run(workspace, as_of, ended)


def _ranges(ticks: list[dt.datetime], chosen: dict[dt.datetime, Partition]) -> Iterator[Range]:
    """The wanted ticks, cut wherever the schedule has another one between two of them."""
    order = {tick: index for index, tick in enumerate(ticks)}
    wanted = sorted(chosen)
    together: list[dt.datetime] = wanted[:1]
    for before, tick in pairwise(wanted):
        if order[tick] != order[before] + 1:
            yield Range(tuple(together))
            together = []
        together.append(tick)
    if together:
        yield Range(tuple(together))


def _left(config: PipelineConfig, partition: Partition, now: dt.datetime) -> str:
    if window(config, partition)[1] > now:
        return "the schedule has its run later"
    return f"the schedule ({config.schedule.cron}) has no run for it: use --via local"


def _require_dag(api: AirflowApi, pipeline: Pipeline) -> None:
    name, url = pipeline.name, api.server.url
    if pipeline.config.schedule.cron is None:
        raise PermanentError(
            "the pipeline has no schedule.cron, and Airflow's backfills are runs of a schedule",
            do="use --via local",
            pipeline=name,
        )
    dag = api.dag(name)
    if dag is None or dag["is_stale"]:
        raise PermanentError(
            "this Airflow has no DAG of the pipeline",
            where=url,
            do="see that its DAGs folder is this project's dags/, and that it has no DAG "
            f"{name}__config_error",
            pipeline=name,
        )
    if dag["is_paused"]:
        raise PermanentError(
            "the DAG is paused: its runs would stay queued",
            where=url,
            do=f"unpause it: airflow dags unpause {name}",
            pipeline=name,
        )
    active = api.active_backfill(name)
    if active is not None:
        raise PermanentError(
            f"Airflow has a backfill of the DAG under way (id {active.id}"
            + (", paused)" if active.paused else ")"),
            where=url,
            do="wait for its end, or cancel it in Airflow",
            pipeline=name,
        )


def _require_none_under_way(
    pipeline: Pipeline, under_way: list[DagRun], chosen: dict[dt.datetime, Partition]
) -> None:
    taken = [
        f"{chosen[run.logical_date]} ({run.id}, {run.state})"
        for run in under_way
        if run.logical_date in chosen
    ]
    if taken:
        raise PermanentError(
            f"Airflow has runs under way of {', '.join(taken)}",
            do="wait for their end",
            pipeline=pipeline.name,
        )


def _require_started(pipeline: Pipeline, chosen: dict[dt.datetime, Partition]) -> None:
    """Airflow queues a run before the DAG's start date, and then never starts a task of it."""
    schedule = pipeline.config.schedule
    start = dt.datetime.combine(schedule.start_date, dt.time(), schedule.zone)
    early = [str(chosen[tick]) for tick in sorted(chosen) if tick < start]
    if early:
        more = f" and {len(early) - 1} more" if len(early) > 1 else ""
        raise PermanentError(
            f"the run of {early[0]}{more} lies before schedule.start_date "
            f"({schedule.start_date}), before which Airflow starts no task",
            do="set schedule.start_date to an earlier day, or use --via local",
            pipeline=pipeline.name,
        )


def _require_exactly(plan: AirflowPlan, api: AirflowApi, each: Range) -> None:
    """Airflow would run these ticks and no other: neither its DAG nor its runs changed since."""
    name = plan.backfill.pipeline.name
    found = api.ticks(name, each.ticks[0], each.ticks[-1])
    if found != list(each.ticks):
        odd = sorted(set(found) ^ set(each.ticks))
        raise PermanentError(
            f"Airflow's runs of {name} have changed since this backfill was planned: "
            f"{', '.join(tick.isoformat() for tick in odd[:5])}",
            where=api.server.url,
            do="start it again: what is done is not done twice",
        )
