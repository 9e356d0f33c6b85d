"""One scheduled DAG per pipeline folder: plan → extract → gate → score → publish → drift → report.

Wiring only: every task calls the function of its name in tasks/, with values in and values out.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pendulum
from airflow.sdk import (
    DAG,
    Param,
    TriggerRule,
    get_current_context,
    get_parsing_context,
    task,
)
from airflow.sdk.exceptions import AirflowFailException, AirflowTimetableInvalid

from dags import assets
from dags.airflow_run import connection_of, own_run_id, request_of
from dags.assets import schedule_of, table_of
from dags.deadline import deadline_of
from include.connections import use_connections_of
from include.errors import BadConfig, DaybreakError, PermanentError
from include.pipeline import CONFIG, Pipeline, load_pipeline, pipeline_folders
from include.pipeline_page import page
from include.run import GateResult, Published, Report, Run, Scored, Snapshot, Value
from include.settings import settings
from include.workspace import Workspace

CONFIG_ERROR = "config_error"

# A fault that passes has passed after 30 s, 1 min or 2 min, or a person has to look.
RETRIES = {
    "retries": 3,
    "retry_delay": dt.timedelta(seconds=30),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": dt.timedelta(minutes=10),
}

PARAMS = {
    "partition_date": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Partition date",
        description="Any day of the partition to score. Blank: the date of the run in the "
        "pipeline's time zone, less its lag.",
    ),
    "model_version": Param(
        None,
        type=["null", "string"],
        title="Model version",
        description="A registered version, such as 3. Blank: the version behind the pipeline's "
        "alias.",
    ),
}


def step(minutes: int, **task_args: Any) -> Callable[[Callable[..., Value | None]], Any]:
    """A task that runs a step for at most `minutes` and returns its value as JSON.

    A PermanentError fails the task at once; anything else is retried.
    """

    def decorate(function: Callable[..., Value | None]) -> Any:
        @functools.wraps(function)
        def body(*args: Any) -> dict[str, Any] | None:
            use_connections_of(connection_of)
            try:
                value = function(*args)
            except PermanentError as error:
                raise AirflowFailException(str(error)) from None
            return None if value is None else value.model_dump(mode="json")

        return task(execution_timeout=dt.timedelta(minutes=minutes), **task_args)(body)

    return decorate


@step(minutes=15)
def plan(pipeline: str) -> Value:
    from tasks.plan import plan
    from tasks.step import recorded

    context = get_current_context()
    try:
        request = request_of(pipeline, context, PARAMS)
    except PermanentError as error:
        # Recorded as the plan's failure, so that the report can say it too.
        with recorded("plan", Workspace(settings().workspace, pipeline), own_run_id(context)):
            raise error
    return plan(request)


@step(minutes=120)
def extract(run: Any) -> Value:
    from tasks.extract import extract

    return extract(Run.model_validate(run))


@step(minutes=60)
def gate(run: Any, snapshot: Any) -> Value:
    from tasks.gate import gate

    return gate(Run.model_validate(run), Snapshot.model_validate(snapshot))


@step(minutes=240)
def score(run: Any, snapshot: Any, gated: Any) -> Value:
    from tasks.score import score

    return score(
        Run.model_validate(run),
        Snapshot.model_validate(snapshot),
        GateResult.model_validate(gated),
    )


@step(minutes=60)
def publish(run: Any, snapshot: Any, gated: Any, scored: Any) -> Value:
    from tasks.publish import publish

    return publish(
        Run.model_validate(run),
        Snapshot.model_validate(snapshot),
        GateResult.model_validate(gated),
        Scored.model_validate(scored),
    )


@step(minutes=15)
def announce(run: Any, published: Any) -> None:
    """Tells the pipelines that wait for this table; skipped where readers have nothing new."""
    assets.announce(
        get_current_context(), Run.model_validate(run), Published.model_validate(published)
    )


@step(minutes=60)
def drift(run: Any, snapshot: Any, gated: Any, scored: Any) -> Value:
    from tasks.drift import drift

    return drift(
        Run.model_validate(run),
        Snapshot.model_validate(snapshot),
        GateResult.model_validate(gated),
        Scored.model_validate(scored),
    )


@step(minutes=15, trigger_rule=TriggerRule.ALL_DONE)
def report(pipeline: str) -> Value:
    """Works from the run's records alone, so that it runs whatever failed before it."""
    from tasks.report import report

    return report(pipeline, own_run_id(get_current_context()))


@step(minutes=5, trigger_rule=TriggerRule.ALL_DONE, retries=0)
def verdict(reported: Any) -> None:
    """The leaf that judges: the report is green after a failed run, and a run is as its leaves are.

    Red whenever the table was not published, and where it was but drift could not be measured.
    """
    from tasks.report import require_published

    if reported is None:
        raise PermanentError(
            "there is no report, so nothing says whether the table was published",
            do="see the log of the task report, then clear that task",
        )
    require_published(Report.model_validate(reported))
    if get_current_context()["ti"].xcom_pull(task_ids="drift") is None:
        raise PermanentError(
            "the table is published, but its drift was not measured",
            do="see the log of the task drift, then clear that task",
        )


def build(pipeline: Pipeline) -> DAG:
    """The DAG of a pipeline; raises BadConfig for a schedule that Airflow does not take."""
    config, schedule = pipeline.config, pipeline.config.schedule
    start, content = schedule.start_date, pipeline.model_dump_json(indent=2).encode()
    with DAG(
        dag_id=pipeline.name,
        description=config.description,
        schedule=schedule_of(schedule),
        deadline=deadline_of(schedule),
        start_date=pendulum.datetime(start.year, start.month, start.day, tz=schedule.timezone),
        catchup=False,
        max_active_runs=1,
        default_args={"owner": config.owner, **RETRIES},
        params=PARAMS,
        # The tag makes a change of any key show as a new version of the DAG; its digits are the
        # first of the name under configs/ in the workspace.
        tags=[*config.tags, f"config:{hashlib.sha256(content).hexdigest()[:8]}"],
        doc_md=page(pipeline),
        auto_register=False,
    ) as dag:
        run = plan(pipeline.name)
        snapshot = extract(run)
        gated = gate(run, snapshot)
        scored = score(run, snapshot, gated)
        table = [table_of(pipeline.name)]
        published = publish(run, snapshot, gated, scored)
        announce.override(outlets=table)(run, published)
        drifted = drift.override(inlets=table)(run, snapshot, gated, scored)
        reported = report(pipeline.name)
        published >> drifted >> reported
        verdict(reported)
    try:
        dag.validate()  # type: ignore[no-untyped-call]
        # Beside assets, Airflow leaves the cron unchecked until the scheduler trips over it.
        getattr(dag.timetable, "timetable", dag.timetable).validate()
    except AirflowTimetableInvalid as error:
        raise BadConfig(
            f"schedule.cron: {error}",
            where=f"{pipeline.name}/{CONFIG}",
            do="write five fields, such as 30 2 * * *",
            pipeline=pipeline.name,
        ) from error
    return dag


def build_broken(name: str, error: Exception) -> DAG:
    """Stands for a folder that gives no DAG, and says why; without a schedule."""
    message = str(error) if isinstance(error, DaybreakError) else f"{type(error).__name__}: {error}"
    with DAG(
        dag_id=f"{id_of(name)}__{CONFIG_ERROR}",
        description=message,
        schedule=None,
        tags=[CONFIG_ERROR],
        doc_md=f"The pipeline `{name}` is not scheduled, because its folder is wrong:\n\n"
        f"```\n{message}\n```\n\nThis DAG gives way to the pipeline's own once that is mended.",
        auto_register=False,
    ) as dag:

        @task(task_id=CONFIG_ERROR)
        def fail() -> None:
            raise AirflowFailException(message)

        fail()
    return dag


def id_of(folder_name: str) -> str:
    """A valid pipeline's own name; of any other, what Airflow accepts in an id (250 characters)."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", folder_name)[:200]


def load(folder: Path) -> DAG:
    """A folder's DAG, or the one that shows its error: a broken folder takes no other down."""
    try:
        return build(load_pipeline(folder))
    except Exception as error:  # noqa: BLE001
        return build_broken(folder.name, error)


# A worker that runs one task builds that task's DAG alone.
wanted = (get_parsing_context().dag_id or "").removesuffix(f"__{CONFIG_ERROR}")
for folder in pipeline_folders(settings().pipelines):
    if wanted in ("", id_of(folder.name)):
        # With a prefix, a pipeline called `score` does not take the place of the task above.
        globals()[f"dag of {folder.name}"] = load(folder)
