"""A client of the REST API of Airflow 3.3: what a backfill needs of it, and no more."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from daybreak.rest import Conflict, NotFound, Rest, Unauthorized, instant
from include.errors import PermanentError
from include.settings import AirflowServer

PAGE = 100

RUNNING = ("queued", "running")


@dataclass(frozen=True)
class DagRun:
    """A run as Airflow lists it; `logical_date` is the tick of its schedule, where it has one."""

    id: str
    state: str
    logical_date: dt.datetime | None
    started_at: dt.datetime | None
    ended_at: dt.datetime | None

    @property
    def seconds(self) -> float | None:
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()


@dataclass(frozen=True)
class AirflowBackfill:
    """A backfill as Airflow keeps it; `completed` also where it was cancelled."""

    id: int
    completed: bool
    paused: bool


@dataclass(frozen=True)
class Task:
    """A task of a run, and the pool whose slots it takes; no `state`: its turn has not come."""

    id: str
    state: str | None
    pool: str


@dataclass(frozen=True)
class Pool:
    """A pool; `free` slots are those that no task has taken."""

    slots: int
    free: int


@dataclass
class AirflowApi:
    """Raises PermanentError for an answer that is final, with what the server said in it.

    What finds no server is repeated for half a minute and then a TransientError, where it is safe
    to do twice. The start of a backfill is not: the server may have made it.
    """

    server: AirflowServer
    pause: Callable[[float], None] = time.sleep
    _token: str | None = field(default=None, repr=False)
    _rest: Rest = field(init=False, repr=False)

    def __post_init__(self) -> None:
        server = self.server
        who = f"the user {server.user}" if server.user and not server.token else "the token"
        self._rest = Rest(
            name="Airflow",
            url=server.url,
            absent="start it, or set DAYBREAK_AIRFLOW_URL to its API server's address",
            address="set DAYBREAK_AIRFLOW_URL to the address of Airflow's API server, without /api",
            login=f"give {who} the right to run backfills",
            pause=self.pause,
        )

    def health(self) -> dict[str, str]:
        """The state of each of Airflow's parts, such as {"scheduler": "healthy"}; needs no login.

        Asked once, without patience: raises TransientError where no server answers.
        """
        found = self._rest.send("GET", "/api/v2/monitor/health")
        return {part: str(state["status"]) for part, state in found.items() if state.get("status")}

    def dag(self, dag_id: str) -> dict[str, Any] | None:
        """What Airflow knows of a DAG; None where it has none of that id."""
        try:
            found: dict[str, Any] = self._get(f"dags/{quote(dag_id)}")
        except NotFound:
            return None
        return found

    def runs(self, dag_id: str, first: dt.datetime, last: dt.datetime) -> list[DagRun]:
        """The runs whose logical date is from `first` to `last`, both inclusive."""
        found: list[DagRun] = []
        while True:
            query = {
                "logical_date_gte": _text(first),
                "logical_date_lte": _text(last),
                "order_by": "logical_date",
                "limit": PAGE,
                "offset": len(found),
            }
            answer = self._get(f"dags/{quote(dag_id)}/dagRuns?{urlencode(query)}")
            found += [_run(each) for each in answer["dag_runs"]]
            if len(found) >= answer["total_entries"] or not answer["dag_runs"]:
                return found

    def tasks(self, dag_id: str, run_id: str) -> list[Task]:
        """The tasks of a run, in no order; at most a hundred, and a mapped one several times."""
        answer = self._get(f"{_path(dag_id, run_id)}/taskInstances?{urlencode({'limit': PAGE})}")
        return [
            Task(each["task_id"], each["state"], each["pool"]) for each in answer["task_instances"]
        ]

    def returned(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """What a task of a run returned; None where it returned nothing."""
        path = f"{_path(dag_id, run_id)}/taskInstances/{quote(task_id)}/xcomEntries/return_value"
        try:
            value = self._get(path)["value"]
        except NotFound:
            return None
        # A database without a JSON type gives the text.
        return json.loads(value) if isinstance(value, str) else value

    def pool(self, name: str) -> Pool | None:
        """A pool; None where there is none of that name."""
        try:
            found = self._get(f"pools/{quote(name, safe='')}")
        except NotFound:
            return None
        return Pool(slots=found["slots"], free=found["open_slots"])

    def active_backfill(self, dag_id: str) -> AirflowBackfill | None:
        """The one that has not ended, of which Airflow allows one a DAG."""
        query = urlencode({"dag_id": dag_id, "order_by": "-id", "limit": PAGE})
        listed = self._get(f"backfills?{query}")["backfills"]
        return next((each for each in map(_backfill, listed) if not each.completed), None)

    def backfill(self, backfill_id: int) -> AirflowBackfill:
        return _backfill(self._get(f"backfills/{backfill_id}"))

    def ticks(
        self, dag_id: str, first: dt.datetime, last: dt.datetime, conf: Mapping[str, Any]
    ) -> list[dt.datetime]:
        """The logical dates for which a backfill from `first` to `last` would have runs.

        Those that lie in the future, and those of runs that are under way now, are not among them.
        `conf` are the parameters of the runs, which Airflow holds against the DAG's.
        """
        body = _wanted(dag_id, first, last, conf)
        answer = self._rest.patiently(lambda: self._call("POST", "backfills/dry_run", body))
        dates = [instant(each["logical_date"]) for each in answer["backfills"]]
        return sorted(date for date in dates if date is not None)

    def start_backfill(
        self,
        dag_id: str,
        first: dt.datetime,
        last: dt.datetime,
        conf: Mapping[str, Any],
        max_active_runs: int,
    ) -> AirflowBackfill:
        """Queue the runs from `first` to `last`; runs of those dates that have ended run again."""
        body = _wanted(dag_id, first, last, conf) | {"max_active_runs": max_active_runs}
        return _backfill(self._call("POST", "backfills", body))

    def end_backfill(self, backfill_id: int) -> None:
        """Mark it completed; runs of it that are still queued fail. Once is as good as twice."""
        try:
            self._rest.patiently(lambda: self._call("PUT", f"backfills/{backfill_id}/cancel", {}))
        except Conflict:  # the scheduler has marked it meanwhile
            return

    def _get(self, path: str) -> Any:
        return self._rest.patiently(lambda: self._call("GET", path))

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        token = self._token or self._log_in()
        try:
            return self._send(method, path, body, token)
        except Unauthorized:
            if self.server.token or self._token is None:
                raise
        self._token = None  # it has lasted as long as the server lets it
        return self._send(method, path, body, self._log_in())

    def _send(self, method: str, path: str, body: dict[str, Any] | None, token: str) -> Any:
        return self._rest.send(
            method, f"/api/v2/{path}", body, {"Authorization": f"Bearer {token}"}
        )

    def _log_in(self) -> str:
        server = self.server
        if server.token:
            return server.token
        if not server.user or not server.password:
            raise PermanentError(
                f"there are no credentials for the Airflow at {server.url}",
                do="set DAYBREAK_AIRFLOW_USER and DAYBREAK_AIRFLOW_PASSWORD, or "
                "DAYBREAK_AIRFLOW_TOKEN",
            )
        login = {"username": server.user, "password": server.password}
        answer = self._rest.send("POST", "/auth/token", login)
        self._token = str(answer["access_token"])
        return self._token


def _path(dag_id: str, run_id: str) -> str:
    return f"dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def _wanted(
    dag_id: str, first: dt.datetime, last: dt.datetime, conf: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "dag_id": dag_id,
        "from_date": _text(first),
        "to_date": _text(last),
        # Runs of these dates may exist, green or red: that they are wanted again is decided by
        # what the table holds, which Airflow does not know.
        "reprocess_behavior": "completed",
        # Sent also where it is empty: without it a run that exists keeps the parameters it had.
        "dag_run_conf": dict(conf),
    }


def _text(instant: dt.datetime) -> str:
    return instant.astimezone(dt.UTC).isoformat()


def _run(found: dict[str, Any]) -> DagRun:
    return DagRun(
        id=found["dag_run_id"],
        state=found["state"],
        logical_date=instant(found["logical_date"]),
        started_at=instant(found["start_date"]),
        ended_at=instant(found["end_date"]),
    )


def _backfill(found: dict[str, Any]) -> AirflowBackfill:
    return AirflowBackfill(
        id=found["id"], completed=found["completed_at"] is not None, paused=found["is_paused"]
    )
