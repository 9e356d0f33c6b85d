"""The tab "Report" on a run's page in Airflow: the report out of the workspace, read-only."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin

PREFIX = "/daybreak"


class DaybreakReports(AirflowPlugin):
    name = "daybreak_reports"
    external_views = [  # noqa: RUF012 - Airflow's own declaration
        {
            "name": "Report",
            "href": f"{PREFIX}/{{DAG_ID}}/{{RUN_ID}}/report.html",
            "destination": "dag_run",
            "url_route": "daybreak-report",
        }
    ]

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        # Made when the API server asks: every process of Airflow loads the plugins.
        from dags.report_pages import app

        return [{"app": app, "url_prefix": PREFIX, "name": "Daybreak reports"}]
