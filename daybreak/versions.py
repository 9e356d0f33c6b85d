"""The versions of a partition, as the prediction table knows them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.partition import Partition
from include.pipeline import Pipeline, load_named
from include.settings import settings
from include.stores import Store, Version, VersionManifest, open_store
from include.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class PredictionTable:
    """A pipeline and its table."""

    pipeline: Pipeline
    uri: str
    store: Store

    def as_of(self, day: dt.date) -> dt.date:
        """The date that names the partition of `day`."""
        return Partition.containing(day, self.pipeline.config.partition.grain).as_of


def table_of(name: str) -> PredictionTable:
    """The prediction table of the pipeline `name`; raises BadConfig for an unknown one."""
    where = settings()
    pipeline = load_named(where.pipelines, name)
    uri = Workspace(where.workspace, name).predictions()
    store = open_store(pipeline.config.predictions, uri)
    return PredictionTable(pipeline, pipeline.config.predictions.uri or uri, store)


@dataclass(frozen=True)
class Line:
    """One version as a person asks for it: who made it, of what, and what became of it."""

    version: str
    state: str
    rows: int
    committed_at: dt.datetime | None
    note: str
    manifest: VersionManifest | None
    listed: Version | None


def versions_of(store: Store, as_of: dt.date) -> list[Line]:
    """The versions of a partition, the oldest first; those that retention deleted come before."""
    lines = [
        Line(
            one.version,
            "deleted",
            one.manifest.rows if one.manifest else 0,
            None,
            f"{one.at:%Y-%m-%d}: {one.reason}",
            one.manifest,
            None,
        )
        for one in sorted(store.expired(as_of), key=lambda one: one.at)
        if one.manifest is not None
    ]
    for version in store.versions(as_of):
        manifest = store.manifest(as_of, version.version)
        state = "current" if version.current else "superseded"
        if version.rolled_back:
            state = "rolled back"
        note = f"rolled back to {version.decision}" if version.decision else ""
        lines.append(
            Line(
                version.version, state, version.rows, version.committed_at, note, manifest, version
            )
        )
    return lines


def versions_json(name: str, as_of: dt.date, lines: list[Line]) -> dict[str, Any]:
    """Stored versions under `versions`, deleted ones under `deleted`, each with its lineage."""

    def lineage(line: Line) -> dict[str, Any]:
        names = (
            "model_name",
            "model_version",
            "model_digest",
            "snapshot_digest",
            "config_digest",
            "run_id",
            "scored_at",
            "rows_in",
            "quarantined",
            "environment",
        )
        known = line.manifest.model_dump(mode="json") if line.manifest is not None else {}
        return {name: known.get(name) for name in names}

    return {
        "pipeline": name,
        "as_of": as_of.isoformat(),
        "versions": [
            {**line.listed.model_dump(mode="json"), "state": line.state, "lineage": lineage(line)}
            for line in lines
            if line.listed is not None
        ],
        "deleted": [
            {"version": line.version, "note": line.note, "lineage": lineage(line)}
            for line in lines
            if line.listed is None
        ],
    }


def versions_table(lines: list[Line]) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("state", "version", "committed (UTC)", "model"):
        table.add_column(name, no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    for name in ("run", "made of", "note"):
        table.add_column(name, overflow="fold")
    noted = any(line.note for line in lines)
    for line in lines:
        committed = line.committed_at.astimezone(dt.UTC) if line.committed_at else None
        manifest = line.manifest
        row = (
            line.state,
            line.version,
            f"{committed:%Y-%m-%d %H:%M:%S}" if committed else "",
            manifest.model_version if manifest else "",
            f"{line.rows:,}",
            manifest.run_id if manifest else "",
            _digests(manifest),
            line.note,
        )
        style = {"current": "bold", "rolled back": "yellow", "deleted": "dim"}.get(line.state, "")
        table.add_row(*row, style=style)
    if not noted:
        table.columns.pop()
    return table


def _digests(manifest: VersionManifest | None) -> str:
    """The first digits of what the version's name is made from."""
    if manifest is None:
        return ""
    return (
        f"snapshot {manifest.snapshot_digest[:8]}, model {manifest.model_digest[:8]}, "
        f"config {manifest.config_digest[:8]}"
    )
