"""The memory of a prediction table: manifests of versions, and records of commits and deletions.

    <table>/_daybreak/
        versions/as_of=…/v1.json            the manifest
        claims/as_of=…/v1.json              whose the version is, see Claim
        commits/as_of=…/….json              one for each move of the date's pointer, by its number
        deleting/as_of=…/v1.json            a deletion that was begun
        expired/as_of=…/v1.json             how it ended: done, or called off

A version that is made again after a deletion is of its next making, whose names are v1.1.json, and
so on; the records of a deletion are numbered in the same way. What is done with one making or one
deletion never touches the names of the next, so that a process that slept in a deletion harms
nothing that was made since.

Commits and ended deletions stay as long as the table does: a VACUUM passes over folders of the
table whose name starts with an underscore, and the clean-up of a table's own log does not touch
them.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote

from pydantic import Field

from include import storage
from include.errors import CorruptData
from include.run import Value
from include.stored import load
from include.stores import Claim, Decision, Expired, Version, VersionManifest

FOLDER = "_daybreak"
READERS = 16  # of small records, which wait for the storage

_NAME = re.compile(r"([^/.]+)(?:\.(\d+))?\.json")


class Commit(Value):
    """One move of a date's pointer; written once, never changed.

    `table_version` is the table's counter after the commit, `planned_at` the time at which the run
    that asked for it was planned: the order of runs. `mark` is the writer's own, to know it again.
    `decision` is there where it was a person's rollback, and `withdrawn` are the versions of the
    date that rollbacks, up to this commit, took away and none gave back, each with that rollback.
    `approval` is a person's, of a version that the audit held.
    """

    as_of: dt.date
    version: str
    table_version: int
    replaced: str | None
    rows: int
    model_version: str
    run_id: str
    scored_at: dt.datetime
    planned_at: dt.datetime
    committed_at: dt.datetime
    mark: str
    decision: Decision | None = None
    approval: Decision | None = None
    withdrawn: dict[str, Decision] = Field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """What deletions have left of a version.

    `making` is how many of them were done, `last` the last of these. `begun` is under way, and
    `number` is its, or that of the next one.
    """

    making: int
    number: int
    last: Expired | None
    begun: Expired | None


NEVER_DELETED = Standing(making=0, number=0, last=None, begun=None)


class History:
    """The manifests, the claims, the commits and the deletions of one table."""

    def __init__(self, table_uri: str) -> None:
        self.root = storage.join(table_uri, FOLDER)

    def manifest_uri(self, as_of: dt.date, version: str, making: int = 0) -> str:
        return self._uri("versions", as_of, version, making)

    def manifest(self, as_of: dt.date, version: str, making: int) -> VersionManifest | None:
        uri = self.manifest_uri(as_of, version, making)
        try:
            found = load(VersionManifest, uri, "the manifest of a version")
        except FileNotFoundError:
            return None
        if (found.as_of, found.version) != (as_of, version):
            raise CorruptData(
                f"this is the manifest of version {found.version} of {found.as_of}, not of "
                f"{version} of {as_of}",
                where=uri,
                do="restore it from a backup, or delete it and run the partition again",
            )
        return found

    def keep_manifest(self, manifest: VersionManifest, making: int) -> str:
        uri = self.manifest_uri(manifest.as_of, manifest.version, making)
        storage.write(uri, manifest.model_dump_json(indent=2).encode())
        return uri

    def claim_uri(self, as_of: dt.date, version: str, making: int) -> str:
        return self._uri("claims", as_of, version, making)

    def claim(self, as_of: dt.date, version: str, making: int, claim: Claim) -> Claim:
        return first_claim(self.claim_uri(as_of, version, making), claim)

    def claimed(self, as_of: dt.date, version: str, making: int) -> Claim | None:
        return kept_claim(self.claim_uri(as_of, version, making))

    def commits(self, as_of: dt.date) -> list[Commit]:
        """Every recorded commit of a date, the oldest first."""
        records = storage.entries(self._records("commits", as_of))
        return [load(Commit, record.uri, "the record of a commit") for record in records]

    def last_commit(self, as_of: dt.date, table_version: int) -> Commit | None:
        """The last recorded commit of a date up to this version of the table."""
        records = [
            record.uri
            for record in storage.entries(self._records("commits", as_of))
            if int(record.uri.rpartition("/")[2].removesuffix(".json")) <= table_version
        ]
        return load(Commit, records[-1], "the record of a commit") if records else None

    def recorded(self) -> set[tuple[dt.date, int]]:
        """Every recorded commit, as its date and the table's version: one listing for all."""
        found = set()
        for record in storage.entries(storage.join(self.root, "commits")):
            _, date, name = unquote(record.uri).rsplit("/", 2)
            as_of = dt.date.fromisoformat(date.removeprefix("as_of="))
            found.add((as_of, int(name.removesuffix(".json"))))
        return found

    def append(self, commit: Commit) -> None:
        """Record a commit; a record that another writer restored meanwhile says the same."""
        uri = storage.join(
            self._records("commits", commit.as_of), f"{commit.table_version:020d}.json"
        )
        storage.create(uri, commit.model_dump_json(indent=2).encode())

    def staged(self, as_of: dt.date) -> set[str]:
        """The versions of a date that have a manifest, of their present making."""
        found, deleted = self._versions("versions", as_of), self._versions("expired", as_of)
        standings = self.standings([(as_of, version) for version in found.keys() & deleted.keys()])
        return {
            version
            for version, makings in found.items()
            if standings.get((as_of, version), NEVER_DELETED).making in makings
        }

    def standing(self, as_of: dt.date, version: str) -> Standing:
        """Two small reads, mostly of what is not there, and one more for each deletion before."""
        making, number, last = 0, 0, None
        while (ended := self._deletion("expired", as_of, version, number)) is not None:
            making, last = (making + 1, ended) if ended.done else (making, last)
            number += 1
        return Standing(making, number, last, self._deletion("deleting", as_of, version, number))

    def standings(
        self, names: Sequence[tuple[dt.date, str]]
    ) -> dict[tuple[dt.date, str], Standing]:
        with ThreadPoolExecutor(READERS) as readers:
            found = list(readers.map(lambda name: self.standing(*name), names))
        return dict(zip(names, found, strict=True))

    def begin(self, record: Expired) -> bool:
        """Write that a deletion was begun; False where somebody has begun this one before."""
        uri = self._uri("deleting", record.as_of, record.version, record.number)
        return storage.create(uri, record.model_dump_json(indent=2).encode())

    def end(self, record: Expired, *, done: bool) -> None:
        """Write how a deletion ended, done or called off; who comes first says it for all."""
        ended = record.model_copy(update={"done": done})
        uri = self._uri("expired", record.as_of, record.version, record.number)
        storage.create(uri, ended.model_dump_json(indent=2).encode())
        self.drop("deleting", record.as_of, record.version, record.number)

    def ended(self, record: Expired) -> bool:
        uri = self._uri("expired", record.as_of, record.version, record.number)
        return storage.exists(uri)

    def drop(self, kind: str, as_of: dt.date, version: str, last: int) -> None:
        """Delete what is kept of a kind, of a version's first making or deletion to its `last`."""
        storage.delete([self._uri(kind, as_of, version, number) for number in range(last + 1)])

    def expired(self, as_of: dt.date) -> list[Expired]:
        """The last deletion of each version of a date, done or under way."""
        versions = sorted({*self._versions("expired", as_of), *self._versions("deleting", as_of)})
        standings = self.standings([(as_of, version) for version in versions]).values()
        last = [standing.begun or standing.last for standing in standings]
        return [record for record in last if record is not None]

    def tidy(self) -> None:
        """Drop what says that a deletion has begun, of those of which it is known how they ended.

        One that was killed, or overtaken, at its very end leaves it.
        """
        for entry in storage.entries(storage.join(self.root, "deleting")):
            _, date, name = unquote(entry.uri).rsplit("/", 2)
            match = _NAME.fullmatch(name)
            if match is not None:
                as_of, number = dt.date.fromisoformat(date.removeprefix("as_of=")), match[2]
                if int(number or 0) < self.standing(as_of, match[1]).number:
                    storage.delete([entry.uri])

    def _versions(self, kind: str, as_of: dt.date) -> dict[str, set[int]]:
        """The versions of a date that have records of a kind, each with their numbers."""
        found: dict[str, set[int]] = {}
        for entry in storage.entries(self._records(kind, as_of)):
            match = _NAME.fullmatch(unquote(entry.uri.rpartition("/")[2]))
            if match is not None:
                found.setdefault(match[1], set()).add(int(match[2] or 0))
        return found

    def versions(self, commits: list[Commit], current: str | None) -> list[Version]:
        """One entry per version of a date's commits, by its last commit."""
        return versions_of(commits, current, self.manifest_uri)

    def entry(self, commit: Commit, current: bool) -> Version:
        return version_of(commit, current, self.manifest_uri)

    def _deletion(self, kind: str, as_of: dt.date, version: str, number: int) -> Expired | None:
        try:
            return load(
                Expired, self._uri(kind, as_of, version, number), "the record of a deletion"
            )
        except FileNotFoundError:
            return None

    def _records(self, kind: str, as_of: dt.date) -> str:
        return storage.join(self.root, kind, f"as_of={as_of}")

    def _uri(self, kind: str, as_of: dt.date, version: str, number: int) -> str:
        name = f"{version}.{number}.json" if number else f"{version}.json"
        return storage.join(self._records(kind, as_of), name)


def first_claim(uri: str, claim: Claim) -> Claim:
    """The claim that is kept at `uri`; this one, where there was none."""
    while not storage.create(uri, claim.model_dump_json().encode()):
        # It may be deleted between the two, together with the version.
        if (kept := kept_claim(uri)) is not None:
            return kept
    return claim


def kept_claim(uri: str) -> Claim | None:
    with suppress(FileNotFoundError):
        return load(Claim, uri, "the claim of a version")
    return None


def versions_of(
    commits: list[Commit], current: str | None, manifest_uri: Callable[[dt.date, str], str]
) -> list[Version]:
    """One entry per version of a date's commits, by its last commit, the oldest first."""
    ordered = sorted(commits, key=lambda commit: commit.table_version)
    last = {commit.version: position for position, commit in enumerate(ordered)}
    withdrawn = ordered[-1].withdrawn if ordered else {}
    return [
        version_of(
            ordered[position],
            version == current,
            manifest_uri,
            rolled_back_by=withdrawn.get(version),
            superseded_at=ordered[position + 1].committed_at
            if position + 1 < len(ordered)
            else None,
        )
        for version, position in sorted(last.items(), key=lambda item: item[1])
    ]


def version_of(
    commit: Commit,
    current: bool,
    manifest_uri: Callable[[dt.date, str], str],
    *,
    rolled_back_by: Decision | None = None,
    superseded_at: dt.datetime | None = None,
) -> Version:
    """A version by the commit that made it current the last time."""
    return Version(
        as_of=commit.as_of,
        version=commit.version,
        current=current,
        rows=commit.rows,
        model_version=commit.model_version,
        run_id=commit.run_id,
        committed_at=commit.committed_at,
        manifest_uri=manifest_uri(commit.as_of, commit.version),
        decision=commit.decision,
        approval=commit.approval,
        rolled_back=rolled_back_by is not None,
        rolled_back_by=rolled_back_by,
        superseded_at=superseded_at,
    )


def before(commits: list[Commit], current: str | None) -> list[str]:
    """The versions of a date that runs replaced on the way to the current one, the last one first.

    A rollback leads back on that way and adds nothing to it.
    """
    by_runs = sorted(
        (commit for commit in commits if commit.decision is None),
        key=lambda commit: commit.table_version,
    )
    found, version = [current], current
    while version is not None:
        while by_runs and by_runs[-1].version != version:
            by_runs.pop()
        version = by_runs.pop().replaced if by_runs else None
        if version not in found:
            found.append(version)
    return [name for name in found[1:] if name is not None]
