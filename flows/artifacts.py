"""What Prefect's page of a run shows of it: the steps as a table, the report and a link to it."""

from __future__ import annotations

import hashlib
import logging

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from include import storage
from include.reports.model import RunReport
from include.run import Report

log = logging.getLogger("daybreak")


def show(pipeline: str, report: Report) -> None:
    """Create the artifacts of a run; one that cannot be created changes nothing of the run."""
    try:
        content = RunReport.model_validate_json(storage.read(report.json_uri))
        key = key_of(pipeline)
        subject = f"{pipeline} {content.partition}".rstrip()
        create_table_artifact(
            steps_of(content), key=f"{key}-run", description=f"{subject}: the steps of the run"
        )
        create_markdown_artifact(
            markdown_of(content, report), key=f"{key}-report", description=content.verdict
        )
        create_link_artifact(
            report.html,
            link_text=f"Report of {subject}",
            key=f"{key}-report-page",
            description=f"{subject}: {content.state}",
        )
    except Exception:
        log.exception("the run's page in Prefect goes without artifacts")


def key_of(pipeline: str) -> str:
    """A pipeline's name in the letters that Prefect allows: lower case, digits and dashes.

    Names that would become one differ by a digest: the newest of a key stands for all of them.
    """
    key = "".join(letter if letter.isalnum() else "-" for letter in pipeline.lower())
    if key.replace("-", "_") == pipeline:
        return key
    return f"{key}-{hashlib.sha256(pipeline.encode()).hexdigest()[:6]}"


def steps_of(content: RunReport) -> list[dict[str, str | float]]:
    """One row a step, in their order."""
    return [
        {
            "step": line.step,
            "outcome": line.outcome,
            "seconds": round(line.seconds, 1),
            "note": line.note,
        }
        for line in content.steps
    ]


def markdown_of(content: RunReport, report: Report) -> str:
    """The report's first lines: what came of it, the counts, the checks that failed, the drift."""
    counts, lineage, gate = content.counts, content.lineage, content.gate
    facts = {
        "State": content.state,
        "Partition": content.partition,
        "Version": lineage.version,
        "Model": f"{lineage.model_name} {lineage.model_version}" if lineage.model_name else None,
        "Rows": _counted(counts.rows_in),
        "Scored": _counted(counts.scored),
        "Quarantined": _counted(counts.quarantined),
        "Published": _counted(counts.published),
        "Drift": f"{content.drift.verdict}: {content.drift.message}" if content.drift else None,
        "Report": f"`{report.html}`",
    }
    lines = [f"## {_plain(content.verdict)}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_plain(fact)} |" for name, fact in facts.items() if fact]
    for problem in filter(None, (content.problem, *content.others)):
        lines += ["", f"**{problem.step} failed:** {_plain(problem.found)}"]
        lines += [f"\n{_plain(problem.do)}"] if problem.do else []
    failed = [check for check in gate.checks if not check.passed] if gate else []
    if failed:
        lines += ["", "| Check that failed | Severity | |", "|---|---|---|"]
        lines += [
            f"| {_plain(each.name)} | {each.severity} | {_plain(each.message)} |" for each in failed
        ]
    return "\n".join(lines) + "\n"


def _counted(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _plain(text: str) -> str:
    """Text that stays in its cell: it may quote values out of the warehouse."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
