"""Makes the wall-clock deadline known to Airflow, which takes such classes from plugins only."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from dags.deadline import WallClockDeadline


class DaybreakDeadline(AirflowPlugin):
    name = "daybreak_deadline"
    deadline_references = [WallClockDeadline]  # noqa: RUF012 - Airflow's own declaration
