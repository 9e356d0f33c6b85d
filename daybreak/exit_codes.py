"""The exit codes of commands that run partitions, from what became of the partitions."""

from __future__ import annotations

from collections.abc import Iterable

OK, FAILED, BAD_CONFIG, HELD, INTERRUPTED = 0, 1, 2, 3, 130


def exit_code_of(state: str | None, failed: str | None) -> int:
    """Of a run that ended in `state`; a step that failed after publishing makes it fail too."""
    if state == "held":
        return HELD
    return OK if state in ("published", "unchanged") and not failed else FAILED


def worst_of(codes: Iterable[int]) -> int:
    """Of several runs: FAILED where one is, else HELD where one is."""
    found = set(codes)
    return next((code for code in (FAILED, HELD) if code in found), OK)
