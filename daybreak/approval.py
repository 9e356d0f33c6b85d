"""`daybreak approve` and `daybreak reject`: a person's answer on a version that the audit held."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from daybreak.summary import shown

if TYPE_CHECKING:
    from rich.console import Console

    from tasks.approval import Decided


def approve_command(
    name: str,
    day: dt.date,
    version: str | None,
    by: str,
    reason: str,
    overrule: bool,
    now: dt.datetime,
    out: Console | None,
) -> tuple[dict[str, Any], int]:
    """Publish a held version; what `--json` prints, and the exit code."""
    from tasks.approval import approve

    decided = approve(name, day, version, by, reason, now, overrule=overrule)
    return _told(decided, out)


def reject_command(
    name: str,
    day: dt.date,
    version: str | None,
    by: str,
    reason: str,
    now: dt.datetime,
    out: Console | None,
) -> tuple[dict[str, Any], int]:
    """Refuse a held version; what `--json` prints, and the exit code."""
    from tasks.approval import reject

    return _told(reject(name, day, version, by, reason, now), out)


def _told(decided: Decided, out: Console | None) -> tuple[dict[str, Any], int]:
    if out is not None:
        for line in _lines(decided):
            out.print(line, soft_wrap=True, markup=False, highlight=False)
    return {
        "schema_version": 1,
        "pipeline": decided.pipeline,
        "as_of": decided.as_of.isoformat(),
        "version": decided.version,
        "outcome": decided.outcome,
        "exit_code": 0,
        "answer": decided.answer.model_dump(mode="json"),
        "run_id": decided.run_id,
        "published": decided.published.model_dump(mode="json", exclude={"checks"})
        if decided.published is not None
        else None,
        "report": decided.report.html if decided.report is not None else None,
    }, 0


def _lines(decided: Decided) -> list[str]:
    subject = f"{decided.pipeline} {decided.as_of}: version {decided.version}"
    if decided.outcome == "published":
        rows = f"{decided.published.rows:,} rows" if decided.published is not None else ""
        found = [f"{subject} is published, {rows}: {decided.answer}."]
    elif decided.outcome == "rejected":
        found = [f"{subject} is not published: {decided.answer}."]
    else:
        found = [f"{subject}: nothing changed, it was {decided.answer}."]
    if decided.report is not None:
        found.append(f"  report      {shown(decided.report.html)}")
    elif decided.outcome != "unchanged":
        found.append(f"Run {decided.run_id} in Airflow goes on by itself.")
    return found
