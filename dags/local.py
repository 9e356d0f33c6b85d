"""Run one pipeline's DAG once in this process, without a scheduler or a server.

    python -m dags.local flight_delay --date 2013-10-01

The real DAG with Airflow's own task runner, on a SQLite database below DAYBREAK_HOME that no
deployment shares. Exits with 1 unless the run succeeds.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.errors import BadConfig
from include.pipeline import load_named
from include.settings import PROJECT, settings, silence_telemetry
from include.storage import join
from include.workspace import Workspace, run_id_of

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG

# A run that a person waits for retries sooner than one at night.
RETRY_DELAY = dt.timedelta(seconds=2)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="dags.local", description=__doc__.splitlines()[0])
    parser.add_argument("pipeline")
    parser.add_argument("--date", type=dt.date.fromisoformat, help="any day of the partition")
    parser.add_argument("--model-version", help="instead of the version behind the alias")
    parser.add_argument("--verbose", action="store_true", help="show Airflow's own log lines too")
    given = parser.parse_args(arguments)
    conf = {
        "partition_date": given.date and given.date.isoformat(),
        "model_version": given.model_version,
    }
    try:
        load_named(
            settings().pipelines, given.pipeline
        )  # before Airflow starts, which takes a while
    except BadConfig as error:
        print(error, file=sys.stderr)
        return 1
    configure(settings().home / "airflow-local", verbose=given.verbose)
    dag = find(given.pipeline)
    run = run_once(dag, {key: conf[key] for key in conf if conf[key]})
    show(dag, run)
    return 0 if run.state == "success" else 1


def configure(home: Path, *, verbose: bool = False) -> None:
    """Make `home` this process's Airflow; to be called before Airflow is imported."""
    if "airflow" in sys.modules:
        raise RuntimeError("Airflow is imported already and has read another configuration")
    silence_telemetry()
    home.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "false",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO" if verbose else "WARNING",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
    }
    sys.path[:0] = [str(PROJECT)]
    if not verbose:
        warnings.simplefilter("ignore")
    from airflow.utils.db import initdb

    initdb()


def find(dag_id: str) -> DAG:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=PROJECT / "dags" / "scoring.py")
    if bag.import_errors:
        raise RuntimeError("\n".join(bag.import_errors.values()))
    dag: DAG = bag.dags[dag_id]
    return dag


def run_once(dag: DAG, conf: dict[str, Any]) -> DagRun:
    """Run every task as the scheduler would order them, and return the finished run."""
    # A deadline is measured against a schedule, which this run has none of; `DAG.test` of
    # Airflow 3.3 moreover fails on a DAG with one.
    dag.deadline = []
    for task in dag.tasks:
        task.retry_delay = RETRY_DELAY
    run: DagRun = dag.test(run_conf=conf)
    return run


def show(dag: DAG, run: DagRun) -> None:
    """One line per task, and where the report lies."""
    tasks = {task.task_id: task for task in run.get_task_instances()}
    for task in map(tasks.__getitem__, dag.task_ids):
        seconds = f"{task.duration:6.1f} s" if task.duration else ""
        print(f"{task.task_id:<10} {task.state or 'not run':<16} {seconds}".rstrip())
    folder = Workspace(settings().workspace, dag.dag_id).run(run_id_of("airflow", run.run_id))
    print(f"{dag.dag_id}: {run.state}, see {join(folder, 'report.html')}")


if __name__ == "__main__":
    raise SystemExit(main())
