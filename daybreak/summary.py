"""The end of a run at a glance, from its report.json: a table for people, JSON for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from include import storage
from include.reports.model import RunReport
from include.stored import load

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from include.run import Report

_STYLES = {
    "published": "bold green",
    "unchanged": "bold green",
    "held": "bold yellow",
    "failed": "bold red",
    "stable": "green",
    "warn": "yellow",
    "alert": "bold red",
}


def load_report(report: Report) -> RunReport:
    return load(RunReport, report.json_uri, "the report of a run")


def print_summary(console: Console, report: Report) -> None:
    """The table, and below it the places to look next, whole so that they can be copied."""
    content = load_report(report)
    console.print()
    console.print(summary_table(content))
    places = {"report": report.html}
    if content.publish is not None:
        places["predictions"] = content.publish.table
    for name, uri in places.items():
        console.print(f"  {name:<12}{shown(uri)}", soft_wrap=True, markup=False, highlight=False)


def summary_table(content: RunReport) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.ROUNDED, show_header=False, padding=(0, 1), title_justify="left")
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    subject = f"{content.pipeline} {content.partition}".strip()
    table.add_row("run", Text.assemble(subject, "  ", (content.state, _STYLES[content.state])))
    lineage, counts, gate = content.lineage, content.counts, content.gate
    if lineage.version:
        table.add_row("version", lineage.version)
    if lineage.model_name:
        alias = f" ({lineage.model_alias})" if lineage.model_alias else ""
        table.add_row("model", f"{lineage.model_name} version {lineage.model_version}{alias}")
    if counts.rows_in is not None:
        table.add_row(
            "rows",
            f"{counts.rows_in:,} in, {_count(counts.scored)} scored, "
            f"{_count(counts.quarantined)} quarantined"
            + (f" ({counts.failed:,} because the model failed on them)" if counts.failed else ""),
        )
    if gate is not None:
        failed = sum(not check.passed for check in gate.checks)
        verdict = ("passed", "green") if gate.passed else ("failed", "bold red")
        outcome = "only warned" if gate.passed and failed else "failed"
        said = f": {len(gate.checks)} checks, {failed or 'none'} {outcome}"
        table.add_row("gate", Text.assemble(verdict, said))
    if content.drift is not None:
        verdict = (content.drift.verdict, _STYLES.get(content.drift.verdict, ""))
        table.add_row("drift", Text.assemble(verdict, f": {content.drift.message}"))
    seconds = [f"{line.step} {line.seconds:.1f}" for line in content.steps if _ran(line.outcome)]
    if seconds:
        table.add_row("seconds", ", ".join(seconds))
    return table


def summary_json(content: RunReport, report: Report, exit_code: int) -> dict[str, Any]:
    """What `--json` prints. Keys are added, never renamed, within a `schema_version`."""
    lineage, gate, drift = content.lineage, content.gate, content.drift
    return {
        "schema_version": 1,
        "pipeline": content.pipeline,
        "partition": content.partition or None,
        "run_id": content.run_id,
        "state": content.state,
        "exit_code": exit_code,
        "version": lineage.version,
        "model": {
            "name": lineage.model_name,
            "version": lineage.model_version,
            "alias": lineage.model_alias,
        },
        "rows": {
            "in": content.counts.rows_in,
            "scored": content.counts.scored,
            "quarantined": content.counts.quarantined,
            "failed": content.counts.failed,
            "published": content.counts.published,
        },
        "gate": None
        if gate is None
        else {
            "passed": gate.passed,
            "checks": len(gate.checks),
            "failed": [check.name for check in gate.checks if not check.passed],
        },
        "drift": None if drift is None else drift.verdict,
        "seconds": {line.step: line.seconds for line in content.steps if _ran(line.outcome)},
        "problem": content.problem.model_dump(mode="json") if content.problem else None,
        "table": content.publish.table if content.publish else None,
        "report": {"html": report.html, "json": report.json_uri},
    }


def shown(uri: str) -> str:
    """A place as a person opens it: a path, below the working directory where it is shorter."""
    path = storage.local_path(uri)
    if path is None:
        return uri
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _ran(outcome: str) -> bool:
    return outcome in ("success", "failed")


def _count(number: int | None) -> str:
    return "none" if number is None else f"{number:,}"
