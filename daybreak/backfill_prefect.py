"""A backfill by Prefect: one flow run a partition, of the deployment `backfill/<pipeline>`.

Prefect makes one run of an idempotency key, whoever asks for it and however often. A key here is
the partition, what a run would make of it now (the model version behind the alias, the
configuration, and `--only`), and the last run of the partition that has ended. So two backfills at
one time, or one that is started again after Ctrl-C, share their runs; and a partition that failed,
or is stale since, has a new key and runs again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from daybreak.backfill import Backfill, Board, PartitionResult, Results, current_model
from daybreak.backfill_runs import (
    EndedRun,
    left_alone,
    report_of,
    result_of_run,
    step_under_way,
)
from daybreak.prefect_api import FINAL, UNDER_WAY, Deployment, FlowRun, PrefectApi
from include.errors import DaybreakError, PermanentError
from include.partition import Partition, partition_for
from include.workspace import run_id_of

FLOW = "backfill"
LOOK_SECONDS = 2.0
# A worker asks for runs every 10 to 15 s, and takes some more to start one.
PATIENCE_SECONDS = 45.0
DEPLOY = "write and apply its deployments: python -m flows.deployments, then prefect deploy --all"


@dataclass(frozen=True)
class PrefectPlan:
    """The deployment whose runs these are, and what a run would be made from now."""

    backfill: Backfill
    deployment: Deployment
    makes: str


@dataclass
class _Followed:
    """A run of a partition, and since when it waits for a worker."""

    partition: Partition
    run: FlowRun
    since: float
    told: str = field(default="")


def plan_prefect(backfill: Backfill, api: PrefectApi, now: dt.datetime) -> PrefectPlan:
    """Find the deployment and what a run would make.

    Raises PermanentError where Prefect could not run it: no such deployment, a paused one, a paused
    pool or queue, or a scheduled run of one of the dates under way.
    """
    name = backfill.pipeline.name
    deployment = api.deployment(FLOW, name)
    if deployment is None:
        raise PermanentError(
            f"this Prefect has no deployment {FLOW}/{name}",
            where=api.server.url,
            do=DEPLOY,
            pipeline=name,
        )
    _require_open(backfill, api, deployment)
    _require_none_under_way(backfill, api, now)
    model = current_model(backfill.pipeline)
    # `only` too: a run that leaves what has a version is none for one who wants it scored anew.
    made_from = f"{backfill.pipeline.digest} {model.name} {model.version} {backfill.only}"
    return PrefectPlan(backfill, deployment, hashlib.sha256(made_from.encode()).hexdigest()[:12])


def run_prefect(
    plan: PrefectPlan,
    api: PrefectApi,
    parallel: int,
    board: Board,
    results: Results,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Keep `parallel` runs under way, the oldest partition first, until each has ended.

    After Ctrl-C, or an error of Prefect's that stays, the runs that were asked for go on in
    Prefect, and no other is.
    """
    waiting, going = deque(plan.backfill.partitions), list[_Followed]()
    try:
        while waiting or going:
            while waiting and len(going) < parallel:
                partition = waiting.popleft()
                going.append(_Followed(partition, run_of(plan, api, partition), clock()))
            for each in list(going):
                if _ended(plan, api, each, board, results):
                    going.remove(each)
                elif clock() - each.since > PATIENCE_SECONDS:
                    _say_why_it_waits(plan, api, each, board)
            if going and not (waiting and len(going) < parallel):
                pause(LOOK_SECONDS)
    except KeyboardInterrupt:
        results.interrupted = True
        _leave(going, results, board)
    except DaybreakError:
        _leave(going, results, board)
        raise


def _leave(going: list[_Followed], results: Results, board: Board) -> None:
    """Say what goes on in Prefect, where nobody here follows it any more."""
    if not going:
        return
    results.not_run([each.partition for each in going], "its run goes on in Prefect")
    left = ", ".join(str(each.partition) for each in going)
    board.said(
        f"Prefect goes on with {left}; cancel the runs in Prefect if that is not wanted. "
        "Nothing else is started."
    )


def run_of(plan: PrefectPlan, api: PrefectApi, partition: Partition) -> FlowRun:
    """The run of a partition: the one under way that makes the same, else a new one."""
    name, deployment = plan.backfill.pipeline.name, plan.deployment
    tags = [f"partition:{partition}", f"makes:{plan.makes}"]
    under_way = api.runs(deployment, UNDER_WAY, tags, limit=1)
    if under_way:
        return under_way[0]
    ended = api.runs(deployment, FINAL, tags[:1], sort="END_TIME_DESC", limit=1)
    after = ended[0].id if ended else "none"
    return api.create_run(
        deployment,
        name=f"{name} {partition}",
        parameters={
            "pipeline": name,
            "partition_date": str(partition),
            # It looks again when it begins: another run may have published the partition by then.
            "rescore": plan.backfill.only,
        },
        tags=tags,
        idempotency_key=f"{name}:{partition}:{plan.makes}:after-{after}",
    )


def result_of(plan: PrefectPlan, as_of: dt.date, run: FlowRun) -> PartitionResult:
    """What a finished run came to: by its report, where this machine can read it."""
    message = " ".join(run.message.split())
    ended = EndedRun(
        run_id=run_id_of("prefect", run.id),
        green=run.state == "COMPLETED",
        said=f"run {run.name} is {run.state_name}: {message or 'see its log in Prefect'}",
        started_at=run.started_at,
        seconds=run.seconds,
    )
    workspace = plan.backfill.workspace
    report = report_of(workspace, ended)
    if report is None and ended.green and message:  # which only a run with nothing to do has
        pipeline = plan.backfill.pipeline
        return left_alone(pipeline, workspace, as_of, message, ended.seconds, ended.run_id)
    return result_of_run(as_of, ended, report)


def _ended(
    plan: PrefectPlan, api: PrefectApi, each: _Followed, board: Board, results: Results
) -> bool:
    """Look at a run; True where it has ended, and its result is in `results`."""
    as_of, found = each.partition.as_of, api.run(each.run.id)
    if found is None:
        result = PartitionResult(
            as_of=as_of, state="failed", error=f"its run {each.run.id} was deleted in Prefect"
        )
    elif found.ended:
        result = result_of(plan, as_of, found)
    else:
        each.run = found
        doing = found.state_name.lower()
        if found.state == "RUNNING":
            run_id = run_id_of("prefect", found.id)
            step = step_under_way(plan.backfill.workspace, run_id, found.started_at)
            doing = step or "ending"
        board.running(as_of, doing)
        return False
    results.found.append(result)
    board.finished(result)
    return True


def _say_why_it_waits(plan: PrefectPlan, api: PrefectApi, each: _Followed, board: Board) -> None:
    """Say, once for each reason, why nobody takes a run that waits."""
    if each.run.state != "SCHEDULED":
        return
    deployment, waiting = plan.deployment, api.waiting(plan.deployment)
    if waiting.pool_paused:
        why = f"the work pool {deployment.pool} is paused: prefect work-pool resume"
    elif waiting.queue_paused:
        why = f"the work queue {deployment.queue} of {deployment.pool} is paused: resume it"
    elif not waiting.workers:
        why = (
            f"no worker of the pool {deployment.pool} answers: start one with "
            f"prefect worker start --pool {deployment.pool}"
        )
    else:
        why = f"it is {each.run.state_name}: the workers or the limits of Prefect are taken"
    if why != each.told:
        each.told = why
        board.said(f"{each.partition} waits in Prefect, {why}")


def _require_open(backfill: Backfill, api: PrefectApi, deployment: Deployment) -> None:
    name, waiting = backfill.pipeline.name, api.waiting(deployment)
    paused = [
        (deployment.paused, f"the deployment {FLOW}/{name}", "unpause it in Prefect"),
        (
            waiting.pool_paused,
            f"the work pool {deployment.pool}",
            f"resume it: prefect work-pool resume {deployment.pool}",
        ),
        (
            waiting.queue_paused,
            f"the work queue {deployment.queue} of the pool {deployment.pool}",
            f"resume it: prefect work-queue resume {deployment.queue} --pool {deployment.pool}",
        ),
    ]
    for is_paused, what, do in paused:
        if is_paused:
            raise PermanentError(
                f"{what} is paused: its runs would wait", where=api.server.url, do=do, pipeline=name
            )


def _require_none_under_way(backfill: Backfill, api: PrefectApi, now: dt.datetime) -> None:
    """No run that the schedule made is at work on one of the dates."""
    pipeline, config = backfill.pipeline, backfill.pipeline.config
    scoring = api.deployment("scoring", pipeline.name)
    if scoring is None:
        return
    wanted, rule = set(backfill.partitions), config.partition
    for run in api.runs(scoring, UNDER_WAY, ["auto-scheduled"]):
        if run.expected_at is None or run.expected_at > now:
            continue
        partition = partition_for(
            rule.grain, rule.lag, config.schedule.timezone, at=run.expected_at
        )
        if partition in wanted:
            raise PermanentError(
                f"Prefect has the scheduled run of {partition} under way ({run.name}, "
                f"{run.state_name})",
                where=api.server.url,
                do="wait for its end",
                pipeline=pipeline.name,
            )
