"""What of a pipeline may be deleted, and deleting it in an order that a kill cannot harm.

Never deleted: a current version; a version inside the rollback window, among the newest of its
partition or held for a person; what a run of the last `crashed_hours` works with. The snapshot and
the quarantine of a kept version stay for `snapshot_days`, so that its rows can be scored again.

What a person decided stays: of a version that was rejected the question and the answers outlive its
files, and a run that makes it again meets them.

A record of a run that cannot be read deletes nothing: what the run may need stays.

Whatever is deleted goes name first: a version's or a snapshot's manifest and a model's marker go
before the files that they name. What a killed deletion leaves has no name, and goes the next time.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from include import storage
from include.approvals import Held, Standing, is_of_question, standing_of
from include.config import Retention
from include.errors import CorruptData, DaybreakError
from include.leftovers import READERS, Group, InUse, Lying, Unreadable, Version, in_use, lying
from include.reports.records import PLANNED
from include.run import Run, Value
from include.stored import load
from include.stores import Store, Stored, VersionManifest
from include.workspace import SHORT, Workspace

log = logging.getLogger("daybreak")

Kind = Literal[
    "version", "scores", "drift", "snapshot", "gate", "model", "run", "config", "unfinished"
]


class Deletion(Value):
    """One thing to delete and why. `uris` are its files in the order in which they go.

    A version is deleted by its table, which alone knows its files: it has `as_of` and no `uris`.
    """

    kind: Kind
    name: str
    reason: str
    files: int
    bytes: int
    uris: tuple[str, ...] = ()
    as_of: dt.date | None = None


@dataclass(frozen=True)
class _Times:
    """Before these moments, things are old enough to go.

    `rollback` is when a version was superseded, `unneeded` when a snapshot or a model was written.
    """

    crashed: dt.datetime
    rollback: dt.datetime
    unneeded: dt.datetime
    snapshot: dt.datetime
    run: dt.datetime

    @classmethod
    def of(cls, rules: Retention, now: dt.datetime) -> _Times:
        crashed = now - dt.timedelta(hours=rules.crashed_hours)
        rollback = now - dt.timedelta(days=rules.rollback_days)
        return cls(
            crashed=crashed,
            rollback=rollback,
            unneeded=min(crashed, rollback),
            snapshot=now - dt.timedelta(days=rules.snapshot_days),
            run=min(crashed, now - dt.timedelta(days=rules.run_days)),
        )


def told(error: DaybreakError) -> None:
    """Say in the log what could not be read."""
    log.warning("what it may be needed for stays: %s", error)


def plan_expiry(
    workspace: Workspace,
    store: Store,
    rules: Retention,
    now: dt.datetime,
    unreadable: Unreadable = told,
) -> list[Deletion]:
    """All that may go at `now`, in the order in which it has to go. Deletes nothing.

    `unreadable` is told of each record of a run that cannot be read, maybe more than once.
    """
    times, found, stored = _Times.of(rules, now), lying(workspace), store.stored()
    busy = in_use(workspace, found.runs, times.crashed, unreadable)
    asked = [one for group in found.scores if (one := _asked(workspace, group)) is not None]
    waiting = [one.held for one in asked if one.held is not None and one.state(now) == "waiting"]
    rejected = [one for one in asked if one.rejection is not None]
    held = {(each.as_of, each.version) for each in waiting}
    victims = {
        (one.as_of, one.version): (one, reason)
        for one, reason in _old_versions(stored, rules, times)
        if one.deleting
        or not ((one.as_of, one.version) in held or busy.version((one.as_of, one.version)))
    }
    stays = [one for one in stored if (one.as_of, one.version) not in victims]
    alive = {*((one.as_of, one.version) for one in stays), *held}
    manifests = store.manifests([(one.as_of, one.version) for one in stays])
    runs = list(_runs(found.runs, manifests, waiting, times))
    return [
        *(_version(one, reason) for one, reason in victims.values()),
        *_of_versions(
            "scores", _undecided(found.scores, rejected), store, alive, busy, victims.keys(), times
        ),
        *_of_versions("drift", found.drift, store, alive, busy, victims.keys(), times),
        *_features(found, manifests, busy, times),
        *_models(found.models, manifests, busy, times),
        *runs,
        *_configs(
            found,
            {each.name for each in runs},
            [*waiting, *(one.held for one in rejected if one.held is not None)],
            times,
            unreadable,
        ),
        *_unfinished(workspace, times),
    ]


def expire(
    workspace: Workspace,
    store: Store,
    rules: Retention,
    now: dt.datetime,
    unreadable: Unreadable = told,
) -> list[Deletion]:
    """Delete what may go, and keep the table's log small; what was deleted.

    Versions go first. The rest is planned again after them, since a version that became current
    meanwhile stays and keeps what it needs. `unreadable` as for `plan_expiry`.
    """
    by_reason: dict[str, list[Deletion]] = defaultdict(list)
    for each in plan_expiry(workspace, store, rules, now, unreadable):
        if each.as_of is not None:
            by_reason[each.reason].append(each)
    deleted = []
    for reason, those in by_reason.items():
        names = {(each.as_of, each.name): each for each in those if each.as_of is not None}
        deleted += [names[name] for name in store.delete(list(names), reason, now)]
    for each in plan_expiry(workspace, store, rules, now, unreadable):
        if each.as_of is None:
            storage.delete(list(each.uris))
            deleted.append(each)
    store.upkeep()
    return deleted


def _asked(workspace: Workspace, group: Group) -> Standing | None:
    """What a person was asked about a version, and answered; None where nobody was asked."""
    if group.version is None or not any(is_of_question(entry.uri) for entry in group.files):
        return None
    return standing_of(workspace, *group.version)


def _undecided(groups: Iterable[Group], rejected: Iterable[Standing]) -> Iterator[Group]:
    """The groups without what a person decided; it is small, a question and its answers."""
    versions = {(one.as_of, one.version) for one in rejected}
    for group in groups:
        if group.version in versions:
            kept = [entry.uri for entry in group.files if is_of_question(entry.uri)]
            group = group.without(kept)
        if group.files:
            yield group


def _old_versions(
    stored: Iterable[Stored], rules: Retention, times: _Times
) -> Iterator[tuple[Stored, str]]:
    """The versions that no rule keeps, each with the reason."""
    of_date: dict[dt.date, list[Stored]] = defaultdict(list)
    for one in stored:
        of_date[one.as_of].append(one)
    for those in of_date.values():
        newest = _newest(those, rules.versions)
        for one in those:
            if one.deleting:
                yield one, "its deletion was begun and not finished"
            elif one.modified_at >= times.crashed or one.version in newest:
                continue
            elif one.committed is None:
                state = "staged and never published" if one.staged else "scored and never staged"
                yield one, f"{state} for {rules.crashed_hours} h"
            elif not one.staged:
                yield one, f"scored again and never staged for {rules.crashed_hours} h"
            elif (one.committed.superseded_at or one.committed.committed_at) < times.rollback:
                yield (
                    one,
                    f"superseded more than {rules.rollback_days} days ago, and not among the "
                    f"newest {rules.versions}",
                )


def _newest(stored: Iterable[Stored], count: int) -> set[str]:
    """The current version and the ones committed last, `count` in all."""
    known = [one.committed for one in stored if one.committed is not None and one.staged]
    ordered = sorted(known, key=lambda version: (version.current, version.committed_at))
    current = {one.version for one in stored if one.committed is not None and one.committed.current}
    return current | {version.version for version in ordered[-count:]}


def _of_versions(
    kind: Kind,
    groups: Iterable[Group],
    store: Store,
    alive: Collection[Version | None],
    busy: InUse,
    victims: Iterable[Version],
    times: _Times,
) -> Iterator[Deletion]:
    """Jobs, receipts and profiles of versions that are gone, or that never came to be."""
    deleted: dict[dt.date, dict[str, dt.datetime]] = {}
    going = set(victims)
    for group in groups:
        if group.version is None or group.version in alive or busy.version(group.version):
            continue
        as_of, version = group.version
        if as_of not in deleted:
            deleted[as_of] = {one.version: one.at for one in store.expired(as_of)}
        gone_at = deleted[as_of].get(version)
        if group.version in going or (gone_at is not None and group.modified_at < gone_at):
            yield _deletion(kind, group, "of a version that is deleted")
        elif group.modified_at < times.crashed:
            yield _deletion(kind, group, "of a version that is not there")


def _features(
    found: Lying, manifests: list[VersionManifest], busy: InUse, times: _Times
) -> Iterator[Deletion]:
    """Snapshots, and the gates' results and quarantined rows that belong to them."""
    known = {manifest.snapshot_uri for manifest in manifests}
    young = [manifest for manifest in manifests if manifest.scored_at >= times.snapshot]
    kept = {manifest.snapshot_uri for manifest in young} | busy.uris
    stays = set()
    for group in found.snapshots:
        if busy.date_of(group):
            stays.add(group.uri)
        elif not group.named and group.modified_at < times.crashed:
            yield _deletion("snapshot", group, "parts that no manifest names")
        elif group.named and group.uri in known - kept:
            yield _deletion("snapshot", group, "its versions are older than snapshot_days")
        elif group.named and group.uri not in kept and group.modified_at < times.unneeded:
            yield _deletion("snapshot", group, "no kept version was made from it")
        else:
            stays.add(group.uri)
    quarantines = {manifest.quarantine_uri for manifest in young} | busy.uris
    digests = {uri.rpartition("/")[2].removesuffix(".json") for uri in stays}
    for group in found.gates:
        digest = group.name.rpartition("/")[2].partition("-")[0]
        needed = digest in digests or f"{group.uri}.parquet" in quarantines
        if not needed and not busy.date_of(group) and group.modified_at < times.crashed:
            yield _deletion("gate", group, "of a snapshot that is deleted")


def _models(
    groups: Iterable[Group],
    manifests: list[VersionManifest],
    busy: InUse,
    times: _Times,
) -> Iterator[Deletion]:
    if busy.every_model:
        return
    kept = {manifest.model_digest[:SHORT] for manifest in manifests}
    for group in groups:
        if (
            group.name not in kept
            and group.uri not in busy.uris
            and group.modified_at < times.unneeded
        ):
            yield _deletion("model", group, "no kept version was scored with it")


def _runs(
    groups: Iterable[Group],
    manifests: list[VersionManifest],
    waiting: Iterable[Held],
    times: _Times,
) -> Iterator[Deletion]:
    kept = {manifest.run_id for manifest in manifests} | {asked.run.run_id for asked in waiting}
    for group in groups:
        if group.name not in kept and group.modified_at < times.run:
            yield _deletion("run", group, "older than run_days, and it made no kept version")


def _configs(
    found: Lying,
    going: Collection[str],
    asked: Iterable[Held],
    times: _Times,
    unreadable: Unreadable,
) -> Iterator[Deletion]:
    """Pipeline folders as they were planned, which the records of runs name.

    `asked` are the questions that somebody may still answer, or take the answer back.
    """
    old = [group for group in found.configs if group.modified_at < times.crashed]
    if not old:
        return
    with ThreadPoolExecutor(READERS) as readers:
        runs = list(
            readers.map(_planned, (group for group in found.runs if group.name not in going))
        )
    errors = [run for run in runs if isinstance(run, CorruptData)]
    for error in errors:
        unreadable(error)
    if errors:  # any of them may be the one that it names
        return
    named = {run.pipeline_uri for run in runs if isinstance(run, Run)}
    named |= {each.run.pipeline_uri for each in asked}
    for group in old:
        if group.uri not in named:
            yield _deletion("config", group, "no kept run was planned with it")


def _planned(group: Group) -> Run | CorruptData | None:
    try:
        return load(Run, storage.join(group.uri, "run.json"), PLANNED)
    except FileNotFoundError:  # it failed before it was planned
        return None
    except CorruptData as error:
        return error


def _unfinished(workspace: Workspace, times: _Times) -> Iterator[Deletion]:
    for entry in storage.unfinished(workspace.at()):
        if entry.modified_at < times.crashed:
            yield Deletion(
                kind="unfinished",
                name=unquote(entry.uri.removeprefix(f"{workspace.at()}/")),
                reason="its writer was killed",
                files=1,
                bytes=entry.size,
                uris=(entry.uri,),
            )


def _version(one: Stored, reason: str) -> Deletion:
    return Deletion(
        kind="version",
        name=one.version,
        reason=reason,
        files=one.files,
        bytes=one.bytes,
        as_of=one.as_of,
    )


def _deletion(kind: Kind, group: Group, reason: str) -> Deletion:
    return Deletion(
        kind=kind,
        name=group.name,
        reason=reason,
        files=len(group.files),
        bytes=group.bytes,
        uris=tuple(entry.uri for entry in group.files),
    )
