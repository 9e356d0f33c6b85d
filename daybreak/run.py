"""One run on this machine: the steps in sequence, with retries, and a report whatever happens."""

from __future__ import annotations

import datetime as dt
import importlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from include.errors import TransientError
from include.pace import Pace
from include.run import Invocation, Report, Request, Value
from include.workspace import run_id_of

if TYPE_CHECKING:
    from tasks.preview import Preview

STEPS = ("plan", "extract", "gate", "score", "publish", "drift", "report")
RETRIES = 3
FIRST_WAIT_SECONDS = 2.0  # doubled with each retry: a fault has 14 seconds to pass


class Watcher(Protocol):
    """Is told how the run goes, step by step."""

    def started(self, step: str) -> None: ...

    def retrying(self, step: str, error: TransientError, attempt: int, seconds: float) -> None: ...

    def finished(self, step: str, seconds: float, result: Value) -> None: ...

    def failed(self, step: str, seconds: float, error: Exception) -> None: ...


@runtime_checkable
class ProgressWatcher(Watcher, Protocol):
    """Is also told how far the parts are, as each of them is finished."""

    def progressed(self, pace: Pace) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `error` is what the step `failed_step` raised, None where all went well.

    `report` is None only where the report itself could not be written.
    """

    run_id: str
    report: Report | None
    failed_step: str | None = None
    error: Exception | None = None


def new_request(
    pipeline: str,
    now: dt.datetime,
    partition_date: dt.date | None = None,
    model_version: str | None = None,
    **asked: Any,
) -> Request:
    """A request of the command line; its id sorts by time and no two are equal.

    `asked` are further fields of it.
    """
    own_id = f"{now.astimezone(dt.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
    return Request(
        pipeline=pipeline,
        invocation=Invocation(orchestrator="cli", id=own_id),
        partition_date=partition_date,
        at=now,
        model_version=model_version,
        **asked,
    )


def run_steps(
    request: Request, watcher: Watcher, pause: Callable[[float], None] = time.sleep
) -> Outcome:
    """Run every step in this process; the report runs also where one before it failed.

    A TransientError is retried RETRIES times, after a wait that doubles. Nothing is raised but
    KeyboardInterrupt: what failed is in the outcome.
    """
    run_id = run_id_of(request.invocation.orchestrator, request.invocation.id)
    running = _Steps(watcher, pause)
    failed_step, failure = None, None
    try:
        run = running.step("plan", request)
        snapshot = running.step("extract", run)
        gate = running.step("gate", run, snapshot)
        watch = watcher.progressed if isinstance(watcher, ProgressWatcher) else None
        scored = running.step("score", run, snapshot, gate, watch)
        running.step("publish", run, snapshot, gate, scored)
        running.step("drift", run, snapshot, gate, scored)
    except Exception as error:  # noqa: BLE001 - the report says what became of the run
        failed_step, failure = running.current, error
    try:
        report = running.step("report", request.pipeline, run_id)
    except Exception as error:  # noqa: BLE001 - the first error is the one that matters
        return Outcome(run_id, None, failed_step or "report", failure or error)
    return Outcome(run_id, report, failed_step, failure)


def look_first(
    request: Request, watcher: Watcher, pause: Callable[[float], None] = time.sleep
) -> Preview:
    """What the request comes to now, with the retries of a step; raises what is left after them."""
    found: Preview = _Steps(watcher, pause).step("preview", request)
    return found


class _Steps:
    """Calls the function of a step, tells the watcher, and retries what may pass."""

    def __init__(self, watcher: Watcher, pause: Callable[[float], None]) -> None:
        self.watcher, self.pause = watcher, pause
        self.current = ""

    def step(self, name: str, *values: Any) -> Any:
        self.current = name
        started = time.monotonic()
        self.watcher.started(name)
        wait = FIRST_WAIT_SECONDS
        for attempt in range(1, RETRIES + 2):
            try:
                # Imported here, so that what a step imports is part of its own time.
                result = getattr(importlib.import_module(f"tasks.{name}"), name)(*values)
            except TransientError as error:
                if attempt > RETRIES:
                    self.watcher.failed(name, time.monotonic() - started, error)
                    raise
                self.watcher.retrying(name, error, attempt, wait)
                self.pause(wait)
                wait *= 2
            except Exception as error:
                self.watcher.failed(name, time.monotonic() - started, error)
                raise
            else:
                self.watcher.finished(name, time.monotonic() - started, result)
                return result
        raise AssertionError("unreachable")
