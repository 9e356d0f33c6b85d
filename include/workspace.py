"""Where everything of a pipeline lies. Every step derives its paths from here.

<workspace>/<pipeline>/
    configs/<digest>.json                     the pipeline folder as planned
    models/<digest>/…                         pinned model folders
    snapshots/as_of=…/<digest>.json           manifests; parts lie beside them
    gates/as_of=…/<snapshot>-<config>.json    results and quarantined rows
    predictions/                              the Delta table; versions below as_of=…/version=…
    scores/as_of=…/<version>/                 the job and the receipts of a version's parts
    drift/as_of=…/<version>-<references>.json
    runs/<run_id>/                            request, run, steps/<step>.json, the report,
                                              notifications/<event>.json
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

from include.storage import join

SHORT = 16  # hexadecimal digits of a digest in a name: 64 bits, unique among one date's versions


@dataclass(frozen=True)
class Workspace:
    """The URIs of one pipeline below the workspace's root."""

    root: str
    pipeline: str

    def at(self, *names: str) -> str:
        return join(self.root, self.pipeline, *names)

    def config(self, digest: str) -> str:
        """`digest` is of the file's whole content, more than what shapes rows."""
        return self.at("configs", f"{digest[:SHORT]}.json")

    def model(self, digest: str) -> str:
        return self.at("models", digest[:SHORT])

    def snapshots(self, as_of: dt.date) -> str:
        return self.at("snapshots", f"as_of={as_of}")

    def gate(self, as_of: dt.date, snapshot_digest: str, config_digest: str) -> str:
        """Without its suffix: .json is the result, .parquet the quarantined rows."""
        name = f"{snapshot_digest[:SHORT]}-{config_digest[:SHORT]}"
        return self.at("gates", f"as_of={as_of}", name)

    def predictions(self) -> str:
        return self.at("predictions")

    def scored(self, as_of: dt.date) -> str:
        return self.at("scores", f"as_of={as_of}")

    def scores(self, as_of: dt.date, version: str) -> str:
        return join(self.scored(as_of), version)

    def runs(self) -> str:
        return self.at("runs")

    def drift(self, as_of: dt.date, version: str) -> str:
        return self.at("drift", f"as_of={as_of}", version)

    def run(self, run_id: str) -> str:
        return join(self.runs(), run_id)

    def step(self, run_id: str, step: str) -> str:
        return join(self.run(run_id), "steps", f"{step}.json")

    def notifications(self, run_id: str) -> str:
        return join(self.run(run_id), "notifications")

    def notification(self, run_id: str, event: str) -> str:
        return join(self.notifications(run_id), f"{event}.json")


def run_id_of(orchestrator: str, own_id: str) -> str:
    """A run's id, safe in paths and the same for every step of the orchestrator's run."""
    return f"{orchestrator}-" + re.sub(r"[^A-Za-z0-9_.-]+", "_", own_id)
