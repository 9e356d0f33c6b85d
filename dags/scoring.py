"""One scheduled DAG per pipeline folder: plan → extract → gate → score → publish → drift → report.

Wiring only: every task calls the function of its name in tasks/, with values in and values out.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import re
from pathlib import Path
from typing import Any

import pendulum
from airflow.sdk import (
    DAG,
    TaskGroup,
    TriggerRule,
    get_current_context,
    get_parsing_context,
    task,
)
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSkipException,
    AirflowTimetableInvalid,
)

from dags import assets
from dags.airflow_run import own_run_id, request_of
from dags.approval import answer_of, ask_for_approval
from dags.assets import schedule_of, table_of
from dags.deadline import deadline_of
from dags.edges import drop_implied_edges
from dags.links import ModelLink, ReportLink, TableLink, linked
from dags.params import NAMES, params_of
from dags.pools import TAG
from dags.step import step
from include.engine_config import KubernetesEngine, SparkEngine
from include.errors import BadConfig, DaybreakError, PermanentError
from include.pipeline import CONFIG, Pipeline, load_pipeline, pipeline_folders
from include.pipeline_page import page
from include.run import GateResult, Report, Run, Scored, Snapshot, Value
from include.settings import settings
from include.workspace import Workspace

log = logging.getLogger("daybreak")

CONFIG_ERROR = "config_error"

# A fault that passes has passed after 30 s, 1 min or 2 min, or a person has to look.
RETRIES = {
    "retries": 3,
    "retry_delay": dt.timedelta(seconds=30),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": dt.timedelta(minutes=10),
}


@step(minutes=15)
def plan(pipeline: str) -> Value:
    """Fixes what the run is: the partition, the model version, the configuration as it stands."""
    from tasks.plan import plan
    from tasks.preview import preview
    from tasks.step import recorded

    context = get_current_context()
    try:
        request = request_of(pipeline, context, NAMES)
        if request.asks_first:
            found = preview(request)
            log.info("%s", found)
            if found.ends_here:
                return found
    except DaybreakError as error:
        # Recorded as the plan's failure, so that the report can say it too.
        with recorded("plan", Workspace(settings().workspace, pipeline), own_run_id(context)):
            raise error
    return plan(request)


def require_planned(run: Any) -> None:
    """Skip where plan found nothing to do, or was asked only to look."""
    if run is not None and "ends_here" in run:
        raise AirflowSkipException(run["says"])


@step(minutes=120)
def extract(run: Any) -> Value:
    """Streams the rows of the query into an immutable snapshot in the workspace."""
    from tasks.extract import extract

    require_planned(run)
    return extract(Run.model_validate(run))


@step(minutes=60)
def gate(run: Any, snapshot: Any) -> Value:
    """Holds the snapshot against contract and suite; sets rows aside, or stops the run."""
    from tasks.gate import gate

    return gate(Run.model_validate(run), Snapshot.model_validate(snapshot))


@step(minutes=240)
def score(run: Any, snapshot: Any, gated: Any) -> Value:
    """Scores each part of the snapshot that has no receipt yet."""
    from tasks.score import score

    return score(
        Run.model_validate(run),
        Snapshot.model_validate(snapshot),
        GateResult.model_validate(gated),
    )


@step(minutes=60)
def publish(run: Any, snapshot: Any, gated: Any, scored: Any) -> Value:
    """Audits the version and makes it what readers see, in one commit.

    Skipped where the audit holds the version: then the group `approval` asks a person.
    """
    from include.audit import HeldForApproval
    from tasks.publish import publish

    try:
        return publish(
            Run.model_validate(run),
            Snapshot.model_validate(snapshot),
            GateResult.model_validate(gated),
            Scored.model_validate(scored),
        )
    except HeldForApproval as error:
        raise AirflowSkipException(str(error)) from None


@step(minutes=60)
def publish_approved(asked: Any) -> Value:
    """Publishes the version that a person approved; fails where it was rejected."""
    from tasks.approval import settle

    run = get_current_context()["ti"].xcom_pull(task_ids="plan")
    version, given, shown = answer_of(asked)
    now = given.at if given is not None else dt.datetime.now(dt.UTC)
    return settle(Run.model_validate(run), version, given, now, shown)


@step(minutes=15, trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
def announce(run: Any) -> None:
    """Tells the pipelines that wait for this table; skipped where readers have nothing new."""
    from include.reports.records import read_records

    planned = Run.model_validate(run)
    # Not from another task: which of the two published is in the run's records, and Airflow logs an
    # error for a value that a skipped task did not leave.
    records = read_records(Workspace(planned.workspace, planned.pipeline), planned.run_id)
    if records.published is None:
        raise PermanentError(
            "the run's records do not say what was published",
            do="clear the task publish",
            pipeline=planned.pipeline,
        )
    assets.announce(get_current_context(), planned, records.published)


@step(minutes=60, trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
def drift(run: Any, snapshot: Any, gated: Any, scored: Any) -> Value:
    """Compares the columns and the scores with training and with the partitions before."""
    from tasks.drift import drift

    return drift(
        Run.model_validate(run),
        Snapshot.model_validate(snapshot),
        GateResult.model_validate(gated),
        Scored.model_validate(scored),
    )


@step(minutes=15, trigger_rule=TriggerRule.ALL_DONE)
def report(pipeline: str) -> Value:
    """Writes the run's report, and tells people of what they asked to hear of.

    Works from the run's records alone, so that it runs whatever failed before it.
    """
    from tasks.report import report

    context = get_current_context()
    require_planned(context["ti"].xcom_pull(task_ids="plan"))
    return report(pipeline, own_run_id(context))


@step(minutes=5, trigger_rule=TriggerRule.ALL_DONE, retries=0)
def verdict(reported: Any) -> None:
    """The leaf that judges: the report is green after a failed run, and a run is as its leaves are.

    Red whenever the table was not published, and where it was but drift could not be measured.
    """
    from tasks.report import require_published

    require_planned(get_current_context()["ti"].xcom_pull(task_ids="plan"))
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
        # The tag makes a change of any key show as a new version of the DAG; its digits are the
        # first of the name under configs/ in the workspace.
        tags=[TAG, *config.tags, f"config:{hashlib.sha256(content).hexdigest()[:8]}"],
        doc_md=page(pipeline),
        auto_register=False,
    ) as dag:
        run = plan(pipeline.name)
        snapshot = extract(run)
        gated = gate(run, snapshot)
        if isinstance(config.engine, KubernetesEngine):
            # Imported here: Airflow's part of it takes a second, and most pipelines need none.
            from dags.pods import score_on_pods

            scored = score_on_pods(config.engine, run, snapshot, gated)
        elif isinstance(config.engine, SparkEngine) and config.engine.launched_by != "task":
            from dags.spark import score_on_spark

            scored = score_on_spark(config.engine, run, snapshot, gated)
        else:
            scored = score(run, snapshot, gated)
        table = [table_of(pipeline.name)]
        published = publish(run, snapshot, gated, scored)
        with TaskGroup("approval", tooltip="Only where the audit holds the version for a person"):
            # All skipped: publish was, because it holds the version.
            asked = ask_for_approval(task_id="ask", trigger_rule=TriggerRule.ALL_SKIPPED)
            approved = publish_approved(asked.output)
        published >> asked
        announced = announce.override(outlets=table)(run)
        drifted = drift.override(inlets=table)(run, snapshot, gated, scored)
        reported = report(pipeline.name)
        [published, approved] >> announced
        [published, approved] >> drifted >> reported
        linked(run, [ModelLink()])
        linked(published, [TableLink()])
        linked(approved, [TableLink()])
        linked(reported, [ReportLink()])
        for name, minutes in schedule.step_minutes.items():
            if name in dag.task_dict:
                dag.task_dict[name].execution_timeout = dt.timedelta(minutes=minutes)
        verdict(reported)
    # Only now: every operator made before would copy them four times, a third of a parse's time.
    dag.params = params_of(pipeline)
    drop_implied_edges(dag)
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
