"""The pages of runs' reports inside Airflow's own server, for whoever may see the runs there.

Imported by the API server alone, through plugins/daybreak_reports.py.
"""

from __future__ import annotations

import logging

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Response

from dags.airflow_run import connection_of
from include import storage
from include.connections import use_connections_of
from include.errors import DaybreakError, TransientError
from include.pipeline import NAME
from include.settings import settings
from include.workspace import Workspace, run_id_of

# A sandbox gives a page an origin of its own, so that nothing in one, whatever the data hold, acts
# as the person who reads it.
_STATIC = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox allow-popups"
_SCRIPTED = "sandbox allow-scripts allow-popups"

# The page of a run, and what it links to beside itself.
FILES = {
    "report.html": ("text/html", _STATIC),
    "report.json": ("application/json", _STATIC),
    "evidently.html": ("text/html", _SCRIPTED),
}

log = logging.getLogger("daybreak")

app = FastAPI(title="Daybreak reports", docs_url=None, redoc_url=None, openapi_url=None)


@app.get(
    "/{dag_id}/{run_id}/{file}",
    dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.RUN))],
)
def page(dag_id: str, run_id: str, file: str) -> Response:
    """A file of the report of Airflow's run `run_id`.

    The person needs the right to read the runs of that DAG, by Airflow's own rules.
    """
    try:
        content = content_of(dag_id, run_id, file)
    except DaybreakError as error:
        log.warning("a report cannot be shown: %s", error)
        status = 503 if isinstance(error, TransientError) else 500
        raise HTTPException(status, f"Daybreak cannot read the report: {error}") from None
    if content is None:
        raise HTTPException(404, "Daybreak has no report of this run, or none yet")
    kind, policy = FILES[file]
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    return Response(content, media_type=kind, headers=headers)


def content_of(dag_id: str, run_id: str, file: str) -> bytes | None:
    """The file's bytes; None for a file that is no part of a report, and where there is none."""
    if file not in FILES or not NAME.fullmatch(dag_id):
        return None
    # Airflow marks the API server as a server, whose connections come out of its database too.
    use_connections_of(connection_of)
    folder = Workspace(settings().workspace, dag_id).run(run_id_of("airflow", run_id))
    try:
        return storage.read(storage.join(folder, file))
    except FileNotFoundError:
        return None
