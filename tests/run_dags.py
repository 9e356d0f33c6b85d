"""Runs DAGs one after another in one Airflow process: `python -m tests.run_dags < plan.json`.

The plan is {"home", "runs": [{"name", "dag", "conf", "env"}]}, with "retry_seconds" where a fault
takes its time to pass, and "file" in a run of a DAG that is no pipeline's; the outcomes go to
<home>/runs.json.
One process for many runs, because Airflow takes longer to start than a run takes.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from pathlib import Path
from typing import Any

import dags.local as local


def main() -> None:
    plan = json.load(sys.stdin)
    home = Path(plan["home"])
    local.RETRY_DELAY = dt.timedelta(seconds=plan.get("retry_seconds", 0.1))
    local.configure(home)
    outcomes = {run["name"]: outcome(run) for run in plan["runs"]}
    (home / "runs.json").write_text(json.dumps(outcomes), "utf-8")


def outcome(run: dict[str, Any]) -> dict[str, Any]:
    from airflow.models.xcom import XComModel
    from airflow.sdk.exceptions import ParamValidationError
    from airflow.utils.session import create_session
    from sqlalchemy import select

    for name in list(os.environ):
        if name.startswith(("DAYBREAK_", "AIRFLOW_CONN_")):
            del os.environ[name]
    os.environ |= run["env"]
    for connection_id, uri in run["connections"].items():
        store(connection_id, uri)
    try:
        finished = local.run_once(found(run), run["conf"])
    except ParamValidationError as error:
        return {"refused": str(error)}
    with create_session() as session:
        values = select(XComModel.task_id, XComModel.value).where(
            XComModel.run_id == finished.run_id, XComModel.key == "return_value"
        )
        xcoms = dict(session.execute(values).tuples().all())
    return {
        "run_id": finished.run_id,
        "state": finished.state,
        "xcom_bytes": {task: len(json.dumps(value)) for task, value in xcoms.items()},
        "planned": xcoms.get("plan"),
        "tasks": {
            name_of(task): {"state": task.state, "tries": task.try_number}
            for task in finished.get_task_instances()
        },
    }


def found(run: dict[str, Any]) -> Any:
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db

    if "file" not in run:
        return local.find(run["dag"])
    # Airflow runs what its database knows, and would look for it in its folder of DAGs alone.
    DagBundlesManager().sync_bundles_to_db()
    file, bundle = Path(run["file"]), "dags-folder"
    bag = BundleDagBag(dag_folder=file, bundle_path=file.parent, bundle_name=bundle)
    sync_bag_to_db(bag, bundle, None)
    return bag.dags[run["dag"]]


def name_of(task: Any) -> str:
    """Its id, with the index where it is one of several."""
    return str(task.task_id) if task.map_index < 0 else f"{task.task_id}[{task.map_index}]"


def store(connection_id: str, uri: str) -> None:
    """Put a connection where `airflow connections add` does: into Airflow's database."""
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    with create_session() as session:
        session.add(Connection(conn_id=connection_id, uri=uri))


if __name__ == "__main__":
    main()
