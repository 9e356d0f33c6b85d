"""A client of the REST API of Airflow 3.3: what a backfill needs of it, and no more."""

from __future__ import annotations

import datetime as dt
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from include.errors import PermanentError, TransientError
from include.settings import AirflowServer

TIMEOUT_SECONDS = 60
READ_ATTEMPTS = 6
FIRST_WAIT_SECONDS = 1.0  # doubled with each attempt: a restart of the server has 31 s to pass
PAGE = 100

RUNNING = ("queued", "running")


@dataclass(frozen=True)
class DagRun:
    """A run as Airflow lists it; `logical_date` is the tick of its schedule, where it has one."""

    id: str
    state: str
    kind: str
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


@dataclass
class AirflowApi:
    """Raises PermanentError for an answer that is final, with what the server said in it.

    A read that finds no server is repeated for half a minute and then a TransientError; a write is
    never repeated, since the server may have done it.
    """

    server: AirflowServer
    pause: Callable[[float], None] = time.sleep
    _token: str | None = field(default=None, repr=False)

    def health(self) -> dict[str, str]:
        """The state of each of Airflow's parts, such as {"scheduler": "healthy"}; needs no login.

        Asked once, without patience: raises TransientError where no server answers.
        """
        found = self._send("GET", "/api/v2/monitor/health", None, None)
        return {part: str(state["status"]) for part, state in found.items() if state.get("status")}

    def dag(self, dag_id: str) -> dict[str, Any] | None:
        """What Airflow knows of a DAG; None where it has none of that id."""
        try:
            found: dict[str, Any] = self._get(f"dags/{quote(dag_id)}")
        except _NotFound:
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

    def active_backfill(self, dag_id: str) -> AirflowBackfill | None:
        """The one that has not ended, of which Airflow allows one a DAG."""
        query = urlencode({"dag_id": dag_id, "order_by": "-id", "limit": PAGE})
        listed = self._get(f"backfills?{query}")["backfills"]
        return next((each for each in map(_backfill, listed) if not each.completed), None)

    def backfill(self, backfill_id: int) -> AirflowBackfill:
        return _backfill(self._get(f"backfills/{backfill_id}"))

    def ticks(self, dag_id: str, first: dt.datetime, last: dt.datetime) -> list[dt.datetime]:
        """The logical dates for which a backfill from `first` to `last` would have runs.

        Those that lie in the future, and those of runs that are under way now, are not among them.
        """
        answer = self._post("backfills/dry_run", _wanted(dag_id, first, last))
        dates = [_instant(each["logical_date"]) for each in answer["backfills"]]
        return sorted(date for date in dates if date is not None)

    def start_backfill(
        self, dag_id: str, first: dt.datetime, last: dt.datetime, max_active_runs: int
    ) -> AirflowBackfill:
        """Queue the runs from `first` to `last`; runs of those dates that have ended run again."""
        body = _wanted(dag_id, first, last) | {"max_active_runs": max_active_runs}
        return _backfill(self._post("backfills", body))

    def end_backfill(self, backfill_id: int) -> None:
        """Mark it completed; runs of it that are still queued fail."""
        try:
            self._call("PUT", f"backfills/{backfill_id}/cancel", {})
        except _Conflict:  # the scheduler has marked it meanwhile
            return

    def _get(self, path: str) -> Any:
        wait = FIRST_WAIT_SECONDS
        for _ in range(READ_ATTEMPTS - 1):
            try:
                return self._call("GET", path)
            except TransientError:
                self.pause(wait)
                wait *= 2
        return self._call("GET", path)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        token = self._token or self._log_in()
        try:
            return self._send(method, f"/api/v2/{path}", body, token)
        except _Unauthorized:
            if self.server.token or self._token is None:
                raise
        self._token = None  # it has lasted as long as the server lets it
        return self._send(method, f"/api/v2/{path}", body, self._log_in())

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
        answer = self._send(
            "POST", "/auth/token", {"username": server.user, "password": server.password}, None
        )
        self._token = str(answer["access_token"])
        return self._token

    def _send(self, method: str, path: str, body: dict[str, Any] | None, token: str | None) -> Any:
        headers = {"Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(  # noqa: S310 - the address is the user's own setting
            self.server.url + path, data, headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise _refusal(error, method, path, self.server) from None
        except ValueError as error:
            raise PermanentError(
                f"{self.server.url} answers {method} {path} with something that is not JSON",
                do="set DAYBREAK_AIRFLOW_URL to the address of Airflow's API server, without /api",
            ) from error
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            raise TransientError(
                f"no Airflow answers at {self.server.url}: {reason}",
                do="start it, or set DAYBREAK_AIRFLOW_URL to its API server's address",
            ) from None


class _NotFound(PermanentError):
    """404."""


class _Conflict(PermanentError):
    """409."""


class _Unauthorized(PermanentError):
    """401."""


def _refusal(
    error: urllib.error.HTTPError, method: str, path: str, server: AirflowServer
) -> Exception:
    """An HTTP error as one of our kinds, with what the server said."""
    text = error.read().decode("utf-8", errors="replace")
    try:
        said = json.loads(text).get("detail", text)
    except (ValueError, AttributeError):
        said = text
    found = f"Airflow answered {error.code} to {method} {path.partition('?')[0]}: " + (
        " ".join(str(said).split())[:400] or error.reason
    )
    if error.code in (401, 403):
        kind = _Unauthorized if error.code == 401 else PermanentError
        who = f"the user {server.user}" if server.user and not server.token else "the token"
        return kind(found, where=server.url, do=f"give {who} the right to run backfills")
    if error.code in (404, 409):
        return (_NotFound if error.code == 404 else _Conflict)(found, where=server.url)
    if error.code in (429, 500, 502, 503, 504):
        return TransientError(found, where=server.url, do="see the API server's log")
    return PermanentError(found, where=server.url)


def _wanted(dag_id: str, first: dt.datetime, last: dt.datetime) -> dict[str, Any]:
    return {
        "dag_id": dag_id,
        "from_date": _text(first),
        "to_date": _text(last),
        # Runs of these dates may exist, green or red: that they are wanted again is decided by
        # what the table holds, which Airflow does not know.
        "reprocess_behavior": "completed",
        # Sent though it is empty: without it a run that exists keeps the parameters it had.
        "dag_run_conf": {},
    }


def _text(instant: dt.datetime) -> str:
    return instant.astimezone(dt.UTC).isoformat()


def _instant(text: str | None) -> dt.datetime | None:
    return dt.datetime.fromisoformat(text) if text else None


def _run(found: dict[str, Any]) -> DagRun:
    return DagRun(
        id=found["dag_run_id"],
        state=found["state"],
        kind=found["run_type"],
        logical_date=_instant(found["logical_date"]),
        started_at=_instant(found["start_date"]),
        ended_at=_instant(found["end_date"]),
    )


def _backfill(found: dict[str, Any]) -> AirflowBackfill:
    return AirflowBackfill(
        id=found["id"], completed=found["completed_at"] is not None, paused=found["is_paused"]
    )
