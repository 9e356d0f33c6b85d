"""Links from a run's tasks in Airflow to the report, the model version and the table version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

from dags.airflow_run import report_page
from include.reports.records import RunRecords, read_records
from include.settings import settings
from include.workspace import Workspace, run_id_of


class ReportLink(BaseOperatorLink):
    """The run's report, on Airflow's own server."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return report_page(ti_key.dag_id, ti_key.run_id)


class ModelLink(BaseOperatorLink):
    """The model version's page in MLflow; empty where the registry is a database without one."""

    name = "Model version"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        run, registry = _records(ti_key).run, settings().registry
        if run is None or not registry.startswith(("http://", "https://")):
            return ""
        model = quote(run.model.name, safe="")
        return f"{registry.rstrip('/')}/#/models/{model}/versions/{run.model.version}"


class TableLink(BaseOperatorLink):
    """Which version the table has, and what it was made from: that part of the run's report."""

    name = "Table version"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        if _records(ti_key).published is None:
            return ""
        return f"{report_page(ti_key.dag_id, ti_key.run_id)}#lineage"


def linked(task: Any, links: Sequence[BaseOperatorLink]) -> None:
    """Give a task these links; Airflow asks for them when it ends."""
    task.operator.operator_extra_links = tuple(links)


def _records(ti_key: Any) -> RunRecords:
    workspace = Workspace(settings().workspace, ti_key.dag_id)
    return read_records(workspace, run_id_of("airflow", ti_key.run_id))
