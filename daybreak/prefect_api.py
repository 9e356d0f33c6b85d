"""A client of the REST API of a Prefect 3 server: what a backfill needs of it, and no more."""

from __future__ import annotations

import base64
import datetime as dt
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from include.errors import PermanentError, TransientError
from include.settings import PrefectServer

TIMEOUT_SECONDS = 60
ATTEMPTS = 6
FIRST_WAIT_SECONDS = 1.0  # doubled with each attempt: a restart of the server has 31 s to pass
PAGE = 200

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
UNDER_WAY = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")


@dataclass(frozen=True)
class Deployment:
    """A deployment as Prefect lists it, and where its runs wait for a worker."""

    id: str
    paused: bool
    pool: str | None
    queue: str | None


@dataclass(frozen=True)
class FlowRun:
    """A flow run; `state` is the state's type and `state_name` what Prefect shows."""

    id: str
    name: str
    state: str
    state_name: str
    message: str
    expected_at: dt.datetime | None
    started_at: dt.datetime | None
    seconds: float | None

    @property
    def ended(self) -> bool:
        return self.state in FINAL


@dataclass(frozen=True)
class Waiting:
    """Who could take a run that waits: the pool and its queue, and the workers that answer."""

    pool_paused: bool
    queue_paused: bool
    workers: int


@dataclass
class PrefectApi:
    """Raises PermanentError for an answer that is final, with what the server said in it.

    A call that finds no server is repeated for half a minute and then a TransientError. That holds
    for the creation of a run too: its idempotency key makes it the same run.
    """

    server: PrefectServer
    pause: Callable[[float], None] = time.sleep

    def deployment(self, flow: str, name: str) -> Deployment | None:
        """The deployment `flow`/`name`; None where there is none."""
        try:
            found = self._get(f"deployments/name/{quote(flow, safe='')}/{quote(name, safe='')}")
        except _NotFound:
            return None
        return Deployment(
            id=found["id"],
            paused=bool(found["paused"]),
            pool=found["work_pool_name"],
            queue=found["work_queue_name"],
        )

    def waiting(self, deployment: Deployment) -> Waiting:
        """What there is to take a run of the deployment."""
        if deployment.pool is None:  # a process that serves it polls for its runs itself
            return Waiting(False, False, 1)
        pool = f"work_pools/{quote(deployment.pool, safe='')}"
        queue = f"{pool}/queues/{quote(deployment.queue or 'default', safe='')}"
        online = self._post(f"{pool}/workers/filter", {"workers": {"status": {"any_": ["ONLINE"]}}})
        return Waiting(
            pool_paused=bool(self._get(pool)["is_paused"]),
            queue_paused=bool(self._get(queue)["is_paused"]),
            workers=len(online),
        )

    def runs(
        self,
        deployment: Deployment,
        states: Sequence[str],
        tags: Sequence[str] = (),
        *,
        sort: str = "ID_DESC",
        limit: int | None = None,
    ) -> list[FlowRun]:
        """The deployment's runs in one of the states, with all of the tags; the newest first."""
        wanted: dict[str, Any] = {"state": {"type": {"any_": list(states)}}}
        if tags:
            wanted["tags"] = {"all_": list(tags)}
        found: list[FlowRun] = []
        while True:
            page = min(PAGE, limit - len(found)) if limit is not None else PAGE
            body = {
                "deployments": {"id": {"any_": [deployment.id]}},
                "flow_runs": wanted,
                "sort": sort,
                "limit": page,
                "offset": len(found),
            }
            answer = self._post("flow_runs/filter", body)
            found += [_run(each) for each in answer]
            if len(answer) < page or len(found) == limit:
                return found

    def run(self, run_id: str) -> FlowRun | None:
        """A run; None where it was deleted."""
        try:
            return _run(self._get(f"flow_runs/{run_id}"))
        except _NotFound:
            return None

    def create_run(
        self,
        deployment: Deployment,
        name: str,
        parameters: dict[str, Any],
        tags: Sequence[str],
        idempotency_key: str,
    ) -> FlowRun:
        """A run that starts once a worker takes it; the one of that key where there is one."""
        body = {
            "name": name,
            "parameters": parameters,
            "tags": list(tags),
            "idempotency_key": idempotency_key,
            "state": {"type": "SCHEDULED"},
        }
        return _run(self._post(f"deployments/{deployment.id}/create_flow_run", body))

    def _get(self, path: str) -> Any:
        return self._call("GET", path, None)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        wait = FIRST_WAIT_SECONDS
        for _ in range(ATTEMPTS - 1):
            try:
                return self._send(method, path, body)
            except TransientError:
                self.pause(wait)
                wait *= 2
        return self._send(method, path, body)

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        server, headers, data = self.server, {"Accept": "application/json"}, None
        if server.key:
            headers["Authorization"] = f"Bearer {server.key}"
        elif server.auth:
            token = base64.b64encode(server.auth.encode()).decode()
            headers["Authorization"] = f"Basic {token}"
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(  # noqa: S310 - the address is the user's own setting
            f"{server.url}/{path}", data, headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise _refusal(error, method, path, server) from None
        except ValueError as error:
            raise PermanentError(
                f"{server.url} answers {method} {path} with something that is not JSON",
                do="set PREFECT_API_URL to the address of Prefect's API, which ends in /api",
            ) from error
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            raise TransientError(
                f"no Prefect server answers at {server.url}: {reason}",
                do="start it (prefect server start), or set PREFECT_API_URL to its address, which "
                "`prefect config view` shows",
            ) from None


class _NotFound(PermanentError):
    """404."""


def _refusal(
    error: urllib.error.HTTPError, method: str, path: str, server: PrefectServer
) -> Exception:
    """An HTTP error as one of our kinds, with what the server said."""
    text = error.read().decode("utf-8", errors="replace")
    try:
        content = json.loads(text)
        said = content.get("detail") or content.get("exception_detail") or text
    except (ValueError, AttributeError):
        said = text
    found = f"Prefect answered {error.code} to {method} {path.partition('?')[0]}: " + (
        " ".join(str(said).split())[:400] or error.reason
    )
    if error.code in (401, 403):
        return PermanentError(
            found,
            where=server.url,
            do="set PREFECT_API_KEY (Prefect Cloud) or PREFECT_API_AUTH_STRING (a server of your "
            "own) as `prefect config view --show-secrets` has it",
        )
    if error.code == 404:
        return _NotFound(found, where=server.url)
    if error.code in (408, 429, 500, 502, 503, 504):
        return TransientError(found, where=server.url, do="see the log of Prefect's server")
    return PermanentError(found, where=server.url)


def _instant(text: str | None) -> dt.datetime | None:
    return dt.datetime.fromisoformat(text) if text else None


def _run(found: dict[str, Any]) -> FlowRun:
    state = found["state"] or {"type": "SCHEDULED", "name": "Scheduled", "message": None}
    started, ended = _instant(found["start_time"]), _instant(found["end_time"])
    return FlowRun(
        id=found["id"],
        name=found["name"],
        state=state["type"],
        state_name=state["name"] or state["type"].capitalize(),
        message=state["message"] or "",
        expected_at=_instant(found["expected_start_time"]),
        started_at=started,
        seconds=(ended - started).total_seconds() if started and ended else None,
    )
