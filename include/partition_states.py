"""The state of each partition: what readers have of it, and whether a run would make another.

Everything is read from the prediction table, its manifests and the records of runs. The warehouse
is not asked, so that rows which changed there are seen only where a run has extracted them since.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from include import storage
from include.errors import CorruptData
from include.models.registry import RegisteredModel
from include.partition import Partition
from include.past_runs import READERS, PastRun
from include.pipeline import Pipeline, planned_pipeline
from include.reports.records import STEPS, RunRecords, read_records
from include.run import Run, Value
from include.stores import Store, VersionManifest
from include.workspace import Workspace

State = Literal["published", "stale", "held", "failed", "missing"]


class PartitionState(Value):
    """One partition.

    `published`: readers have what a run would make now, as far as that is known without
    extracting. `stale`: they have another version, and `reasons` say why. `held`: a version waits
    for a person; `version` is what readers have meanwhile. `failed`: readers have nothing, and the
    last run failed. `missing`: readers have nothing, and no run has failed.

    `version`, `model_version`, `rows` and `published_run` are of what readers have. `note` tells
    of a last run that changed nothing for readers.
    """

    partition: Partition
    state: State
    reasons: tuple[str, ...] = ()
    note: str = ""
    version: str | None = None
    model_version: str | None = None
    rows: int | None = None
    published_run: str | None = None
    last_run: str | None = None


class _Held(BaseModel):
    """What is read of held.json, which publish writes beside the receipts of a version."""

    version: str
    held_at: dt.datetime
    message: str


@dataclass(frozen=True)
class _Known:
    """All that the state of one partition follows from."""

    manifest: VersionManifest | None
    held: _Held | None
    last: PastRun | None
    records: RunRecords | None


def partition_states(
    pipeline: Pipeline,
    workspace: Workspace,
    store: Store,
    partitions: Sequence[Partition],
    runs: dict[dt.date, list[PastRun]],
    model: RegisteredModel | None,
) -> list[PartitionState]:
    """The state of each of `partitions`, in their order.

    `runs` are those of `past_runs`. `model` is what the alias stands for now; None leaves the model
    out of what makes a version stale.
    """
    current = store.current_versions()

    def state(partition: Partition) -> PartitionState:
        as_of = partition.as_of
        known = _known(workspace, store, as_of, current.get(as_of), runs.get(as_of, []))
        return _state(pipeline, workspace, partition, known, model)

    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(state, partitions))


def _known(
    workspace: Workspace,
    store: Store,
    as_of: dt.date,
    version: str | None,
    runs: list[PastRun],
) -> _Known:
    manifest = store.manifest(as_of, version) if version is not None else None
    if version is not None and manifest is None:
        raise CorruptData(
            f"version {version} of {as_of} has no manifest",
            do="restore it from a backup of the table's folder",
            pipeline=workspace.pipeline,
        )
    last = runs[-1] if runs else None
    records = read_records(workspace, last.run_id) if last is not None else None
    return _Known(manifest, _held(workspace, store, as_of, version), last, records)


def _held(workspace: Workspace, store: Store, as_of: dt.date, current: str | None) -> _Held | None:
    """The newest version that waits for a person, unless readers got a version after it."""
    found = [
        _Held.model_validate_json(storage.read(entry.uri))
        for entry in storage.entries(workspace.scored(as_of))
        if entry.uri.endswith("/held.json")
    ]
    held = max(found, key=lambda each: each.held_at, default=None)
    if held is None or held.version == current:
        return None
    since = store.current(as_of) if current is not None else None
    return held if since is None or since.committed_at < held.held_at else None


def _state(
    pipeline: Pipeline,
    workspace: Workspace,
    partition: Partition,
    known: _Known,
    model: RegisteredModel | None,
) -> PartitionState:
    manifest, failure = known.manifest, _failure(known)
    state: State
    reasons: tuple[str, ...] = ()
    note = ""
    if manifest is not None:
        reasons = tuple(
            filter(
                None,
                (
                    _other_model(pipeline, manifest, model),
                    _other_configuration(pipeline, workspace, manifest),
                    _other_rows(manifest, known.records),
                ),
            )
        )
        state, note = ("stale" if reasons else "published"), failure
    elif failure:
        state, reasons = "failed", (failure,)
    else:
        state, reasons = "missing", (_never(known.last),)
    if known.held is not None:
        state, reasons, note = "held", (f"{known.held.version}: {known.held.message}",), ""
    return PartitionState(
        partition=partition,
        state=state,
        reasons=reasons,
        note=note,
        version=manifest.version if manifest else None,
        model_version=manifest.model_version if manifest else None,
        rows=manifest.rows if manifest else None,
        published_run=manifest.run_id if manifest else None,
        last_run=known.last.run_id if known.last else None,
    )


def _failure(known: _Known) -> str:
    """Why the last run published nothing, as far as a step of it failed; empty otherwise."""
    if known.records is None:
        return ""
    for step in STEPS[:-1]:  # a drift that failed has taken nothing from readers
        record = known.records.records.get(step)
        if record is not None and record.outcome == "failed":
            found = (record.error or {}).get("found", "")
            return f"the last run failed at {step}: {found}".rstrip(": ")
    return ""


def _never(last: PastRun | None) -> str:
    if last is None:
        return "it was never run"
    if not last.ended:
        return f"run {last.run_id} has no end: it still runs, or its process was killed"
    return f"run {last.run_id} ended, and the table has no version of it"


def _other_model(
    pipeline: Pipeline, manifest: VersionManifest, model: RegisteredModel | None
) -> str:
    name = pipeline.config.model.name
    if manifest.model_name != name:
        return f"other model: made by {manifest.model_name}, the pipeline now names {name}"
    if model is None or manifest.model_version == model.version:
        return ""
    alias = model.alias or pipeline.config.model.alias
    return f"other model: made by version {manifest.model_version}, {alias} is {model.version} now"


def _other_configuration(
    pipeline: Pipeline, workspace: Workspace, manifest: VersionManifest
) -> str:
    if manifest.config_digest == pipeline.digest:
        return ""
    before = _pipeline_of(workspace, manifest)
    changed = pipeline.differs_from(before) if before is not None else []
    return "other configuration" + (f": {', '.join(changed)}" if changed else "")


def _pipeline_of(workspace: Workspace, manifest: VersionManifest) -> Pipeline | None:
    """The pipeline as the version was made by it, where the record of its run still says."""
    uri = storage.join(workspace.run(manifest.run_id), "run.json")
    try:
        run = Run.model_validate_json(storage.read(uri))
        before = planned_pipeline(run)
    except (FileNotFoundError, CorruptData):  # all that is lost is which part changed
        return None
    return before if before.digest == manifest.config_digest else None


def _other_rows(manifest: VersionManifest, records: RunRecords | None) -> str:
    snapshot = records.snapshot if records is not None else None
    if records is None or snapshot is None or snapshot.digest == manifest.snapshot_digest:
        return ""
    run_id = records.run.run_id if records.run else "the last run"
    return f"other rows: run {run_id} found {snapshot.rows:,} rows that differ from these"
