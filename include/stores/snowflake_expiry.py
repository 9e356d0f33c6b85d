"""Deleting versions from Snowflake and the workspace, in an order that a kill cannot harm.

The rows go in one transaction with the record that a deletion was begun, under the lock that every
move takes: a version that is made current first is left, and one that is deleted first cannot be
made current. Then the parts in the workspace go, and the last entry says that it is done.

Whoever deletes parts may be stopped at any moment and go on long after another one was done and a
run made the version again. Parts have names by the run's claim; a version that was deleted is
staged by a claim made after that only, and nobody gets one while a deletion is under way. So those
that were listed before the deletion was last seen under way are never those of a new making.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import defaultdict
from collections.abc import Sequence
from urllib.parse import unquote

from include import storage
from include.stores import Expired, Stored
from include.stores.snowflake_history import (
    EXPIRED,
    EXPIRING,
    STAGED,
    Entry,
    SnowflakeHistory,
    last_state,
    manifest_of,
)

_PART = re.compile(r"as_of=(\d{4}-\d\d-\d\d)/version=([^/]+)/[^/]+")

Name = tuple[dt.date, str]


def stored(
    root: str, history: SnowflakeHistory, entries: list[Entry], current: dict[dt.date, str]
) -> list[Stored]:
    """Every version with a manifest or a part, or whose deletion was not finished.

    `entries` are all of the history; `bytes` and `modified_at` are of the parts in the workspace,
    and of the manifest's entry.
    """
    files = _files(root)
    of_version: dict[Name, list[Entry]] = defaultdict(list)
    of_date: dict[dt.date, list[Entry]] = defaultdict(list)
    for entry in entries:
        of_version[entry.as_of, entry.version].append(entry)
        of_date[entry.as_of].append(entry)
    committed = {
        (as_of, one.version): one
        for as_of, those in of_date.items()
        for one in history.versions(those, current.get(as_of))
    }
    result = []
    for name in sorted({*of_version, *files}):
        state, there = last_state(of_version.get(name, [])), files.get(name, [])
        staged = state is not None and state.kind == STAGED
        deleting = state is not None and state.kind == EXPIRING
        if not (staged or deleting or there):
            continue
        times = [entry.modified_at for entry in there]
        if state is not None and staged:
            times.append(state.written_at)
        result.append(
            Stored(
                as_of=name[0],
                version=name[1],
                committed=committed.get(name),
                staged=staged,
                deleting=deleting,
                files=len(there),
                bytes=sum(entry.size for entry in there),
                modified_at=max(times, default=dt.datetime.fromtimestamp(0, dt.UTC)),
            )
        )
    return result


def begun(entries: Sequence[Entry], name: Name, reason: str, at: dt.datetime) -> Expired:
    """The record of a deletion that starts; one that was begun before keeps what it knows."""
    before, manifest = expired_of(entries), manifest_of(list(entries))
    if before is not None and not before.done:
        return before
    if manifest is None and before is not None:
        manifest = before.manifest  # it was scored again since, and not staged
    return Expired(
        as_of=name[0], version=name[1], at=at, reason=reason, done=False, manifest=manifest
    )


def expired_of(entries: Sequence[Entry]) -> Expired | None:
    """The record of one version's deletion, begun or done, of its entries; None if it is there."""
    state = last_state(list(entries))
    if state is None or state.kind not in (EXPIRING, EXPIRED):
        return None
    return Expired.model_validate_json(state.record)


def _files(root: str) -> dict[Name, list[storage.Entry]]:
    found: dict[Name, list[storage.Entry]] = defaultdict(list)
    for entry in storage.entries(root):
        part = _PART.fullmatch(unquote(entry.uri.removeprefix(f"{root}/")))
        if part is not None:
            found[dt.date.fromisoformat(part[1]), part[2]].append(entry)
    return found
