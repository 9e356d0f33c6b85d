"""Deleting versions from a Delta table: what lies there, and an order that a kill cannot harm.

A version must not lose its files while somebody makes it current. Deletion therefore writes first
that it has begun, and then commits nothing to the table, as a barrier. A move of the version that
was based on the table before the barrier fails; one based on the table after it looks for that
record, as every move does between loading the table and committing to it, and refuses. A move that
was committed before the barrier shows in the table, and the deletion is called off; also where
another move left the version again, which has its place in the rollback window from then on.
Killed anywhere, the record says what is left to do; of several at once, each does all of it.

Whoever deletes may be stopped at any moment and go on long after another one was done and a run
made the version again. So that it then deletes nothing of the new making:
- records have other names for each making and each deletion, see history.py;
- parts have names by the run's claim, and a deleted version is staged by a claim of its new making
  only, which nobody gets while a deletion is under way;
- of files, only those go that were listed before the deletion was last seen under way.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

from include import storage
from include.errors import PermanentError, TransientError
from include.stores import Expired, Stored, Version, delta_log
from include.stores.deletion import UnderWay, was_current_since
from include.stores.history import FOLDER, NEVER_DELETED, READERS, History, Standing

if TYPE_CHECKING:
    from deltalake import DeltaTable

BARRIER_ATTEMPTS = 40

_PART = re.compile(r"as_of=(\d{4}-\d\d-\d\d)/version=([^/]+)/[^/]+")
_RECORD = re.compile(
    rf"{FOLDER}/(versions|claims|deleting|expired)/as_of=(\d{{4}}-\d\d-\d\d)/"
    r"([^/.]+)(?:\.(\d+))?\.json"
)

Name = tuple[dt.date, str]


@dataclass
class _Found:
    """What lies there of a version; manifests by their making."""

    files: list[storage.Entry] = field(default_factory=list)
    manifests: dict[int, storage.Entry] = field(default_factory=dict)
    claims: list[storage.Entry] = field(default_factory=list)
    deleting: bool = False
    deleted: bool = False

    @property
    def entries(self) -> list[storage.Entry]:
        return [*self.files, *self.manifests.values(), *self.claims]


def stored(root: str, listed: Callable[[dt.date], list[Version]]) -> list[Stored]:
    """Every version that has a manifest, a claim or a file, or whose deletion was not finished.

    `listed` gives all the versions that were ever committed of a date. Of versions that are gone,
    nothing is read.
    """
    found = _found(root)
    there = [name for name, one in found.items() if one.entries or one.deleting]
    recorded = [name for name in there if found[name].deleted or found[name].deleting]
    standings = History(root).standings(recorded)
    there = [name for name in there if found[name].entries or standings[name].begun is not None]
    dates = sorted({as_of for as_of, _ in there})
    with ThreadPoolExecutor(READERS) as readers:
        versions = dict(zip(dates, readers.map(listed, dates), strict=True))
    committed = {(as_of, one.version): one for as_of in dates for one in versions[as_of]}
    result = []
    for as_of, version in sorted(there):
        each, standing = found[as_of, version], standings.get((as_of, version), NEVER_DELETED)
        result.append(
            Stored(
                as_of=as_of,
                version=version,
                committed=committed.get((as_of, version)),
                staged=standing.making in each.manifests,
                deleting=standing.begun is not None,
                files=len(each.files),
                bytes=sum(entry.size for entry in each.entries),
                modified_at=max(
                    (entry.modified_at for entry in each.entries),
                    default=dt.datetime.fromtimestamp(0, dt.UTC),
                ),
            )
        )
    return result


def not_stored(
    root: str, history: History, as_of: dt.date, version: str, stored: Sequence[str]
) -> PermanentError:
    """The error for a version that is not there: deleted, or never made. `stored` are those."""
    standing = history.standing(as_of, version)
    expired = standing.begun or standing.last
    if expired is not None and history.manifest(as_of, version, standing.making) is None:
        return PermanentError(
            f"the files of version {version} of {as_of} were deleted at "
            f"{expired.at:%Y-%m-%d %H:%M:%S %Z} ({expired.reason})",
            where=root,
            do="run the partition again with the same rows, model and configuration to make them "
            "again",
        )
    return PermanentError(
        f"the predictions of {as_of} have no committed version {version}",
        where=root,
        do=f"choose one of {list(stored)}, or run that partition",
    )


def require_not_deleting(root: str, history: History, as_of: dt.date, version: str) -> int:
    """Raise while the version is being deleted; how often it was, which is its making."""
    standing = history.standing(as_of, version)
    if (begun := standing.begun) is not None:
        raise TransientError(
            f"version {version} of {as_of} is being deleted since "
            f"{begun.at:%Y-%m-%d %H:%M:%S %Z} ({begun.reason})",
            where=root,
            do="wait until `daybreak expire` of this pipeline is done, or run it again if it was "
            "killed; then run the partition again",
        )
    return standing.making


def delete(
    root: str, history: History, versions: Sequence[Name], reason: str, at: dt.datetime
) -> list[Name]:
    """Delete what is stored of these versions, which was decided at `at`.

    Those that are current or become it are left, and so are those that were it after `at`.
    """
    table = delta_log.load(root)
    held = delta_log.all_held(table) if table is not None else {}
    names = list(dict.fromkeys(versions))
    wanted = [name for name in names if held.get(name[0]) != name[1]]
    for name in names:
        begun_before = history.standing(*name).begun if name not in wanted else None
        # It became current in time, and its deletion was killed before it was called off.
        if begun_before is not None and delta_log.held(delta_log.load(root), name[0]) == name[1]:
            history.end(begun_before, done=False)
    begun = {name: _begin(root, history, name, reason, at) for name in wanted}
    table = _barrier(root) if any(begun.values()) else None
    held = delta_log.all_held(table) if table is not None else {}
    deleted = []
    for name in wanted:
        record = begun[name]
        if record is None:
            deleted.append(name)
        elif held.get(name[0]) == name[1] or _was_current_since(table, history, name, record.at):
            history.end(record, done=False)
        elif _deleted(root, history, record):
            deleted.append(name)
    return deleted


def _deleted(root: str, history: History, record: Expired) -> bool:
    """Delete a version's manifest and files; False where somebody else was done before."""
    as_of, version, making = record.as_of, record.version, record.making
    # Without its manifest a version is no longer listed, read or rolled back to.
    history.drop("versions", as_of, version, making)
    files = list(storage.entries(storage.join(root, f"as_of={as_of}", f"version={version}")))
    under_way = UnderWay(lambda: not history.ended(record))  # from the listing on
    for entry in files:
        if not under_way():
            break
        storage.delete([entry.uri])
    ended = not under_way()
    if not ended:
        history.drop("claims", as_of, version, making)
    history.end(record, done=True)
    return not ended


def _begin(root: str, history: History, name: Name, reason: str, at: dt.datetime) -> Expired | None:
    """Write that the deletion has begun; None where somebody was done and nothing is left.

    One that was begun before keeps what it knows, and no record loses the lineage that it has.
    """
    as_of, version = name
    while True:
        standing = history.standing(as_of, version)
        if standing.begun is not None:
            return standing.begun
        manifest, last = history.manifest(as_of, version, standing.making), standing.last
        if last is not None and manifest is None and not _left(root, history, name, standing):
            return None
        record = Expired(
            as_of=as_of,
            version=version,
            at=at,
            reason=reason,
            done=False,
            manifest=manifest if manifest is not None or last is None else last.manifest,
            making=standing.making,
            number=standing.number,
        )
        # Who has begun it since had seen its manifest, which may be gone by now.
        if history.begin(record):
            return record


def _left(root: str, history: History, name: Name, standing: Standing) -> bool:
    """Whether anything but its manifest is stored of a version."""
    folder = storage.join(root, f"as_of={name[0]}", f"version={name[1]}")
    if any(storage.entries(folder)):
        return True
    makings = range(standing.making + 1)
    records = [history.claim_uri(*name, making) for making in makings]
    records += [history.manifest_uri(*name, making) for making in makings[:-1]]
    return any(storage.exists(uri) for uri in records)


def _was_current_since(
    table: DeltaTable | None, history: History, name: Name, since: dt.datetime
) -> bool:
    """Whether a version that is not current was it at that time or later."""
    as_of, version = name
    commits = history.commits(as_of)
    held = delta_log.held(table, as_of)
    if table is not None and held is not None and (not commits or commits[-1].version != held):
        # The last commit of a date has no record where its writer died or is about to write it.
        after = commits[-1].table_version if commits else -1
        last = delta_log.logged_commit(table, as_of, held, after)
        commits += [last] if last is not None else []
    return was_current_since(since, version, history.versions(commits, held))


def _barrier(root: str) -> DeltaTable | None:
    """The table from where on no move of a version with a record can succeed."""
    from deltalake.exceptions import CommitFailedError

    for attempt in range(BARRIER_ATTEMPTS):
        table = delta_log.load(root)
        if table is None:
            return None
        try:
            delta_log.barrier(table)
        except CommitFailedError:
            time.sleep(min(1.0, 0.02 * 2**attempt))
            continue
        except Exception as error:
            raise delta_log.translated(error, root) from error
        return table
    raise TransientError(
        f"other writers were faster than all {BARRIER_ATTEMPTS} commits that deleting needs",
        where=root,
        do="run it again while fewer partitions are published; nothing is lost",
    )


def _found(root: str) -> dict[Name, _Found]:
    """What lies in the table's folder, by date and version."""
    found: dict[Name, _Found] = defaultdict(_Found)
    for entry in storage.entries(root):
        path = unquote(entry.uri.removeprefix(f"{root}/"))
        part, record = _PART.fullmatch(path), _RECORD.fullmatch(path)
        if part is not None:
            found[dt.date.fromisoformat(part[1]), part[2]].files.append(entry)
        elif record is not None:
            one = found[dt.date.fromisoformat(record[2]), record[3]]
            if record[1] == "versions":
                one.manifests[int(record[4] or 0)] = entry
            elif record[1] == "claims":
                one.claims.append(entry)
            elif record[1] == "deleting":
                one.deleting = True
            else:
                one.deleted = True
    return found
