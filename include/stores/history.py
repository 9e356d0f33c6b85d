"""The memory of a prediction table: manifests of versions, and records of commits and deletions.

All lie under `_daybreak/` in the table's folder. A VACUUM passes over folders of the table whose
name starts with an underscore, and the clean-up of a table's own log does not touch them, so that
they last as long as the table does.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import unquote

from pydantic import Field

from include import storage
from include.errors import CorruptData
from include.run import Value
from include.stored import load
from include.stores import Claim, Decision, Expired, Version, VersionManifest

FOLDER = "_daybreak"


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


class History:
    """The manifests, the commits and the deletions of one table."""

    def __init__(self, table_uri: str) -> None:
        self.root = storage.join(table_uri, FOLDER)

    def manifest_uri(self, as_of: dt.date, version: str) -> str:
        return storage.join(self._records("versions", as_of), f"{version}.json")

    def manifest(self, as_of: dt.date, version: str) -> VersionManifest | None:
        uri = self.manifest_uri(as_of, version)
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

    def keep_manifest(self, manifest: VersionManifest) -> str:
        uri = self.manifest_uri(manifest.as_of, manifest.version)
        storage.write(uri, manifest.model_dump_json(indent=2).encode())
        return uri

    def claim_uri(self, as_of: dt.date, version: str) -> str:
        return storage.join(self._records("claims", as_of), f"{version}.json")

    def claim(self, as_of: dt.date, version: str, claim: Claim) -> Claim:
        return first_claim(self.claim_uri(as_of, version), claim)

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
        """The versions of a date that have a manifest."""
        entries = storage.entries(self._records("versions", as_of))
        return {entry.uri.rpartition("/")[2].removesuffix(".json") for entry in entries}

    def drop_manifest(self, as_of: dt.date, version: str) -> None:
        storage.delete([self.manifest_uri(as_of, version)])

    def drop_claim(self, as_of: dt.date, version: str) -> None:
        storage.delete([self.claim_uri(as_of, version)])

    def expired_uri(self, as_of: dt.date, version: str) -> str:
        return storage.join(self._records("expired", as_of), f"{version}.json")

    def expired(self, as_of: dt.date, version: str) -> Expired | None:
        """The record of a deletion, begun or done; None where there was none."""
        try:
            return load(Expired, self.expired_uri(as_of, version), "the record of a deletion")
        except FileNotFoundError:
            return None

    def all_expired(self, as_of: dt.date) -> list[Expired]:
        records = storage.entries(self._records("expired", as_of))
        return [load(Expired, record.uri, "the record of a deletion") for record in records]

    def drop_expired(self, as_of: dt.date, version: str) -> None:
        storage.delete([self.expired_uri(as_of, version)])

    def keep_expired(self, record: Expired) -> None:
        uri = self.expired_uri(record.as_of, record.version)
        storage.write(uri, record.model_dump_json(indent=2).encode())

    def versions(self, commits: list[Commit], current: str | None) -> list[Version]:
        """One entry per version of a date's commits, by its last commit."""
        return versions_of(commits, current, self.manifest_uri)

    def entry(self, commit: Commit, current: bool) -> Version:
        return version_of(commit, current, self.manifest_uri)

    def _records(self, kind: str, as_of: dt.date) -> str:
        return storage.join(self.root, kind, f"as_of={as_of}")


def first_claim(uri: str, claim: Claim) -> Claim:
    """The claim that is kept at `uri`; this one, where there was none."""
    while not storage.create(uri, claim.model_dump_json().encode()):
        # It may be deleted between the two, together with the version.
        with suppress(FileNotFoundError):
            return load(Claim, uri, "the claim of a version")
    return claim


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
