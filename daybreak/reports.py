"""The reports of a pipeline's runs, whoever started them."""

from __future__ import annotations

import datetime as dt

from include import storage
from include.errors import PermanentError
from include.partition import Partition
from include.pipeline import load_named
from include.reports.model import RunReport
from include.reports.newest import newest_reports
from include.run import Report
from include.settings import settings
from include.stored import load
from include.workspace import Workspace


def latest_report(name: str, day: dt.date | None = None) -> tuple[Report, RunReport]:
    """The report written last, of any partition or of the one of `day`.

    Raises BadConfig for an unknown pipeline and PermanentError where there is no such report.
    """
    where = settings()
    pipeline = load_named(where.pipelines, name)
    workspace = Workspace(where.workspace, name)
    as_of = None
    if day is not None:
        as_of = str(Partition.containing(day, pipeline.config.partition.grain))
    for entry in newest_reports(workspace):
        content = load(RunReport, entry.uri, "the report of a run")
        if as_of is None or content.partition == as_of:
            html = storage.join(workspace.run(content.run_id), "report.html")
            report = Report(
                run_id=content.run_id, state=content.state, html=html, json_uri=entry.uri
            )
            return report, content
    of = f" of the partition {as_of}" if as_of else ""
    raise PermanentError(
        f"{name} has no report{of} in {where.workspace}",
        do=f"run it: daybreak run {name}" + (f" --date {as_of}" if as_of else ""),
    )
