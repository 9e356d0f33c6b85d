"""The deadline of a pipeline's scheduled runs: a time on the wall clock, and who hears of a miss.

Airflow finds `WallClockDeadline` through plugins/daybreak_deadline.py.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import (
    BaseDeadlineReference,
    DeadlineAlert,
    deadline_reference,
)

from include.config import Schedule
from include.deadlines import next_deadline
from include.workspace import run_id_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

log = logging.getLogger("daybreak")


@deadline_reference()
@dataclass(frozen=True)
class WallClockDeadline(BaseDeadlineReference):
    """The first `time` (ISO) on the clocks of `zone` at or after the time a run may start.

    Only of runs that the schedule made. A backfill's, a person's and an asset's have none: their
    dates lie anywhere, and each would be late at once.
    """

    time: str = "08:00:00"
    zone: str = "UTC"

    required_kwargs = frozenset({"dag_id", "run_id"})

    def _evaluate_with(self, *, session: Session, **kwargs: Any) -> dt.datetime | None:
        """The deadline of a run; None for a run without one. An error here would stop the run."""
        from airflow.models.dagrun import DagRun
        from sqlalchemy import select

        try:
            row = session.execute(
                select(DagRun.run_type, DagRun.run_after).where(
                    DagRun.dag_id == kwargs["dag_id"], DagRun.run_id == kwargs["run_id"]
                )
            ).one_or_none()
            if row is None or row.run_type != "scheduled":
                return None
            return next_deadline(row.run_after, dt.time.fromisoformat(self.time), self.zone)
        except Exception:
            log.exception("run %s goes without its deadline", kwargs)
            return None

    def serialize_reference(self) -> dict[str, Any]:
        # Airflow finds a class of a plugin by its path, which it adds, and shows people the type.
        return {"reference_type": f"{self.time[:5]} {self.zone}", **asdict(self)}

    @classmethod
    def deserialize_reference(cls, reference_data: dict[str, Any]) -> WallClockDeadline:
        return cls(time=reference_data["time"], zone=reference_data["zone"])


def deadline_of(schedule: Schedule) -> DeadlineAlert | None:
    """The alert of a schedule with a deadline."""
    if schedule.deadline is None:
        return None
    return DeadlineAlert(
        reference=WallClockDeadline(schedule.deadline.isoformat(), schedule.timezone),
        interval=dt.timedelta(0),
        # In the triggerer: a callback of the executor would wait for a slot behind the very tasks
        # that are late, and only the local executor takes one.
        callback=AsyncCallback(missed),
        name=f"due by {schedule.deadline:%H:%M}",
    )


async def missed(context: dict[str, Any]) -> str:
    """Called by Airflow once a deadline passed before its run succeeded."""
    from dags.airflow_run import connection_of
    from include.connections import use_connections_of
    from include.lateness import Missed
    from tasks.alarm import alarm

    use_connections_of(connection_of)
    run = context["dag_run"]
    late = Missed.model_validate(
        {
            "pipeline": run["dag_id"],
            "run_id": run_id_of("airflow", run["dag_run_id"]),
            "due_at": context["deadline"]["deadline_time"],
            "at": run["logical_date"] or run["run_after"],
            "state": str(run["state"]),
            "started_at": run["start_date"],
            "url": _page(run["dag_id"], run["dag_run_id"]),
        }
    )
    # In a thread: the triggerer's other triggers wait for no storage and no chat server.
    return await asyncio.to_thread(alarm, late)


def _page(dag_id: str, run_id: str) -> str | None:
    from urllib.parse import quote

    from airflow.configuration import conf

    base = conf.get("api", "base_url", fallback="")
    if not base:
        return None
    return f"{base.rstrip('/')}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"
