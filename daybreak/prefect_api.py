"""A client of the REST API of a Prefect 3 server: what a backfill needs of it, and no more."""

from __future__ import annotations

import base64
import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from daybreak.rest import NotFound, Rest, instant
from include.settings import PrefectServer

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
    _rest: Rest = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._rest = Rest(
            name="Prefect server",
            url=self.server.url,
            absent="start it (prefect server start), or set PREFECT_API_URL to its address, which "
            "`prefect config view` shows",
            address="set PREFECT_API_URL to the address of Prefect's API, which ends in /api",
            login="set PREFECT_API_KEY (Prefect Cloud) or PREFECT_API_AUTH_STRING (a server of "
            "your own) as `prefect config view --show-secrets` has it",
            pause=self.pause,
        )

    def deployment(self, flow: str, name: str) -> Deployment | None:
        """The deployment `flow`/`name`; None where there is none."""
        try:
            found = self._get(f"deployments/name/{quote(flow, safe='')}/{quote(name, safe='')}")
        except NotFound:
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
        except NotFound:
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
        headers = self._headers()
        return self._rest.patiently(lambda: self._rest.send(method, f"/{path}", body, headers))

    def _headers(self) -> dict[str, str]:
        if self.server.key:
            return {"Authorization": f"Bearer {self.server.key}"}
        if self.server.auth:
            token = base64.b64encode(self.server.auth.encode()).decode()
            return {"Authorization": f"Basic {token}"}
        return {}


def _run(found: dict[str, Any]) -> FlowRun:
    state = found["state"] or {"type": "SCHEDULED", "name": "Scheduled", "message": None}
    started, ended = instant(found["start_time"]), instant(found["end_time"])
    return FlowRun(
        id=found["id"],
        name=found["name"],
        state=state["type"],
        state_name=state["name"] or state["type"].capitalize(),
        message=state["message"] or "",
        expected_at=instant(found["expected_start_time"]),
        started_at=started,
        seconds=(ended - started).total_seconds() if started and ended else None,
    )
