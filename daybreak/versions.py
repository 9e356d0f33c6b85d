"""The versions of a partition, as the prediction table knows them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.approvals import Standing, standings
from include.partition import Partition
from include.pipeline import Pipeline, load_named
from include.settings import settings
from include.stores import Expired, Store, Version, VersionManifest, open_store
from include.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class PredictionTable:
    """A pipeline and its table."""

    pipeline: Pipeline
    uri: str
    store: Store
    workspace: Workspace

    def as_of(self, day: dt.date) -> dt.date:
        """The date that names the partition of `day`."""
        return Partition.containing(day, self.pipeline.config.partition.grain).as_of

    def asked(self, as_of: dt.date) -> list[Standing]:
        """The versions of a partition that a person was asked about."""
        return standings(self.workspace, as_of)


def table_of(name: str) -> PredictionTable:
    """The prediction table of the pipeline `name`; raises BadConfig for an unknown one."""
    where = settings()
    pipeline = load_named(where.pipelines, name)
    workspace = Workspace(where.workspace, name)
    uri = workspace.predictions()
    store = open_store(pipeline.config.predictions, uri)
    shown = pipeline.config.predictions.uri or uri
    return PredictionTable(pipeline, shown, store, workspace)


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


def versions_of(store: Store, as_of: dt.date, asked: Sequence[Standing] = ()) -> list[Line]:
    """The versions of a partition, the oldest first; those that retention deleted come before.

    After those that were published come those of `asked` that were not: held for a person, or
    rejected, also where retention deleted their files since.
    """
    expired = sorted(store.expired(as_of), key=lambda one: one.at)
    rejected = {one.version for one in asked if one.rejection is not None}
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
        for one in expired
        if one.manifest is not None and one.version not in rejected
    ]
    for version in store.versions(as_of):
        manifest = store.manifest(as_of, version.version)
        state = "current" if version.current else "superseded"
        if version.rolled_back:
            state = "rolled back"
        said = {
            "": version.rolled_back_by,
            "rolled back to ": version.decision,
            "approved ": version.approval,
        }
        note = "; ".join(f"{what}{who}" for what, who in said.items() if who is not None)
        lines.append(
            Line(
                version.version, state, version.rows, version.committed_at, note, manifest, version
            )
        )
    published = {line.version for line in lines}
    gone = {one.version: one for one in expired}
    return lines + [
        _held(store, each, gone.get(each.version))
        for each in asked
        if each.version not in published
    ]


def _held(store: Store, standing: Standing, gone: Expired | None) -> Line:
    """A version that readers never saw, and why; `gone` where its files were deleted since."""
    now = dt.datetime.now(dt.UTC)
    answer, manifest = standing.answer(now), store.manifest(standing.as_of, standing.version)
    manifest = manifest or (gone.manifest if gone is not None else None)
    deleted = f"; deleted {gone.at:%Y-%m-%d}: {gone.reason}" if gone is not None else ""
    waits = standing.state(now) == "waiting"
    note = ""
    if standing.held is not None:
        note = f"{standing.held.message}; it waits for a person until {standing.held.until_local()}"
    return Line(
        standing.version,
        "held" if waits else "rejected" if answer and answer.verdict != "approved" else "approved",
        manifest.rows if manifest else 0,
        None,
        (note if waits or answer is None else str(answer)) + deleted,
        manifest,
        None,
    )


def versions_json(name: str, as_of: dt.date, lines: list[Line]) -> dict[str, Any]:
    """Published versions under `versions`, deleted ones under `deleted`, each with its lineage.

    Those that wait for a person, or were rejected, are under `held`.
    """

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
            "failed",
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
        "held": [
            {
                "version": line.version,
                "state": line.state,
                "note": line.note,
                "lineage": lineage(line),
            }
            for line in lines
            if line.listed is None and line.state != "deleted"
        ],
        "deleted": [
            {"version": line.version, "note": line.note, "lineage": lineage(line)}
            for line in lines
            if line.state == "deleted"
        ],
    }


def versions_table(lines: list[Line]) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("state", "version", "committed (UTC)", "model"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", "set aside"):
        table.add_column(name, justify="right", no_wrap=True)
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
            _set_aside(manifest),
            manifest.run_id if manifest else "",
            _digests(manifest),
            line.note,
        )
        style = {
            "current": "bold",
            "rolled back": "yellow",
            "held": "yellow",
            "deleted": "dim",
        }.get(line.state, "")
        table.add_row(*row, style=style)
    if not noted:
        table.columns.pop()
    return table


def _set_aside(manifest: VersionManifest | None) -> str:
    """The rows in quarantine, and how many of them are there because the model failed on them."""
    if manifest is None:
        return ""
    failed = f" ({manifest.failed:,} failed)" if manifest.failed else ""
    return f"{manifest.set_aside:,}{failed}"


def _digests(manifest: VersionManifest | None) -> str:
    """The first digits of what the version's name is made from."""
    if manifest is None:
        return ""
    return (
        f"snapshot {manifest.snapshot_digest[:8]}, model {manifest.model_digest[:8]}, "
        f"config {manifest.config_digest[:8]}"
    )
