"""What Airflow knows of a run, as Daybreak's own values."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from urllib.parse import quote

from airflow.configuration import conf
from airflow.sdk import Connection as AirflowConnection
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowNotFoundException

from include.config_errors import nearest
from include.connections import Connection
from include.errors import BadConfig
from include.run import Invocation, Request
from include.workspace import run_id_of


def request_of(pipeline: str, context: Context, known: Collection[str]) -> Request:
    """What the DAG run asks for; `known` are the names of the DAG's parameters.

    Raises BadConfig for parameters that make no sense.
    """
    dag_run, params = context["dag_run"], context["params"]
    # Airflow itself takes any key, so that a misspelt parameter would be ignored in silence.
    unknown = sorted(set(dag_run.conf or {}) - set(known))
    if unknown:
        raise BadConfig(
            f"unknown parameter {', '.join(map(repr, unknown))}",
            do=nearest(unknown[0], known, "parameters"),
            pipeline=pipeline,
        )
    date = params["partition_date"] or None
    asked = {name: params.get(name) or None for name in ("model_version", "model_alias", "engine")}
    if date and dag_run.run_type == "backfill":
        raise BadConfig(
            f"partition_date is {date!r} in a backfill: each of its runs would score that date",
            do="leave partition_date out, since a backfill's dates come from its range",
            pipeline=pipeline,
        )
    return Request(
        pipeline=pipeline,
        invocation=Invocation(
            orchestrator="airflow",
            id=dag_run.run_id,
            url=context["ti"].log_url.partition("/tasks/")[0],
        ),
        partition_date=dt.date.fromisoformat(date) if date else None,
        # A run that was triggered without a logical date has only the time that it may start at.
        at=dag_run.logical_date or dag_run.run_after,
        rescore=params.get("rescore") or "all",
        dry_run=bool(params.get("dry_run")),
        **asked,
    )


def report_page(dag_id: str, run_id: str) -> str:
    """The address of a run's report inside Airflow; see plugins/daybreak_reports.py."""
    names = (quote(name, safe="") for name in (dag_id, run_id))
    base = conf.get("api", "base_url", fallback="") or ""
    return "/".join((base.rstrip("/"), "daybreak", *names, "report.html"))


def own_run_id(context: Context) -> str:
    """The run's id as `plan` derives it, without anything from `plan`."""
    return run_id_of("airflow", context["dag_run"].run_id)


def connection_of(connection_id: str) -> Connection | None:
    """A connection out of Airflow's secrets backend, environment or database."""
    try:
        found = AirflowConnection.get(connection_id)
    except AirflowNotFoundException:
        return None
    return Connection(
        id=connection_id,
        kind=found.conn_type or "",
        host=found.host or "",
        login=found.login or "",
        schema=found.schema or "",
        port=found.port,
        password=found.password or "",
        extra=found.extra_dejson,
    )
