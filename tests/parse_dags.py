"""Parses dags/scoring.py as Airflow does and prints what it found, as JSON, on the last line.

Airflow reads its configuration when it is imported, so the tests parse in a process of its own:
`python -m tests.parse_dags [DAG_ID]`; with an id, as the worker of one task of that DAG does.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

DAGS = Path(__file__).resolve().parent.parent / "dags"


def parse(only: str | None = None) -> dict[str, Any]:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk.definitions._internal.dag_parsing_context import (
        _airflow_parsing_context_manager,
    )
    from airflow.serialization.serialized_objects import DagSerialization

    worker = _airflow_parsing_context_manager(dag_id=only, task_id="plan")
    with worker if only else nullcontext():
        bag = DagBag(dag_folder=DAGS)
    modules = sorted({name.partition(".")[0] for name in sys.modules})
    for dag in bag.dags.values():
        DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    return {
        "errors": bag.import_errors,
        "modules": modules,
        "dags": {dag_id: described(dag) for dag_id, dag in sorted(bag.dags.items())},
    }


def described(dag: Any) -> dict[str, Any]:
    ticks = getattr(dag.timetable, "timetable", dag.timetable)
    assets = getattr(dag.timetable, "asset_condition", None)
    return {
        "file": Path(dag.fileloc).name,
        "description": dag.description,
        "doc_md": dag.doc_md,
        "tags": sorted(dag.tags),
        "timetable": type(dag.timetable).__name__,
        "cron": getattr(ticks, "expression", None),
        "timezone": str(getattr(ticks, "timezone", None)),
        "assets": [getattr(ref, "name", None) or ref.uri for ref in assets.objects]
        if assets
        else [],
        "deadline": [
            {
                "interval": alert.interval.total_seconds(),
                "callback": type(alert.callback).__name__,
                "path": alert.callback.path,
                **alert.reference.serialize_reference(),
            }
            for alert in dag.deadline or ()
        ],
        "start_date": dag.start_date and dag.start_date.astimezone(dag.timezone).isoformat(),
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "params": {
            name: {"default": param.value, "description": param.description, **param.schema}
            for name, param in ((name, dag.params.get_param(name)) for name in dag.params)
        },
        "tasks": {
            task.task_id: {
                "upstream": sorted(task.upstream_task_ids),
                "downstream": sorted(task.downstream_task_ids),
                "trigger_rule": str(task.trigger_rule.value),
                "retries": task.retries,
                "retry_delay": task.retry_delay.total_seconds(),
                "backoff": task.retry_exponential_backoff,
                "timeout": task.execution_timeout and task.execution_timeout.total_seconds(),
                "owner": task.owner,
                "pool": task.pool,
                "links": [link.name for link in task.operator_extra_links],
                "inlets": [asset.name for asset in task.inlets],
                "outlets": [asset.name for asset in task.outlets],
            }
            for task in dag.tasks
        },
    }


if __name__ == "__main__":
    print(json.dumps(parse(*sys.argv[1:])))
