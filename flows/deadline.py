"""The deadline of a pipeline's scheduled runs: a time on the wall clock, and who hears of a miss.

Two look at the clock, and a message is sent once whoever comes first. The run itself does while it
runs (`watched`), which needs nothing of the server. For a run that never starts, that dies or that
fails, an automation of the server does: it starts the flow `deadline` (see flows/deployments.py).
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from include.deadlines import next_deadline
from include.errors import DaybreakError
from include.lateness import Missed
from include.pipeline import load_named
from include.settings import settings, silence_telemetry
from include.workspace import run_id_of

silence_telemetry()  # Prefect reads its settings when it is imported.

from prefect import flow, runtime  # noqa: E402
from prefect.client.orchestration import get_client  # noqa: E402
from prefect.client.schemas.objects import FlowRun, StateType  # noqa: E402
from prefect.deployments import run_deployment  # noqa: E402
from prefect.utilities.urls import url_for  # noqa: E402

from flows.run_log import daybreak_logged  # noqa: E402

log = logging.getLogger("daybreak")

SCHEDULED = "auto-scheduled"  # Prefect's own tag of the runs that a schedule made
_WAITING = (StateType.SCHEDULED, StateType.PENDING, StateType.PAUSED)
_GOING = (StateType.RUNNING, StateType.CANCELLING)


def due_at(pipeline: str, start: dt.datetime) -> dt.datetime | None:
    """By when the run that was to start at `start` must be done; None without a deadline."""
    schedule = load_named(settings().pipelines, pipeline).config.schedule
    if schedule.deadline is None:
        return None
    return next_deadline(start, schedule.deadline, schedule.timezone)


@contextmanager
def watched(pipeline: str) -> Iterator[None]:
    """Alarm people once the deadline of the flow run that runs here passes, or has passed.

    Only runs that a schedule made have one: a person's and a backfill's dates lie anywhere.
    """
    own, start = runtime.flow_run, runtime.flow_run.scheduled_start_time
    due = _due_or_none(pipeline, start) if SCHEDULED in own.tags else None
    if due is None:
        yield
        return
    now = dt.datetime.now(dt.UTC)
    missed = Missed(
        pipeline=pipeline,
        run_id=run_id_of("prefect", str(own.id)),
        due_at=due,
        at=start,
        state="running",
        started_at=now,
        url=url_for("flow-run", obj_id=str(own.id)),
    )
    clock = threading.Timer(max(0.0, (due - now).total_seconds()), _tell, [missed])
    clock.daemon = True
    clock.start()
    try:
        yield
    finally:
        clock.cancel()
        clock.join()  # a message that is being sent is sent


@flow(name="deadline", flow_run_name="{pipeline}", persist_result=False, retries=0)
def deadline(pipeline: str, flow_run_id: UUID) -> str:
    """Look at a scheduled run whose deadline may have passed, and alarm people where it has.

    Started by the automation of the pipeline's deployment, or by this flow itself: Prefect counts
    seconds from the start of a run, and a deadline is a time on the wall clock.

    Args:
        pipeline: The pipeline: its folder's name.
        flow_run_id: The flow run that may be late.
    """
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(flow_run_id)
    assert run.expected_start_time is not None
    with daybreak_logged():
        due = due_at(pipeline, run.expected_start_time)
        if due is None:
            return _said(f"{pipeline} has no deadline")
        if dt.datetime.now(dt.UTC) < due:
            run_deployment(
                f"deadline/{pipeline}",
                parameters={"pipeline": pipeline, "flow_run_id": str(flow_run_id)},
                scheduled_time=due,
                idempotency_key=f"deadline:{flow_run_id}:{due.isoformat()}",
                timeout=0,
                as_subflow=False,
            )
            return _said(f"flow run {flow_run_id} is due at {due.isoformat()}: looked at then")
        from tasks.alarm import alarm

        return alarm(missed_by(pipeline, run, due))


def missed_by(pipeline: str, run: FlowRun, due: dt.datetime) -> Missed:
    """The deadline that a flow run missed, as the server knows it."""
    kind = run.state_type
    state = "queued" if kind in _WAITING else "running" if kind in _GOING else "failed"
    return Missed(
        pipeline=pipeline,
        run_id=run_id_of("prefect", str(run.id)),
        due_at=due,
        at=run.expected_start_time or due,
        state=state,
        started_at=run.start_time,
        url=url_for("flow-run", obj_id=run.id),
    )


def _due_or_none(pipeline: str, start: dt.datetime) -> dt.datetime | None:
    try:
        return due_at(pipeline, start)
    except DaybreakError as error:  # plan says the same, and fails the run with it
        log.warning("the run goes without its deadline: %s", error)
        return None


def _tell(missed: Missed) -> None:
    from tasks.alarm import alarm

    try:
        alarm(missed)
    except Exception:
        # An alarm that cannot be raised is no reason to stop the run that is late.
        log.exception("nobody was told that %s is late", missed.run_id)


def _said(line: str) -> str:
    log.info(line)
    return line
