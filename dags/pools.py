"""The pool of a backfill's tasks, so that a backfill never takes the slots of a scheduled run.

A task's pool is the DAG's to say, for all its runs alike; Airflow lets a policy say it for each run
(see plugins/airflow_local_settings.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.settings import settings

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance

# Of the DAGs of pipelines; other DAGs of the deployment keep their pools.
TAG = "daybreak"
_PREFIX = "backfill__"


def task_instance_mutation_hook(task_instance: TaskInstance, dag_run: DagRun | None = None) -> None:
    """Called by Airflow for each task of a run, in the scheduler: no queries, and no errors."""
    pool = settings().backfill_pool
    of_backfill = dag_run is not None and dag_run.run_type == "backfill"
    if not pool or not (of_backfill or (task_instance.run_id or "").startswith(_PREFIX)):
        return
    task = getattr(task_instance, "task", None)
    dag = getattr(task, "dag", None)
    if TAG in (getattr(dag, "tags", None) or ()):
        task_instance.pool = pool
