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

from include import storage
from include.approvals import Standing, standings
from include.errors import CorruptData
from include.models.registry import RegisteredModel
from include.partition import Partition
from include.past_runs import READERS, PastRun
from include.pipeline import Pipeline, planned_pipeline
from include.reports.records import PLANNED, STEPS, RunRecords, read_records
from include.run import Rescore, Run, Value
from include.stored import load
from include.stores import Decision, Store, VersionManifest
from include.workspace import Workspace

State = Literal["published", "stale", "rolled back", "held", "failed", "missing"]


class PartitionState(Value):
    """One partition.

    `published`: readers have what a run would make now, as far as that is known without
    extracting. `stale`: they have another version, and `reasons` say why. `rolled back`: that
    other version is the one to which a person rolled back; `reasons` say who first. `held`: a
    version waits for a person; `version` is what readers have meanwhile. `failed`: readers have
    nothing, and the last run failed. `missing`: readers have nothing, and no run has failed.

    `version`, `model_version`, `rows` and `published_run` are of what readers have, and `decision`
    is the rollback by which they have it, if one did that. `note` tells of a last run that changed
    nothing for readers.
    """

    partition: Partition
    state: State
    reasons: tuple[str, ...] = ()
    note: str = ""
    version: str | None = None
    model_version: str | None = None
    rows: int | None = None
    published_run: str | None = None
    decision: Decision | None = None
    last_run: str | None = None


@dataclass(frozen=True)
class _Known:
    """All that the state of one partition follows from."""

    manifest: VersionManifest | None
    rollback: Decision | None
    held: Standing | None
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
    rollbacks = store.rollbacks([each.as_of for each in partitions])

    def state(partition: Partition) -> PartitionState:
        as_of = partition.as_of
        rollback = rollbacks.get(as_of)
        known = _known(workspace, store, as_of, current.get(as_of), rollback, runs.get(as_of, []))
        return _state(pipeline, workspace, partition, known, model)

    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(state, partitions))


def to_run(state: PartitionState, rescore: Rescore) -> tuple[bool, str]:
    """Whether a partition is among those to run, and why or why not.

    What a person rolled back is run by `all` only: a range is no decision about one of its dates.
    """
    runs = (
        rescore == "all"
        or state.version is None
        or (rescore == "stale" and state.state in ("stale", "held") and state.decision is None)
    )
    why = "; ".join(state.reasons)
    if state.state == "held" and state.decision is not None and not runs:
        why = f"has version {state.version}, rolled back {state.decision}; {why}"
    if state.state == "published":
        why = f"has version {state.version}" + (f"; {state.note}" if state.note else "")
    elif state.state == "stale" and not runs:
        why = f"has version {state.version}"
    elif state.state == "rolled back" and not runs:
        why = f"has version {state.version}, {why}"
    return runs, why


def _known(
    workspace: Workspace,
    store: Store,
    as_of: dt.date,
    version: str | None,
    rollback: Decision | None,
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
    return _Known(manifest, rollback, _held(workspace, store, as_of, version), last, records)


def _held(
    workspace: Workspace, store: Store, as_of: dt.date, current: str | None
) -> Standing | None:
    """The newest version that was held for a person, unless readers got a version after it."""
    found = [each for each in standings(workspace, as_of) if each.held is not None]
    newest = found[-1] if found else None
    if newest is None or newest.held is None or newest.version == current:
        return None
    since = store.current(as_of) if current is not None else None
    return newest if since is None or since.committed_at < newest.held.held_at else None


def _state(
    pipeline: Pipeline,
    workspace: Workspace,
    partition: Partition,
    known: _Known,
    model: RegisteredModel | None,
) -> PartitionState:
    manifest, failure = known.manifest, _refusal(known) or _failure(known)
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
        if reasons and known.rollback is not None:
            state, reasons = "rolled back", (f"rolled back {known.rollback}", *reasons)
    elif failure:
        state, reasons = "failed", (failure,)
    else:
        state, reasons = "missing", (_never(known.last),)
    held = known.held.held if known.held is not None else None
    if held is not None and known.held is not None and _waits(known.held):
        waits = f"{held.message}; it waits for a person until {held.until_local()}"
        state, reasons, note = "held", (waits,), ""
    return PartitionState(
        partition=partition,
        state=state,
        reasons=reasons,
        note=note,
        version=manifest.version if manifest else None,
        model_version=manifest.model_version if manifest else None,
        rows=manifest.rows if manifest else None,
        published_run=manifest.run_id if manifest else None,
        decision=known.rollback,
        last_run=known.last.run_id if known.last else None,
    )


def _waits(standing: Standing) -> bool:
    return standing.state(dt.datetime.now(dt.UTC)) == "waiting"


def _refusal(known: _Known) -> str:
    """Who rejected the version of the last run, where that is why it published nothing."""
    standing, last = known.held, known.last
    if standing is None or standing.held is None or last is None:
        return ""
    answer = standing.answer(dt.datetime.now(dt.UTC))
    if answer is None or answer.verdict == "approved" or last.run_id != standing.held.run.run_id:
        return ""
    return f"version {standing.version} was {answer}"


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
    now = (
        f"{model.alias} is {model.version} now" if model.alias else f"{model.version} is asked for"
    )
    return f"other model: made by version {manifest.model_version}, {now}"


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
        before = planned_pipeline(load(Run, uri, PLANNED))
    except (FileNotFoundError, CorruptData):  # all that is lost is which part changed
        return None
    return before if before.digest == manifest.config_digest else None


def _other_rows(manifest: VersionManifest, records: RunRecords | None) -> str:
    snapshot = records.snapshot if records is not None else None
    if records is None or snapshot is None or snapshot.digest == manifest.snapshot_digest:
        return ""
    run_id = records.run.run_id if records.run else "the last run"
    return f"other rows: run {run_id} found {snapshot.rows:,} rows that differ from these"
