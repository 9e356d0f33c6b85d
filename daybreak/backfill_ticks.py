"""Which of a schedule's runs a backfill by Airflow wants.

Airflow has runs for the ticks of a DAG's cron and a backfill has those between two instants. A run
is for the partition of its tick's local date less the lag, so the ticks of a partition are those of
the local days of the partition `lag` after it. Airflow itself is asked which ticks these are.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from daybreak.airflow_api import RUNNING, AirflowApi, DagRun
from daybreak.backfill import Backfill
from daybreak.backfill_waits import CREATE_POOL
from daybreak.rest import Forbidden
from include.config import PipelineConfig
from include.errors import PermanentError
from include.partition import Partition, partition_for

if TYPE_CHECKING:
    from include.pipeline import Pipeline


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

    @property
    def conf(self) -> dict[str, str]:
        """The parameters of the runs."""
        # Each looks again when it begins: another run may have published the partition by then.
        return {"rescore": self.backfill.only}


def plan_airflow(
    backfill: Backfill, api: AirflowApi, now: dt.datetime, pool: str | None = None
) -> AirflowPlan:
    """Find the run of each wanted partition; `pool` is that of backfills, where one is named.

    A partition without a run is left out, and its plan says why: its schedule has none, or has it
    later. Raises PermanentError where Airflow could not run the others: no such DAG, a paused one,
    no such pool, a backfill or a run of these dates under way, a DAG without a schedule or one
    that starts later.
    """
    pipeline = backfill.pipeline
    _require_dag(api, pipeline)
    backfill = _with_pool(backfill, api, pool)
    plan = AirflowPlan(backfill, (), {})
    wanted = backfill.partitions
    if not wanted:
        return plan
    config = pipeline.config
    first, last = window(config, wanted[0])[0], window(config, wanted[-1])[1]
    under_way = [run for run in api.runs(pipeline.name, first, last) if run.state in RUNNING]
    possible = api.ticks(pipeline.name, first, last, plan.conf)
    ticks = sorted({*possible, *(run.logical_date for run in under_way if run.logical_date)})
    # Of several ticks of one partition (a month that is scored nightly) the last has all of it.
    last_tick = {partition_of(config, tick): tick for tick in ticks}
    chosen = {last_tick[each]: each for each in wanted if each in last_tick}
    _require_none_under_way(pipeline, under_way, chosen)
    _require_started(pipeline, chosen)
    left = {each.as_of: _left(config, each, now) for each in wanted if each not in last_tick}
    ranges = tuple(_ranges(ticks, chosen))
    return replace(plan, backfill=backfill.leaving(left), ranges=ranges, partitions=chosen)


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


def _with_pool(backfill: Backfill, api: AirflowApi, pool: str | None) -> Backfill:
    """Raises PermanentError where the pool of backfills does not exist."""
    if pool is None:
        return backfill
    try:
        found = api.pool(pool)
    except Forbidden:
        return backfill.noting(
            f"Whether Airflow has the pool {pool} (DAYBREAK_BACKFILL_POOL) is not known: this user "
            "may not read pools."
        )
    if found is None:
        raise PermanentError(
            f"Airflow has no pool {pool}, which DAYBREAK_BACKFILL_POOL names: it starts no task "
            "of a pool that does not exist",
            where=api.server.url,
            do=f"create it: {CREATE_POOL.format(pool=pool)}",
            pipeline=backfill.pipeline.name,
        )
    return backfill


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
