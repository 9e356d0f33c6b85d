"""A backfill by Airflow: the wanted runs of its schedule, and their way through."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass

from daybreak.airflow_api import RUNNING, AirflowApi, DagRun
from daybreak.backfill import Board, PartitionResult, Results
from daybreak.backfill_runs import (
    EndedRun,
    left_alone,
    report_of,
    result_of_run,
    step_under_way,
)
from daybreak.backfill_ticks import AirflowPlan, Range
from daybreak.backfill_waits import Quiet
from daybreak.rest import Forbidden
from include.errors import DaybreakError, PermanentError, TransientError
from include.partition import Partition
from include.workspace import run_id_of

LOOK_SECONDS = 2.0


def run_airflow(
    plan: AirflowPlan,
    api: AirflowApi,
    parallel: int,
    board: Board,
    results: Results,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run the ranges one after the other, since Airflow has one backfill a DAG at a time.

    After Ctrl-C, or an error of Airflow's that stays, the range that is under way goes on in
    Airflow, and no other starts.
    """
    name, started = plan.backfill.pipeline.name, list[_Started]()
    quiet = Quiet(api, name, board, clock)
    try:
        for index, each in enumerate(plan.ranges, start=1):
            first, last = each.ticks[0], each.ticks[-1]
            _require_exactly(plan, api, each)
            backfill_id = api.start_backfill(name, first, last, plan.conf, parallel).id
            started.append(_Started(backfill_id, each))
            part = f" ({index} of {len(plan.ranges)} ranges)" if len(plan.ranges) > 1 else ""
            dates = " to ".join(dict.fromkeys(str(plan.partitions[tick]) for tick in (first, last)))
            board.said(f"Airflow's backfill {backfill_id}: {dates}{part}")
            _follow(plan, api, started[-1], board, results, quiet, pause)
            _mark_completed(api, started.pop(), board)
    except KeyboardInterrupt:
        results.interrupted = True
        _leave(plan, started, results, board)
    except DaybreakError:
        _leave(plan, started, results, board)
        raise


@dataclass(frozen=True)
class _Started:
    """A backfill of Airflow's that was started, and what it runs."""

    id: int
    range: Range


def _mark_completed(api: AirflowApi, done: _Started, board: Board) -> None:
    """The scheduler marks it itself, but only every half minute."""
    try:
        api.end_backfill(done.id)
    except TransientError as error:  # its runs have all ended
        board.said(f"Airflow's backfill {done.id} is left for Airflow to close: {error.found}")


def _leave(plan: AirflowPlan, started: list[_Started], results: Results, board: Board) -> None:
    """Say what goes on in Airflow, where nobody here follows it any more."""
    for each in started:
        going = [plan.partitions[tick] for tick in each.range.ticks]
        results.not_run(going, f"its run goes on in Airflow, in the backfill {each.id}")
        board.said(
            f"Airflow goes on with its backfill {each.id}; cancel it in Airflow if that "
            "is not wanted. Nothing else is started."
        )


def _follow(
    plan: AirflowPlan,
    api: AirflowApi,
    started: _Started,
    board: Board,
    results: Results,
    quiet: Quiet,
    pause: Callable[[float], None],
) -> None:
    """Return once every run of the range has ended."""
    name, workspace = plan.backfill.pipeline.name, plan.backfill.workspace
    ticks = started.range.ticks
    waiting, paused = dict.fromkeys(ticks), False
    while True:
        runs = {run.logical_date: run for run in api.runs(name, ticks[0], ticks[-1])}
        steps: dict[Partition, str | None] = {}
        for tick in list(waiting):
            run = runs.get(tick)
            partition = plan.partitions[tick]
            if run is not None and run.state not in RUNNING:
                del waiting[tick]
                result = result_of(plan, api, partition.as_of, run)
                results.found.append(result)
                board.finished(result)
            elif run is not None and run.state == "running":
                step = step_under_way(workspace, run_id_of("airflow", run.id), run.started_at)
                steps[partition] = step
                board.running(partition.as_of, step or "verdict")
        if not waiting:
            return
        state = api.backfill(started.id)
        if state.paused and not state.completed and not paused:
            board.said(f"Airflow's backfill {started.id} is paused: unpause it in Airflow")
        paused = state.paused
        if state.completed and not any(
            runs[tick].state in RUNNING for tick in waiting if tick in runs
        ):
            for tick in waiting:
                result = PartitionResult(
                    as_of=plan.partitions[tick].as_of,
                    state="failed",
                    error=f"Airflow ended the backfill {started.id} without a run of it",
                )
                results.found.append(result)
                board.finished(result)
            return
        going = {plan.partitions[tick]: runs[tick] for tick in waiting if tick in runs}
        quiet.look(going, steps)
        pause(LOOK_SECONDS)


def result_of(plan: AirflowPlan, api: AirflowApi, as_of: dt.date, run: DagRun) -> PartitionResult:
    """What a finished run came to: by its report, where this machine can read it."""
    ended = EndedRun(
        run_id=run_id_of("airflow", run.id),
        green=run.state == "success",
        said=f"run {run.id} is {run.state}: see its log in Airflow",
        started_at=run.started_at,
        seconds=run.seconds,
    )
    pipeline, workspace = plan.backfill.pipeline, plan.backfill.workspace
    report = report_of(workspace, ended)
    if report is None and ended.green:
        why = _nothing_to_do(api, pipeline.name, run)
        if why is not None:
            return left_alone(pipeline, workspace, as_of, why, ended.seconds, ended.run_id)
    return result_of_run(as_of, ended, report)


def _nothing_to_do(api: AirflowApi, dag_id: str, run: DagRun) -> str | None:
    """Why the run ended after plan; None where it went on, or this user may not know."""
    try:
        planned = api.returned(dag_id, run.id, "plan")
    except Forbidden:
        return None
    return str(planned["says"]) if planned is not None and "ends_here" in planned else None


def _require_exactly(plan: AirflowPlan, api: AirflowApi, each: Range) -> None:
    """Airflow would run these ticks and no other: neither its DAG nor its runs changed since."""
    name = plan.backfill.pipeline.name
    found = api.ticks(name, each.ticks[0], each.ticks[-1], plan.conf)
    if found != list(each.ticks):
        odd = sorted(set(found) ^ set(each.ticks))
        raise PermanentError(
            f"Airflow's runs of {name} have changed since this backfill was planned: "
            f"{', '.join(tick.isoformat() for tick in odd[:5])}",
            where=api.server.url,
            do="start it again: what is done is not done twice",
        )
