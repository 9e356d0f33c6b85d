"""The reports of a pipeline's runs, whoever started them."""

from __future__ import annotations

from include import storage
from include.workspace import Workspace


def newest_reports(workspace: Workspace) -> list[storage.Entry]:
    """Each run's report.json, the one that was written last first."""
    written = [
        entry
        for entry in storage.entries(workspace.runs())
        # runs/<run_id>/report.json, and not the step's record below steps/
        if entry.uri.removeprefix(f"{workspace.runs()}/").split("/")[1:] == ["report.json"]
    ]
    return sorted(written, key=lambda entry: entry.modified_at, reverse=True)
