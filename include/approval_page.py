"""What a person reads before answering for a version that the audit held."""

from __future__ import annotations

from include.approvals import Held
from include.stores import VersionManifest


def subject_of(held: Held) -> str:
    return f"Publish the predictions of {held.pipeline} for {held.as_of}?"


def question(held: Held, manifest: VersionManifest | None, report: str | None) -> str:
    """The audit's figures as Markdown; `report` is the address of the run's report."""
    shift = held.shift
    readers = f"version `{held.replaces}`" if held.replaces else "nothing of this date"
    facts = {
        "Version": f"`{held.version}`, model `{held.run.model.name}` version "
        f"{held.run.model.version}",
        "Rows": f"{manifest.rows_in:,} in, {manifest.rows:,} scored" if manifest else "",
        "Scores moved": f"PSI {shift.psi:.3f}; held above {shift.limit:g} (chance alone gives "
        f"{shift.noise_psi:.3f})",
        "Mean score": f"{shift.reference_mean:.4g} → {shift.mean:.4g}",
        "Compared with": f"version `{shift.against_version}` of {shift.against_as_of}",
        "Audit": _audit(held),
        "Readers have": readers,
        "Asked again": held.again,
        "Answer by": f"{held.until_local()}; without one it counts as rejected",
        "Report": f"[open the run's report]({report})" if report else "",
    }
    rows = "\n".join(f"| {name} | {_cell(fact)} |" for name, fact in facts.items() if fact)
    given = f"{held.pipeline} --date {held.as_of} --version {held.version}"
    return (
        f"The version is complete and sound, but {_why(held)}. **Approve** publishes it, "
        f"**Reject** leaves readers with what they have.\n\n| | |\n|---|---|\n{rows}\n\n"
        f"On the command line: `daybreak approve {given}`, or `daybreak reject` with the same.\n"
    )


def _why(held: Held) -> str:
    if held.shift.too_large:
        return "its scores moved further than `max_score_psi` allows"
    return "it was refused before"


def _audit(held: Held) -> str:
    """The checks by their results; a version is only held where all the others passed."""
    passed = [check.name for check in held.checks if check.passed]
    others = [f"**{check.name}**: held" for check in held.checks if not check.passed]
    return "; ".join([*others, f"passed: {', '.join(passed)}"])


def _cell(text: str) -> str:
    """Text that stays within its cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
