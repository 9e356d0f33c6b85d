"""One daily DAG for all pipelines: retention, leftovers of crashed runs, and the tables' logs.

Each pipeline is a mapped task of its own, so that a broken folder takes no other down. What stays
is each pipeline's own `retention`.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import pendulum
from airflow.sdk import DAG, CronTriggerTimetable, get_parsing_context, task
from airflow.sdk.exceptions import AirflowFailException

from dags.airflow_run import connection_of
from include.connections import use_connections_of
from include.errors import BadConfig, PermanentError
from include.pipeline import pipeline_folders
from include.settings import settings

DAG_ID = "daybreak_upkeep"

# Noon: after the nights of every zone that is near, so that no run waits for it.
CRON = "0 12 * * *"


@task
def pipelines() -> list[str]:
    root = settings().pipelines
    try:
        found = [folder.name for folder in pipeline_folders(root)]
        if not found:
            # A deployment that lost its folders would be tidied, green, for ever.
            raise BadConfig(
                f"{root} holds no pipeline",
                do="deploy the folders, or set DAYBREAK_PIPELINES to where they are",
            )
    except PermanentError as error:
        raise AirflowFailException(str(error)) from None
    return found


@task(
    execution_timeout=dt.timedelta(hours=2),
    map_index_template="{{ task.op_kwargs['pipeline'] }}",
)
def upkeep(pipeline: str) -> dict[str, Any]:
    from tasks.upkeep import upkeep

    use_connections_of(connection_of)
    try:
        return upkeep(pipeline, dt.datetime.now(dt.UTC)).model_dump(mode="json")
    except PermanentError as error:
        raise AirflowFailException(str(error)) from None


if (get_parsing_context().dag_id or DAG_ID) == DAG_ID:
    with DAG(
        dag_id=DAG_ID,
        description="Delete what no pipeline's retention keeps, and tidy the prediction tables",
        schedule=CronTriggerTimetable(CRON, timezone="UTC"),
        start_date=pendulum.datetime(2020, 1, 1, tz="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args={
            "owner": "daybreak",
            "retries": 3,
            "retry_delay": dt.timedelta(minutes=5),
            "retry_exponential_backoff": 2.0,
        },
        tags=["daybreak"],
        doc_md=__doc__,
    ):
        upkeep.expand(pipeline=pipelines())
