"""The memory of a prediction table: manifests of versions, and a record of every commit.

Both lie under `_daybreak/` in the table's folder. A VACUUM passes over folders of the table whose
name starts with an underscore, and the clean-up of a table's own log does not touch them, so that
they last as long as the table does.
"""

from __future__ import annotations

import datetime as dt

from include import storage
from include.run import Value
from include.stores import Version, VersionManifest

FOLDER = "_daybreak"


class Commit(Value):
    """One move of a date's pointer; written once, never changed.

    `table_version` is the table's counter after the commit, `planned_at` the time at which the run
    that asked for it was planned: the order of runs. `mark` is the writer's own, to know it again.
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


class History:
    """The manifests and the commits of one table."""

    def __init__(self, table_uri: str) -> None:
        self.root = storage.join(table_uri, FOLDER)

    def manifest_uri(self, as_of: dt.date, version: str) -> str:
        return storage.join(self.root, "versions", f"as_of={as_of}", f"{version}.json")

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
        records = storage.entries(self._commits(as_of))
        return [Commit.model_validate_json(storage.read(record.uri)) for record in records]

    def last_commit(self, as_of: dt.date) -> Commit | None:
        records = list(storage.entries(self._commits(as_of)))
        return Commit.model_validate_json(storage.read(records[-1].uri)) if records else None

    def append(self, commit: Commit) -> None:
        """Record a commit; a record that another writer restored meanwhile says the same."""
        uri = storage.join(self._commits(commit.as_of), f"{commit.table_version:020d}.json")
        storage.create(uri, commit.model_dump_json(indent=2).encode())

    def versions(self, commits: list[Commit], current: str | None) -> list[Version]:
        """One entry per version of a date's commits, by its last commit."""
        last = {commit.version: commit for commit in commits}
        return [
            self.entry(commit, commit.version == current)
            for commit in sorted(last.values(), key=lambda commit: commit.table_version)
        ]

    def entry(self, commit: Commit, current: bool) -> Version:
        return Version(
            as_of=commit.as_of,
            version=commit.version,
            current=current,
            rows=commit.rows,
            model_version=commit.model_version,
            run_id=commit.run_id,
            committed_at=commit.committed_at,
            manifest_uri=self.manifest_uri(commit.as_of, commit.version),
        )

    def _commits(self, as_of: dt.date) -> str:
        return storage.join(self.root, "commits", f"as_of={as_of}")
