"""report: one page for people and one JSON for machines, whatever became of the run."""

from __future__ import annotations

from include import storage
from include.errors import PermanentError
from include.reports.assembly import assemble
from include.reports.page import page
from include.run import Report
from include.settings import settings
from include.workspace import Workspace
from tasks.step import recorded


def report(pipeline: str, run_id: str) -> Report:
    """Write `report.json` and `report.html` into the run's folder, from the records there.

    Works where plan or any other step failed or never ran, and again at any time.
    """
    workspace = Workspace(settings().workspace, pipeline)
    with recorded("report", workspace, run_id) as recorder:
        content = assemble(workspace, run_id)
        folder = workspace.run(run_id)
        result = Report(
            run_id=run_id,
            state=content.state,
            html=storage.join(folder, "report.html"),
            json_uri=storage.join(folder, "report.json"),
        )
        storage.write(result.json_uri, content.model_dump_json(indent=2).encode())
        storage.write(result.html, page(content, folder).encode())
        recorder.result = result
    return result


def require_published(report: Report) -> None:
    """Make the run red unless readers have its version: PermanentError, with the report's place."""
    if report.state in ("published", "unchanged"):
        return
    if report.state == "held":
        raise PermanentError(
            f"run {report.run_id} is held: its scores moved too far to publish without a person",
            where=report.html,
            do="read the report: it says what moved, and what to do",
        )
    raise PermanentError(
        f"run {report.run_id} published nothing",
        where=report.html,
        do="read the report: it says which step failed and what to do",
    )
