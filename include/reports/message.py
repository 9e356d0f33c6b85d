"""What people are told of a run, from its report: what, where, what to do, what readers see."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

from include.config import Event
from include.notify import Message, lines
from include.reports.model import Readers, RunReport

_LEVELS = {"failure": "failure", "held": "warning", "drift": "warning", "published": "success"}
_COLUMNS = 5


def event_of(report: RunReport) -> Event | None:
    """What the run is told as: one thing, the gravest. None where the version was there before."""
    if report.state == "failed":
        return "failure"
    if report.state == "held":
        return "held"
    if report.drift is None:
        return "failure"  # The orchestrator's run is red, though readers have the table.
    if report.drift.verdict == "alert":
        return "drift"
    return "published" if report.state == "published" else None


def message_of(report: RunReport, event: Event, html: str) -> Message:
    """The message for an event of `event_of`; `html` is where the report lies."""
    subject = f"{report.pipeline} {report.partition}".rstrip()
    problem = report.problem or next(iter(report.others), None)
    done = report.state in ("published", "unchanged")
    titles = {
        "failure": f"{subject}: published, but its drift was not measured"
        if done
        else f"{subject}: failed at {problem.step if problem else 'publish'}",
        "held": f"{subject}: held, waits for a person",
        "drift": f"{subject}: published, and its data drifted",
        "published": f"{subject}: published",
    }
    do = problem.do if problem else ""
    facts: dict[str, str | None] = {"What": report.verdict}
    if problem is not None:
        facts["What"] = problem.found or problem.error
        facts["Where"] = ", ".join(filter(None, (f"step {problem.step}", problem.where)))
    elif event == "drift" and report.drift is not None:
        facts["What"] = report.drift.message
        facts["Where"] = _furthest(report)
        do = (
            "look at the columns in the report: did the source change, or the world? "
            "Retrain, or publish an older version, if the scores are not to be trusted"
        )
    facts["Do"] = f"{do[0].upper()}{do[1:]}." if do else None
    facts["Readers"] = told_of_readers(report.readers, report.timezone)
    facts["Report"] = html
    facts["Run"] = report.links.get("orchestrator") or report.run_id
    facts["Owner"] = report.owner or None
    return Message.model_validate(
        {"title": titles[event], "body": lines(facts), "level": _LEVELS[event]}
    )


def told_of_readers(readers: Readers | None, timezone: str) -> str:
    """The last good version, which readers see meanwhile."""
    if readers is None:
        return "nothing of this table is known to be published"
    return (
        f"see version {readers.version} of {readers.as_of}, {readers.rows:,} rows, published "
        f"{local(readers.committed_at, timezone)}"
    )


def local(moment: dt.datetime, timezone: str) -> str:
    return f"{moment.astimezone(ZoneInfo(timezone)):%Y-%m-%d %H:%M} {timezone}"


def _furthest(report: RunReport) -> str | None:
    """The columns that gave the verdict, the furthest first."""
    drift = report.drift
    if drift is None:
        return None
    columns = [
        f"{column.column} (PSI {column.psi:.2f} against {column.reference})"
        for column in drift.columns
        if column.verdict == "alert" and column.column not in drift.ignored
    ]
    return ", ".join(columns[:_COLUMNS]) or None
