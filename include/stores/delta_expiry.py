"""Deleting versions from a Delta table: what lies there, and an order that a kill cannot harm.

A version must not lose its files while somebody makes it current. Deletion therefore writes its
record (`done` false) first, and then commits nothing to the table, as a barrier. A move of the
version that was based on the table before the barrier fails; one based on the table after it looks
for that record, as every move does between loading the table and committing to it, and refuses. A
move that was committed before the barrier shows in the table, and the deletion is called off; also
where another move left the version again, which has its place in the rollback window from then on.
Killed anywhere, the record says what is left to do.

Of two deletions at once, the one that wrote its mark into the record last goes on and the other
stops: once one of them says that it is done, a run may make the version again, and what it writes
is not for the slower one to delete.
"""

from __future__ import annotations

import datetime as dt
import re
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote

from include import storage
from include.errors import PermanentError, TransientError
from include.stores import Expired, Stored, Version, VersionManifest, delta_log
from include.stores.deletion import Ours, was_current_since
from include.stores.history import FOLDER, History

if TYPE_CHECKING:
    from deltalake import DeltaTable

BARRIER_ATTEMPTS = 40
_READERS = 8

_PART = re.compile(r"as_of=(\d{4}-\d\d-\d\d)/version=([^/]+)/[^/]+")
_RECORD = re.compile(rf"{FOLDER}/(versions|claims|expired)/as_of=(\d{{4}}-\d\d-\d\d)/([^/]+)\.json")

Name = tuple[dt.date, str]


@dataclass
class _Found:
    files: list[storage.Entry] = field(default_factory=list)
    manifest: storage.Entry | None = None
    claim: storage.Entry | None = None
    expired: bool = False

    @property
    def entries(self) -> list[storage.Entry]:
        return [*self.files, *filter(None, (self.manifest, self.claim))]


def stored(root: str, listed: Callable[[dt.date], list[Version]]) -> list[Stored]:
    """Every version that has a manifest, a claim or a file, or whose deletion was not finished.

    `listed` gives all the versions that were ever committed of a date.
    """
    found = _found(root)
    history = History(root)
    begun = {name for name, each in found.items() if each.expired and _deleting(history, name)}
    there = [name for name, one in found.items() if one.entries or name in begun]
    dates = sorted({as_of for as_of, _ in there})
    with ThreadPoolExecutor(_READERS) as readers:
        versions = dict(zip(dates, readers.map(listed, dates), strict=True))
    committed = {(as_of, one.version): one for as_of in dates for one in versions[as_of]}
    result = []
    for as_of, version in sorted(there):
        each = found[as_of, version]
        result.append(
            Stored(
                as_of=as_of,
                version=version,
                committed=committed.get((as_of, version)),
                staged=each.manifest is not None,
                deleting=(as_of, version) in begun,
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
    expired = history.expired(as_of, version)
    if expired is not None and version not in history.staged(as_of):
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


def require_not_deleting(root: str, history: History, manifest: VersionManifest) -> bool:
    """Raise while the version is being deleted; whether it ever was, so that its files are new."""
    expired = history.expired(manifest.as_of, manifest.version)
    if expired is not None and not expired.done:
        raise TransientError(
            f"version {manifest.version} of {manifest.as_of} is being deleted since "
            f"{expired.at:%Y-%m-%d %H:%M:%S %Z} ({expired.reason})",
            where=root,
            do="wait until `daybreak expire` of this pipeline is done, or run it again if it was "
            "killed; then run the partition again",
        )
    return expired is not None


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
        if name not in wanted and _deleting(history, name):
            # It became current in time, and its deletion was killed before it was called off.
            history.drop_expired(*name)
    mark = uuid.uuid4().hex
    begun = {name: _begin(root, history, name, reason, at, mark) for name in wanted}
    table = _barrier(root) if any(begun.values()) else None
    held = delta_log.all_held(table) if table is not None else {}
    deleted = []
    for name in wanted:
        as_of, version = name
        record = begun[name]
        if record is None:
            deleted.append(name)
            continue
        if held.get(as_of) == version or _was_current_since(table, history, name, record.at):
            history.drop_expired(as_of, version)
            continue
        ours = Ours(partial(_is_ours, history, name, mark))
        if _deleted(root, ours, history, as_of, version):
            deleted.append(name)
    return deleted


def _deleted(root: str, ours: Ours, history: History, as_of: dt.date, version: str) -> bool:
    """Delete a version's manifest and files; False where somebody else has taken that over."""
    if not ours():
        return False
    # Without its manifest a version is no longer listed, read or rolled back to.
    history.drop_manifest(as_of, version)
    folder = storage.join(root, f"as_of={as_of}", f"version={version}")
    for entry in storage.entries(folder):
        if not ours():
            return False
        storage.delete([entry.uri])
    history.drop_claim(as_of, version)
    record = history.expired(as_of, version)
    if record is None or not ours():
        return False
    history.keep_expired(record.model_copy(update={"done": True}))
    return True


def _is_ours(history: History, name: Name, mark: str) -> bool:
    record = history.expired(*name)
    return record is not None and not record.done and record.mark == mark


def _begin(
    root: str, history: History, name: Name, reason: str, at: dt.datetime, mark: str
) -> Expired | None:
    """Write the record of the deletion; None where somebody has done it and nothing is left.

    One that was begun before keeps what it knows, and no record loses the lineage that it has.
    """
    as_of, version = name
    # In this order: who deletes a manifest has written it into the record before.
    manifest, before = history.manifest(as_of, version), history.expired(as_of, version)
    if before is not None and not before.done:
        record = before.model_copy(update={"mark": mark})
    elif before is not None and manifest is None and not _left(root, history, name):
        return None
    else:
        if manifest is None and before is not None:
            manifest = before.manifest
        record = Expired(
            as_of=as_of,
            version=version,
            at=at,
            reason=reason,
            done=False,
            manifest=manifest,
            mark=mark,
        )
    history.keep_expired(record)
    return record


def _left(root: str, history: History, name: Name) -> bool:
    """Whether anything but a manifest is stored of a version."""
    folder = storage.join(root, f"as_of={name[0]}", f"version={name[1]}")
    return any(storage.entries(folder)) or storage.exists(history.claim_uri(*name))


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


def _deleting(history: History, name: Name) -> bool:
    record = history.expired(*name)
    return record is not None and not record.done


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
                one.manifest = entry
            elif record[1] == "claims":
                one.claim = entry
            else:
                one.expired = True
    return found
