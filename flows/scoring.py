"""The same steps as a Prefect flow.

    python -m flows.scoring flight_delay --date 2013-10-01

Wiring only: every task is the function of its name in tasks/. Without a Prefect server to talk to,
Prefect starts one for the time of the run. The deployments of it are in prefect.yaml.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from include.errors import BadConfig, DaybreakError, TransientError
from include.run import (
    GateResult,
    Invocation,
    Report,
    Request,
    Rescore,
    Run,
    Scored,
    Snapshot,
    Value,
)
from include.settings import settings, silence_telemetry
from include.workspace import Workspace, run_id_of

silence_telemetry()  # Prefect reads its settings when it is imported.

from prefect import flow, runtime, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.client.schemas.objects import State, TaskRun  # noqa: E402
from prefect.settings import (  # noqa: E402
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.states import Completed, Failed  # noqa: E402
from prefect.tasks import exponential_backoff  # noqa: E402
from prefect.utilities.urls import url_for  # noqa: E402

from flows.artifacts import show  # noqa: E402
from flows.deadline import watched  # noqa: E402
from flows.run_log import daybreak_logged  # noqa: E402

if TYPE_CHECKING:
    from tasks.preview import Preview

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


preview, plan, extract, gate, score, publish, drift, report = map(
    step, ("preview", "plan", "extract", "gate", "score", "publish", "drift", "report")
)


def run_name() -> str:
    given = runtime.flow_run.parameters
    return " ".join(str(given[key]) for key in ("pipeline", "partition_date") if given.get(key))


@flow(name="scoring", flow_run_name=run_name, persist_result=False)
def scoring(
    pipeline: str,
    partition_date: dt.date | None = None,
    model_version: str | None = None,
    model_alias: str | None = None,
    engine: Literal["local", "spark", "kubernetes"] | None = None,
    rescore: Rescore = "all",
    dry_run: bool = False,
) -> Report | State[Any]:
    """Score one partition of a pipeline and publish it; the report runs whatever fails.

    Fails, with the first step's error, unless the table is published and all steps are done. A
    version that waits for a person fails the run with the state `Held`.

    Args:
        pipeline: The pipeline: its folder's name. Each deployment has its own.
        partition_date: Any day of the partition to score. Blank: the date of the run in the
            pipeline's time zone, less its lag.
        model_version: A registered version, such as 3. Blank: the version behind the pipeline's
            alias.
        model_alias: Another alias than the pipeline's, such as challenger; without a model version.
        engine: Where to score instead of the pipeline's engine.
        rescore: all: whatever readers have. missing: only a partition without a version. stale:
            that, and one that a run would make anew.
        dry_run: Say what the run would do and why, and do none of it.
    """
    own_id = str(runtime.flow_run.id)
    request = Request(
        pipeline=pipeline,
        invocation=Invocation(
            orchestrator="prefect", id=own_id, url=url_for("flow-run", obj_id=own_id)
        ),
        partition_date=partition_date,
        at=runtime.flow_run.scheduled_start_time,
        model_version=model_version or None,
        model_alias=model_alias or None,
        engine=engine,
        rescore=rescore,
        dry_run=dry_run,
    )
    with daybreak_logged(), watched(pipeline):
        return steps_of(request)


backfill = scoring.with_options(
    name="backfill",
    description="One partition of a backfill, as `daybreak backfill --via prefect` asks for it.",
)


def steps_of(request: Request) -> Report | State[Any]:
    """The steps, each as a task; called within a flow run."""
    from tasks.report import require_published

    run_id = run_id_of(request.invocation.orchestrator, request.invocation.id)
    try:
        found = asked_first(request, run_id)
        if found is not None and found.ends_here:
            return Completed(message=str(found))
        run: Run = plan(request)
        snapshot: Snapshot = extract(run)
        gated: GateResult = gate(run, snapshot)
        scored: Scored = score(run, snapshot, gated)
        publish(run, snapshot, gated, scored)
        drift(run, snapshot, gated, scored)
    except Exception as error:
        if request.dry_run:
            raise  # there was no run, so there is nothing to report
        try:
            failed: Report = report(request.pipeline, run_id)
            show(request.pipeline, failed)
        except Exception as second:  # noqa: BLE001 - the first error is the one that matters
            error.add_note(f"The report could not be made either: {second}")
            raise error from None
        if failed.state == "held":
            # Prefect shows a state by its name and, since it is a failed one, not in green.
            return Failed(name="Held", message=str(error), data=error)
        raise
    written: Report = report(request.pipeline, run_id)
    show(request.pipeline, written)
    require_published(written)
    return written


def asked_first(request: Request, run_id: str) -> Preview | None:
    """What a request that may end before any work comes to; None for one that does not ask.

    Raises BadConfig in a deployment of another pipeline. What is raised here is recorded as the
    plan's failure, so that the report can say it too.
    """
    try:
        own = runtime.deployment.name
        if own is not None and own != request.pipeline:
            # Limits and deadlines are counted by deployment.
            raise BadConfig(
                f"the deployment {own!r} was asked to run the pipeline {request.pipeline!r}",
                do=f"run the deployment {request.pipeline!r}, and leave the parameter `pipeline`",
            )
        found: Preview | None = preview(request) if request.asks_first else None
    except Exception as error:
        if request.dry_run:
            raise
        from tasks.step import recorded

        with recorded("plan", Workspace(settings().workspace, request.pipeline), run_id):
            raise error
    return found


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
        assert isinstance(written, Report)
    except DaybreakError as error:  # a TransientError too, once its retries are over
        print(error, file=sys.stderr)
        return 1
    print(f"{given.pipeline}: {written.state}, see {written.html}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
