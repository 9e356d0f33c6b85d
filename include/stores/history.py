"""The memory of a prediction table: manifests of versions, and records of commits and deletions.

All lie under `_daybreak/` in the table's folder. A VACUUM passes over folders of the table whose
name starts with an underscore, and the clean-up of a table's own log does not touch them, so that
they last as long as the table does.
"""

from __future__ import annotations

import datetime as dt

from pydantic import Field

from include import storage
from include.run import Value
from include.stores import Decision, Expired, Version, VersionManifest

FOLDER = "_daybreak"


class Commit(Value):
    """One move of a date's pointer; written once, never changed.

    `table_version` is the table's counter after the commit, `planned_at` the time at which the run
    that asked for it was planned: the order of runs. `mark` is the writer's own, to know it again.
    `decision` is there where it was a person's rollback, and `withdrawn` are the versions of the
    date that rollbacks, up to this commit, took away and none gave back, each with that rollback.
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
    withdrawn: dict[str, Decision] = Field(default_factory=dict)


class History:
    """The manifests, the commits and the deletions of one table."""

    def __init__(self, table_uri: str) -> None:
        self.root = storage.join(table_uri, FOLDER)

    def manifest_uri(self, as_of: dt.date, version: str) -> str:
        return storage.join(self._records("versions", as_of), f"{version}.json")

    def manifest(self, as_of: dt.date, version: str) -> VersionManifest | None:
        try:
            content = storage.read(self.manifest_uri(as_of, version))
        except FileNotFoundError:
            return None
        return VersionManifest.model_validate_json(content)

    def keep_manifest(self, manifest: VersionManifest) -> str:
        uri = self.manifest_uri(manifest.as_of, manifest.version)
        storage.write(uri, manifest.model_dump_json(indent=2).encode())
        return uri

    def commits(self, as_of: dt.date) -> list[Commit]:
        """Every recorded commit of a date, the oldest first."""
        records = storage.entries(self._records("commits", as_of))
        return [Commit.model_validate_json(storage.read(record.uri)) for record in records]

    def last_commit(self, as_of: dt.date) -> Commit | None:
        records = list(storage.entries(self._records("commits", as_of)))
        return Commit.model_validate_json(storage.read(records[-1].uri)) if records else None

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

    def expired_uri(self, as_of: dt.date, version: str) -> str:
        return storage.join(self._records("expired", as_of), f"{version}.json")

    def expired(self, as_of: dt.date, version: str) -> Expired | None:
        """The record of a deletion, begun or done; None where there was none."""
        try:
            return Expired.model_validate_json(storage.read(self.expired_uri(as_of, version)))
        except FileNotFoundError:
            return None

    def all_expired(self, as_of: dt.date) -> list[Expired]:
        records = storage.entries(self._records("expired", as_of))
        return [Expired.model_validate_json(storage.read(record.uri)) for record in records]

    def drop_expired(self, as_of: dt.date, version: str) -> None:
        storage.delete([self.expired_uri(as_of, version)])

    def keep_expired(self, record: Expired) -> None:
        uri = self.expired_uri(record.as_of, record.version)
        storage.write(uri, record.model_dump_json(indent=2).encode())

    def versions(self, commits: list[Commit], current: str | None) -> list[Version]:
        """One entry per version of a date's commits, by its last commit."""
        ordered = sorted(commits, key=lambda commit: commit.table_version)
        last = {commit.version: position for position, commit in enumerate(ordered)}
        withdrawn = ordered[-1].withdrawn if ordered else {}
        return [
            self.entry(
                ordered[position],
                version == current,
                rolled_back=version in withdrawn,
                superseded_at=ordered[position + 1].committed_at
                if position + 1 < len(ordered)
                else None,
            )
            for version, position in sorted(last.items(), key=lambda item: item[1])
        ]

    def entry(
        self,
        commit: Commit,
        current: bool,
        *,
        rolled_back: bool = False,
        superseded_at: dt.datetime | None = None,
    ) -> Version:
        return Version(
            as_of=commit.as_of,
            version=commit.version,
            current=current,
            rows=commit.rows,
            model_version=commit.model_version,
            run_id=commit.run_id,
            committed_at=commit.committed_at,
            manifest_uri=self.manifest_uri(commit.as_of, commit.version),
            decision=commit.decision,
            rolled_back=rolled_back,
            superseded_at=superseded_at,
        )

    def _records(self, kind: str, as_of: dt.date) -> str:
        return storage.join(self.root, kind, f"as_of={as_of}")
