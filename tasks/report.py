"""report: one page for people and one JSON for machines, whatever became of the run."""

from __future__ import annotations

import logging

from include import storage
from include.config import Notify
from include.errors import DaybreakError, PermanentError
from include.notify import Notification, notifications, notify
from include.pipeline import Pipeline, load_named, planned_pipeline
from include.reports.assembly import assemble
from include.reports.message import event_of, message_of
from include.reports.model import RunReport
from include.reports.page import page
from include.reports.records import read_records
from include.run import Report
from include.settings import settings
from include.workspace import Workspace
from tasks.step import recorded

log = logging.getLogger("daybreak")


def report(pipeline: str, run_id: str) -> Report:
    """Write `report.json` and `report.html` into the run's folder, and tell people what happened.

    Works where plan or any other step failed or never ran, and again at any time. A message that
    cannot be sent changes nothing of the run; the report and the log say so.
    """
    workspace = Workspace(settings().workspace, pipeline)
    with recorded("report", workspace, run_id) as recorder:
        standing = _standing(pipeline)
        content = assemble(workspace, run_id, standing)
        folder = workspace.run(run_id)
        result = Report(
            run_id=run_id,
            state=content.state,
            html=storage.join(folder, "report.html"),
            json_uri=storage.join(folder, "report.json"),
        )
        _write(content, result, folder)
        told = _told(workspace, content, standing, result)  # of a report that is there already
        if told:
            _write(content.model_copy(update={"notifications": told}), result, folder)
        recorder.result = result
    return result


def _write(content: RunReport, where: Report, folder: str) -> None:
    storage.write(where.json_uri, content.model_dump_json(indent=2).encode())
    storage.write(where.html, page(content, folder).encode())


def _told(
    workspace: Workspace, content: RunReport, standing: Pipeline | None, where: Report
) -> tuple[Notification, ...]:
    """Send the run's message, if there is one and someone to hear it; all that was ever sent."""
    event, urls = event_of(content), settings().notify
    try:
        if event is None or event not in _rules(workspace, content.run_id, standing).on:
            return ()
        if not urls:
            log.info("DAYBREAK_NOTIFY names no service: nobody is told of the %s", event)
            return ()
        notify(workspace, content.run_id, event, message_of(content, event, where.html), urls)
        return tuple(notifications(workspace, content.run_id))
    except Exception:
        # The table is published or not whoever hears of it.
        log.exception("nobody was told of run %s", content.run_id)
        return ()


def _rules(workspace: Workspace, run_id: str, standing: Pipeline | None) -> Notify:
    """The pipeline's rules as planned, else as its folder stands, else the defaults."""
    run = read_records(workspace, run_id).run
    if run is not None:
        try:
            return planned_pipeline(run).config.notify
        except DaybreakError as error:
            log.warning("the planned rules of notification cannot be read: %s", error)
    return standing.config.notify if standing is not None else Notify()


def _standing(pipeline: str) -> Pipeline | None:
    """The pipeline's folder as it stands; None where it is wrong, which plan has said."""
    try:
        return load_named(settings().pipelines, pipeline)
    except DaybreakError as error:
        log.info("the report does without the folder: %s", error)
        return None


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
