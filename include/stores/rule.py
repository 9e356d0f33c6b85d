"""The rule between versions of a date: which one a move may replace. Every kind of table keeps it.

The version that is current already is left alone; one whose commit was asked for by a run *planned
later* is not superseded; any other is. A rollback counts as planned when it was decided, and the
version that it took away comes back by a rollback only.
"""

from __future__ import annotations

import datetime as dt

from include.errors import CorruptData, PermanentError
from include.run import Published
from include.stores import (
    Claim,
    Decision,
    Overtaken,
    RolledBack,
    Seen,
    Unclaimed,
    VersionManifest,
)
from include.stores.history import Commit

CLOCKS_DIFFER = dt.timedelta(days=1)  # by more than that, one of them is wrong


def commit_of(
    manifest: VersionManifest,
    planned_at: dt.datetime,
    replaced: Commit | None,
    table_version: int,
    mark: str,
    decision: Decision | None,
    approval: Decision | None = None,
) -> Commit:
    """The record of making a version current in the place of `replaced`; no `mark`, no writer."""
    withdrawn = dict(replaced.withdrawn) if replaced is not None else {}
    withdrawn.pop(manifest.version, None)
    if decision is not None and replaced is not None:
        withdrawn[replaced.version] = decision
        # A run was planned on a machine whose clock is ahead: the rollback still comes after it.
        # But not after one that was years ahead, or no run could ever come after the rollback.
        if replaced.planned_at - planned_at < CLOCKS_DIFFER:
            planned_at = max(planned_at, replaced.planned_at)
    return Commit(
        as_of=manifest.as_of,
        version=manifest.version,
        table_version=table_version,
        replaced=replaced.version if replaced is not None else None,
        rows=manifest.rows,
        model_version=manifest.model_version,
        run_id=manifest.run_id,
        scored_at=manifest.scored_at,
        planned_at=planned_at,
        committed_at=dt.datetime.now(dt.UTC) if mark else manifest.scored_at,
        mark=mark,
        decision=decision,
        approval=approval,
        withdrawn=withdrawn,
    )


def outcome(
    commit: Commit, table: str, table_version: int, *, published: bool, note: str | None
) -> Published:
    return Published(
        outcome="published" if published else "unchanged",
        version=commit.version,
        table=table,
        table_version=table_version,
        rows=commit.rows,
        replaced=commit.replaced if published else None,
        note=note if published else None,
    )


def digests(manifest: VersionManifest) -> list[str]:
    """The digests of a version's parts, in order: what its rows are."""
    return [part.digest for part in sorted(manifest.parts, key=lambda part: part.part)]


def claim_of(manifest: VersionManifest) -> Claim:
    return Claim(run_id=manifest.run_id, scored_at=manifest.scored_at)


def require_claimed(manifest: VersionManifest, kept: VersionManifest | Claim | None) -> None:
    """Raise where a version that was deleted before belongs to another run than the manifest's.

    Who slept in that deletion may still delete files that have the names of earlier claims. `kept`
    says whose it is: its staged manifest, or else the claim.
    """
    if kept is None or (kept.run_id, kept.scored_at) != (manifest.run_id, manifest.scored_at):
        since = f", and run {kept.run_id} has claimed it since" if kept is not None else ""
        raise Unclaimed(
            f"version {manifest.version} of {manifest.as_of} was deleted after run "
            f"{manifest.run_id} had begun to score it{since}: nothing was published",
            do="run the partition again, which scores it anew",
        )


def require_on_record(manifest: VersionManifest, staged: VersionManifest | None) -> None:
    """Raise where somebody else has staged the version since, with other parts.

    What is on record of a version must be what readers get: it is what a rollback brings back.
    """
    if staged is not None and digests(staged) != digests(manifest):
        raise PermanentError(
            f"run {staged.run_id} has staged version {manifest.version} of {manifest.as_of} with "
            "other parts meanwhile: nothing was published",
            do="run the partition again, which makes one version of the two",
        )


def published_otherwise(manifest: VersionManifest, where: str) -> CorruptData:
    """The error of staging other parts in the place of those that readers had."""
    return CorruptData(
        f"version {manifest.version} of {manifest.as_of} is published with other parts than these",
        where=where,
        do="run the partition again: it makes the parts that were published, or says which "
        "libraries make others",
    )


def require_not_superseded(
    manifest: VersionManifest, planned_at: dt.datetime, current: Commit | None
) -> None:
    """Raise where a later run or a person decided otherwise."""
    if current is None or current.version == manifest.version:
        return
    if manifest.version in current.withdrawn:
        raise rolled_back(manifest, current.withdrawn[manifest.version], current.version)
    if current.planned_at <= planned_at:
        return
    by = f"of a run planned at {current.planned_at:%Y-%m-%d %H:%M:%S %Z}"
    if current.decision is not None:
        by = f"to which the partition was rolled back {current.decision}"
    raise PermanentError(
        f"version {current.version}, {by}, is current; {manifest.version}, of a run planned at "
        f"{planned_at:%Y-%m-%d %H:%M:%S %Z}, comes too late",
        do=_how_to_come_first(current.planned_at),
    )


def rolled_back(manifest: VersionManifest, decision: Decision, current: str | None) -> RolledBack:
    """The error of a run that made the version again that a person rolled back from."""
    return RolledBack(
        f"version {manifest.version} was rolled back {decision}; these rows, this model and this "
        f"configuration are that version again, and readers keep {current or 'what they have'}",
        do="point the model's alias to a better version or mend the features; if the version "
        f"is right after all: daybreak rollback {manifest.pipeline} --date {manifest.as_of} "
        f"--to {manifest.version}",
    )


def _how_to_come_first(planned_at: dt.datetime) -> str:
    now = dt.datetime.now(dt.UTC)
    if planned_at > now:
        return (
            f"see that the clocks of the machines that run it agree: here it is "
            f"{now:%Y-%m-%d %H:%M:%S %Z}, before the current version was planned; if its clock was "
            "the wrong one, daybreak rollback lets later runs come first again"
        )
    return "start a new run of the partition if the older version is the one to have"


def require_seen(manifest: VersionManifest, seen: Seen | None, current: Commit | None) -> None:
    """Raise where readers have another version than the one that was looked at."""
    has = current.version if current is not None else None
    if seen is not None and has != seen.version:
        raise Overtaken(
            f"readers have version {has or 'none'} of {manifest.as_of} now, and had "
            f"{seen.version or 'none'} when this was decided: nothing was changed",
            do="look at the versions again, and decide about that one",
        )


def ended(current: Commit | None) -> str | None:
    """What to say of a move that ends a rollback."""
    if current is None or current.decision is None:
        return None
    return f"this ends the rollback to version {current.version} {current.decision}"
