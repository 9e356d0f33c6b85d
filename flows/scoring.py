"""The same steps as a Prefect flow.

    python -m flows.scoring flight_delay --date 2013-10-01

Wiring only: every task is the function of its name in tasks/. Without a Prefect server to talk to,
Prefect starts one for the time of the run.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from include.errors import PermanentError, TransientError
from include.run import GateResult, Invocation, Report, Request, Run, Scored, Snapshot, Value
from include.settings import silence_telemetry
from include.workspace import run_id_of

silence_telemetry()  # Prefect reads its settings when it is imported.

from prefect import flow, runtime, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.client.schemas.objects import State, TaskRun  # noqa: E402
from prefect.logging.handlers import APILogHandler  # noqa: E402
from prefect.settings import (  # noqa: E402
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.tasks import exponential_backoff  # noqa: E402

RETRIES = 3
FIRST_WAIT_SECONDS = 30.0  # doubled with each retry


def may_pass(task: Any, task_run: TaskRun, state: State[Any]) -> bool:
    """Only a TransientError is worth a retry."""
    return isinstance(state.data, TransientError)


def step(name: str) -> Callable[..., Any]:
    """The function `name` of tasks/<name>.py as a Prefect task; imported when it first runs."""

    def body(*values: Value | str) -> Value:
        function: Callable[..., Value] = getattr(importlib.import_module(f"tasks.{name}"), name)
        return function(*values)

    return task(
        name=name,
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(FIRST_WAIT_SECONDS),
        retry_condition_fn=may_pass,
        cache_policy=NO_CACHE,  # A step itself knows when it can reuse what is stored.
        persist_result=False,
    )(body)


plan, extract, gate, score, publish, drift, report = map(
    step, ("plan", "extract", "gate", "score", "publish", "drift", "report")
)


def run_name() -> str:
    given = runtime.flow_run.parameters
    return " ".join(str(given[key]) for key in ("pipeline", "partition_date") if given.get(key))


@flow(name="scoring", flow_run_name=run_name, persist_result=False)
def scoring(
    pipeline: str, partition_date: dt.date | None = None, model_version: str | None = None
) -> Report:
    """Score one partition of a pipeline and publish it; the report runs whatever fails.

    Without `partition_date` it is the date of the run's scheduled start in the pipeline's time
    zone, less the pipeline's lag. Fails, with the first step's error, unless the table is
    published and all steps are done.
    """
    from tasks.report import require_published

    own_id = str(runtime.flow_run.id)
    request = Request(
        pipeline=pipeline,
        invocation=Invocation(orchestrator="prefect", id=own_id, url=runtime.flow_run.ui_url),
        partition_date=partition_date,
        at=runtime.flow_run.scheduled_start_time,
        model_version=model_version,
    )
    with daybreak_logged():
        try:
            run: Run = plan(request)
            snapshot: Snapshot = extract(run)
            gated: GateResult = gate(run, snapshot)
            scored: Scored = score(run, snapshot, gated)
            publish(run, snapshot, gated, scored)
            drift(run, snapshot, gated, scored)
        except Exception as error:
            try:
                report(pipeline, run_id_of("prefect", own_id))
            except Exception as second:  # noqa: BLE001 - the first error is the one that matters
                error.add_note(f"The report could not be made either: {second}")
            raise
        written: Report = report(pipeline, run_id_of("prefect", own_id))
    require_published(written)
    return written


@contextmanager
def daybreak_logged() -> Iterator[None]:
    """Send the log lines of the steps to the run's log in Prefect."""
    log, handler = logging.getLogger("daybreak"), APILogHandler()
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="flows.scoring", description=__doc__.splitlines()[0])
    parser.add_argument("pipeline")
    parser.add_argument("--date", type=dt.date.fromisoformat, help="any day of the partition")
    parser.add_argument("--model-version", help="instead of the version behind the alias")
    given = parser.parse_args(arguments)
    # The server that Prefect starts takes longer than its default of 20 s on a busy machine.
    patient = {PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 180}
    try:
        with temporary_settings(patient):
            written = scoring(given.pipeline, given.date, given.model_version)
    except PermanentError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{given.pipeline}: {written.state}, see {written.html}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
