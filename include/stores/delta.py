"""The prediction table as a Delta table: versions are swapped by commits that copy no row.

    <table>/_delta_log/                             Delta's own
    <table>/as_of=…/version=…/part-*.parquet        every version's parts, written by the engines
    <table>/_daybreak/                              manifests and commit records, see history.py

Parts lie in the table's folder from the start: no reader sees a file that no commit names.
"""

from __future__ import annotations

import datetime as dt
import random
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from include import storage
from include.errors import CorruptData, PermanentError, TransientError
from include.run import Column, Published
from include.stores import (
    Claim,
    Decision,
    Expired,
    Seen,
    SetUp,
    Stored,
    Version,
    VersionManifest,
    delta_expiry,
    delta_log,
    rule,
)
from include.stores.deletion import read_beside_deletions
from include.stores.delta_files import add_actions, verify
from include.stores.delta_read import read_current, read_parts
from include.stores.delta_schema import PARTITION_BY, delta_types, merged, types_of
from include.stores.history import READERS, Commit, History, before

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

    from include.config import Predictions

COMMIT_ATTEMPTS = 40
LONGEST_WAIT_SECONDS = 1.0
UNFINISHED_AFTER = dt.timedelta(days=2)  # no write of one file takes as long


class Table:
    """One pipeline's predictions in a Delta table, partitioned by `as_of` and `version`.

    rule.py says which version may take the place of another. A commit decides by the table that it
    loaded and fails if anything was committed since; then it looks again.
    """

    def __init__(self, root_uri: str) -> None:
        root = root_uri if "://" in root_uri else Path(root_uri).absolute().as_uri()
        self.root = root.rstrip("/")
        self.history = History(self.root)

    def set_up(self, columns: Sequence[Column], *, run: bool = True) -> SetUp:
        """Nothing to do: the first commit creates the table."""
        return SetUp()

    def parts_uri(self, as_of: dt.date, version: str) -> str:
        return storage.join(self.root, f"as_of={as_of}", f"version={version}")

    def claim(self, as_of: dt.date, version: str, claim: Claim) -> Claim:
        manifest = self.manifest(as_of, version)
        if manifest is not None:
            return rule.claim_of(manifest)
        making = delta_expiry.require_not_deleting(self.root, self.history, as_of, version)
        return self.history.claim(as_of, version, making, claim)

    def manifest(self, as_of: dt.date, version: str) -> VersionManifest | None:
        making = self.history.standing(as_of, version).making
        return self.history.manifest(as_of, version, making)

    def manifests(self, names: Sequence[tuple[dt.date, str]]) -> list[VersionManifest]:
        with ThreadPoolExecutor(READERS) as readers:
            found = readers.map(lambda name: self.manifest(*name), names)
            return [manifest for manifest in found if manifest is not None]

    def stage(self, manifest: VersionManifest) -> str:
        """Write the manifest; its URI. Raises PermanentError where the table cannot hold it."""
        as_of, version = manifest.as_of, manifest.version
        making = delta_expiry.require_not_deleting(self.root, self.history, as_of, version)
        staged = self.history.manifest(as_of, version, making)
        if making:
            kept = staged or self.history.claimed(as_of, version, making)
            rule.require_claimed(manifest, kept)
        table = delta_log.load(self.root)
        types = delta_types(manifest.columns)
        if table is not None:
            merged(types_of(table.schema()), types)
        if (
            staged is not None
            and rule.digests(staged) != rule.digests(manifest)
            and version in {one.version for one in self._listed(table, as_of)}
        ):
            where = self.history.manifest_uri(as_of, version, making)
            raise rule.published_otherwise(manifest, where)
        return self.history.keep_manifest(manifest, making)

    def require_not_superseded(self, manifest: VersionManifest, planned_at: dt.datetime) -> None:
        table = delta_log.load(self.root)
        current = self._current_commit(table, manifest.as_of) if table is not None else None
        rule.require_not_superseded(manifest, planned_at, current)

    def commit(
        self,
        manifest: VersionManifest,
        planned_at: dt.datetime,
        approval: Decision | None = None,
        *,
        seen: Seen | None = None,
    ) -> Published:
        """Make the staged version current, in one Delta transaction; the class gives the rule.

        Writes one small JSON file to Delta's log (now and then a checkpoint) and one commit
        record. `planned_at` is that of the run which asks.
        """
        return self._move(manifest, planned_at, seen, approval=approval)

    def rollback(self, as_of: dt.date, to: str, decision: Decision, *, replacing: str) -> Published:
        """Make an older version current again; reads all its bytes before, and copies none."""
        manifest = self.manifest(as_of, to)
        committed = {version.version for version in self._listed(delta_log.load(self.root), as_of)}
        if manifest is None or to not in committed:
            raise self._not_stored(as_of, to)
        verify(manifest)
        return self._move(manifest, decision.at, Seen(version=replacing), decision)

    def _move(
        self,
        manifest: VersionManifest,
        planned_at: dt.datetime,
        seen: Seen | None,
        decision: Decision | None = None,
        approval: Decision | None = None,
    ) -> Published:
        from deltalake.exceptions import CommitFailedError

        types, mark = delta_types(manifest.columns), uuid.uuid4().hex
        actions, refusal, note, started = None, "", None, time.monotonic()
        for attempt in range(COMMIT_ATTEMPTS):
            table = delta_log.load(self.root) or delta_log.create(self.root, types)
            if table is None:
                continue
            current = self._current_commit(table, manifest.as_of, restore=True)
            if current is not None and current.version == manifest.version:
                # Ours where the storage took the commit and then said that it had not.
                ours = current.mark == mark
                return rule.outcome(current, self.root, table.version(), published=ours, note=note)
            if decision is None:
                rule.require_not_superseded(manifest, planned_at, current)
            rule.require_seen(manifest, seen, current)
            # After the table was loaded: see delta_expiry.py.
            as_of, version = manifest.as_of, manifest.version
            making = delta_expiry.require_not_deleting(self.root, self.history, as_of, version)
            staged = self.history.manifest(as_of, version, making)
            if making:
                rule.require_claimed(manifest, staged)
                actions = None
            rule.require_on_record(manifest, staged)
            note = rule.ended(current) if decision is None else None
            columns = merged(types_of(table.schema()), types)
            if actions is None:
                actions = add_actions(self.root, manifest, dt.datetime.now(dt.UTC))
            move = rule.commit_of(
                manifest, planned_at, current, table.version() + 1, mark, decision, approval
            )
            try:
                if delta_log.enable_features(table, columns):
                    continue
                delta_log.swap(table, actions, columns, move)
            except CommitFailedError as error:
                refusal = str(error)
                time.sleep(random.uniform(0, min(LONGEST_WAIT_SECONDS, 0.02 * 2**attempt)))  # noqa: S311
                continue
            except Exception as error:
                raise delta_log.translated(error, self.root) from error
            self.history.append(move)
            self._checkpoint(move)
            return rule.outcome(move, self.root, move.table_version, published=True, note=note)
        raise TransientError(
            f"other writers were faster than all {COMMIT_ATTEMPTS} commits of version "
            f"{manifest.version}, in {time.monotonic() - started:.0f} s ({refusal})",
            where=self.root,
            do="run fewer partitions of this pipeline at the same time",
        )

    def _checkpoint(self, move: Commit) -> None:
        """Every few moves, so that loading the table stays quick until the daily upkeep."""
        if move.table_version % delta_log.CHECKPOINT_EVERY:
            return
        table = delta_log.load(self.root)
        if table is None:
            return
        try:
            delta_log.checkpoint(table)
        except Exception as error:
            raise delta_log.translated(error, self.root) from error

    def current(self, as_of: dt.date) -> Version | None:
        table = delta_log.load(self.root)
        commit = self._current_commit(table, as_of) if table is not None else None
        return self.history.entry(commit, True) if commit is not None else None

    def current_dates(self) -> list[dt.date]:
        return sorted(self.current_versions())

    def current_versions(self) -> dict[dt.date, str]:
        table = delta_log.load(self.root)
        return delta_log.all_held(table) if table is not None else {}

    def rollbacks(self, dates: Sequence[dt.date]) -> dict[dt.date, Decision]:
        table = delta_log.load(self.root)
        held = delta_log.all_held(table) if table is not None else {}

        def decision(as_of: dt.date) -> tuple[dt.date, Decision | None]:
            assert table is not None
            commit = self._commit_of(table, as_of, held[as_of])
            return as_of, commit.decision

        with ThreadPoolExecutor(READERS) as readers:
            found = readers.map(decision, [as_of for as_of in dates if as_of in held])
            return {as_of: by for as_of, by in found if by is not None}

    def versions(self, as_of: dt.date) -> list[Version]:
        """Every committed version of a date that is stored, by its last commit, oldest first."""
        listed = self._listed(delta_log.load(self.root), as_of)
        kept = self.history.staged(as_of)
        return [version for version in listed if version.current or version.version in kept]

    def _listed(self, table: DeltaTable | None, as_of: dt.date) -> list[Version]:
        """Every version that was ever committed, those that were deleted since too."""
        commits, current = self._commits(table, as_of)
        return self.history.versions(commits, current)

    def _commits(self, table: DeltaTable | None, as_of: dt.date) -> tuple[list[Commit], str | None]:
        """Every commit of a date up to the loaded table, and the version that is current in it."""
        if table is None:
            return [], None
        # Others may have committed, and recorded it, since the table was loaded.
        seen = table.version()
        commits = [each for each in self.history.commits(as_of) if each.table_version <= seen]
        current = self._current_commit(table, as_of)
        if current is not None and current not in commits:
            commits.append(current)
        return commits, current.version if current is not None else None

    def before(self, as_of: dt.date) -> list[str]:
        return before(*self._commits(delta_log.load(self.root), as_of))

    def expired(self, as_of: dt.date) -> list[Expired]:
        kept = self.history.staged(as_of)
        return [each for each in self.history.expired(as_of) if each.version not in kept]

    def stored(self) -> list[Stored]:
        """One listing of the table's folder, and the commits of the dates of which it has files."""
        table = delta_log.load(self.root)
        return delta_expiry.stored(self.root, lambda as_of: self._listed(table, as_of))

    def delete(
        self, versions: Sequence[tuple[dt.date, str]], reason: str, at: dt.datetime
    ) -> list[tuple[dt.date, str]]:
        return delta_expiry.delete(self.root, self.history, versions, reason, at)

    def upkeep(self) -> None:
        """Restore commit records that killed writers left out, drop what they left half written,
        and shorten Delta's log."""
        killed = dt.datetime.now(dt.UTC) - UNFINISHED_AFTER
        left = [entry.uri for entry in storage.unfinished(self.root) if entry.modified_at < killed]
        storage.delete(left)
        self.history.tidy()
        table = delta_log.load(self.root)
        if table is None:
            return
        # By the log, which is short, and not by the dates, of which there are thousands. What fell
        # out of the log since is restored by the next move of its date.
        recorded = self.history.recorded()
        for commit in delta_log.logged_commits(table):
            if (commit.as_of, commit.table_version) not in recorded:
                self.history.append(commit)
        try:
            delta_log.tidy(table)
        except Exception as error:
            raise delta_log.translated(error, self.root) from error

    def read(
        self, as_of: dt.date, version: str | None = None, columns: list[str] | None = None
    ) -> pa.Table:
        """The rows of a version, in the order of its parts: its own columns, as_of and version.

        Where the version's files went while they were read, since another one took its place and
        retention keeps none but the current one, that other one is read.
        """

        def look() -> tuple[str | None, Callable[[], pa.Table]]:
            table = delta_log.load(self.root)
            held = delta_log.held(table, as_of)
            return held, lambda: self._read(table, held, as_of, version, columns)

        return look()[1]() if version is not None else read_beside_deletions(look)

    def _read(
        self,
        table: DeltaTable | None,
        held: str | None,
        as_of: dt.date,
        version: str | None,
        columns: list[str] | None,
    ) -> pa.Table:
        committed = {commit.version for commit in self.history.commits(as_of)} | {held}
        wanted = version or held
        if wanted is not None and wanted != held and self.manifest(as_of, wanted) is None:
            raise self._not_stored(as_of, wanted)
        if wanted is None or wanted not in committed:
            raise PermanentError(
                f"the predictions of {as_of} have no committed version {version or ''}".rstrip(),
                where=self.root,
                do=f"choose one of {sorted(filter(None, committed))}, or run that partition",
            )
        manifest = self._manifest(as_of, wanted)
        own = [column.name for column in manifest.columns] + PARTITION_BY
        unknown = sorted(set(columns or ()) - set(own))
        if unknown:
            raise PermanentError(
                f"version {wanted} of {as_of} has no column {unknown}", do=f"choose among {own}"
            )
        names = own if columns is None else columns
        if wanted == held and table is not None:
            return read_current(table, as_of, names)
        return read_parts(manifest, names)

    def _manifest(self, as_of: dt.date, version: str) -> VersionManifest:
        """The manifest of a version that readers know."""
        making = self.history.standing(as_of, version).making
        manifest = self.history.manifest(as_of, version, making)
        if manifest is None:
            raise CorruptData(
                f"version {version} of {as_of} has no manifest",
                where=self.history.manifest_uri(as_of, version, making),
                do="restore it from a backup of the table's folder, or see who wrote to the table "
                "beside Daybreak (its Delta history tells)",
            )
        return manifest

    def _not_stored(self, as_of: dt.date, version: str) -> PermanentError:
        names = [one.version for one in self.versions(as_of)]
        return delta_expiry.not_stored(self.root, self.history, as_of, version, names)

    def _current_commit(
        self, table: DeltaTable, as_of: dt.date, *, restore: bool = False
    ) -> Commit | None:
        """The commit that gave the date what it holds now; `restore` as for `_commit_of`."""
        held = delta_log.held(table, as_of)
        return self._commit_of(table, as_of, held, restore=restore) if held is not None else None

    def _commit_of(
        self, table: DeltaTable, as_of: dt.date, held: str, *, restore: bool = False
    ) -> Commit:
        """The commit that gave a date what it holds; `restore` writes its record if missing.

        Every writer restores the record of the commit that it supersedes, so that at most the
        last commit of a date has none: its writer died, or is about to write it. Delta's log has
        that one; where the log was cleaned up since, it is put together from the manifest.
        """
        # Others may have committed, and recorded it, since the table was loaded.
        last = self.history.last_commit(as_of, table.version())
        if last is not None and last.version == held:
            return last
        after = last.table_version if last is not None else -1
        commit = delta_log.logged_commit(table, as_of, held, after)
        if commit is None:
            manifest = self._manifest(as_of, held)
            commit = rule.commit_of(manifest, manifest.scored_at, last, table.version(), "", None)
        if restore:
            self.history.append(commit)
        return commit


def open_table(config: Predictions, workspace_uri: str) -> Table:
    return Table(config.uri or workspace_uri)
