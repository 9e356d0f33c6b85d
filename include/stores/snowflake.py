"""The prediction table in Snowflake: rows of every version, and a pointer that says which count.

`daybreak init` creates the tables (snowflake_tables.py lists them); a run needs no right to create
anything. Parts lie in the workspace, as the engines write them, and are loaded when their version
becomes current for the first time:

    <workspace>/<pipeline>/predictions/as_of=…/version=…/claim.json, part-*.parquet

Once a version was deleted, whose it is stands in claim.1.json, and so on: see snowflake_expiry.py.

Every write is one transaction that first raises the counter in <table>_LOCK. Snowflake has no
unique keys and lets two first publishes of a date pass each other; with the lock's row they cannot.
"""

from __future__ import annotations

import datetime as dt
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include import storage
from include.config import Predictions
from include.connections import connection
from include.errors import BadConfig, CorruptData, PermanentError, TransientError
from include.run import Column, Published
from include.snowflake.session import Session
from include.stores import (
    Claim,
    Decision,
    Expired,
    Seen,
    SetUp,
    Stored,
    Version,
    VersionManifest,
    rule,
    snowflake_expiry,
    snowflake_setup,
)
from include.stores.deletion import UnderWay, read_beside_deletions, was_current_since
from include.stores.history import Commit, before, first_claim, kept_claim
from include.stores.snowflake_history import (
    Entry,
    SnowflakeHistory,
    by_version,
    commits_of,
    loaded_parts,
    making_of,
    manifest_of,
    parts_digest,
)
from include.stores.snowflake_load import count_rows, delete_rows, load, sweep, upload, verify
from include.stores.snowflake_lock import BeingDeleted, Lock
from include.stores.snowflake_read import read_rows
from include.stores.snowflake_setup import stored_columns
from include.stores.snowflake_tables import (
    SET_UP,
    Names,
    require_fit,
    require_one_case,
)

if TYPE_CHECKING:
    import pyarrow as pa

# No upload and load together take longer: see the statement timeout.
LEFTOVERS_AFTER = dt.timedelta(days=1)


class Table:
    """One pipeline's predictions in Snowflake; rule.py has the rule between versions."""

    def __init__(self, session: Session, table: str, root_uri: str, readers: Sequence[str]) -> None:
        root = root_uri if "://" in root_uri else Path(root_uri).absolute().as_uri()
        self.root = root.rstrip("/")
        self.names = Names(table.upper())
        self._session, self._readers = session, tuple(readers)
        self._history = SnowflakeHistory(session, self.names)
        self._lock = Lock(session, self.names)
        weakref.finalize(self, session.close)

    def set_up(self, columns: Sequence[Column], *, run: bool = True) -> SetUp:
        return snowflake_setup.set_up(self._session, self.names, columns, self._readers, run=run)

    def parts_uri(self, as_of: dt.date, version: str) -> str:
        return storage.join(self.root, f"as_of={as_of}", f"version={version}")

    def claim(self, as_of: dt.date, version: str, claim: Claim) -> Claim:
        """The manifest's; before there is one, what lies beside the parts in this workspace."""
        entries = self._history.of_version(as_of, version)
        manifest = manifest_of(entries)
        if manifest is not None:
            return rule.claim_of(manifest)
        self._require_not_deleting(as_of, version, entries)
        return first_claim(self._claim_uri(as_of, version, making_of(entries)), claim)

    def _claim_uri(self, as_of: dt.date, version: str, making: int) -> str:
        name = f"claim.{making}.json" if making else "claim.json"
        return storage.join(self.parts_uri(as_of, version), name)

    def manifest(self, as_of: dt.date, version: str) -> VersionManifest | None:
        return manifest_of(self._history.of_version(as_of, version))

    def manifests(self, names: Sequence[tuple[dt.date, str]]) -> list[VersionManifest]:
        dates = [as_of for as_of, _ in names]
        states = self._history.states(min(dates), max(dates)) if dates else {}
        found = [manifest_of(states.get(name, [])) for name in names]
        return [manifest for manifest in found if manifest is not None]

    def stage(self, manifest: VersionManifest) -> str:
        """Write the manifest; where it stands. Raises PermanentError where no table can hold it."""
        require_one_case(manifest.columns)
        require_fit(self.names, stored_columns(self._session, self.names), manifest.columns)
        parts = parts_digest(manifest)
        uri = self._history.manifest_uri(manifest.as_of, manifest.version)

        def keep(number: int) -> None:
            as_of, version = manifest.as_of, manifest.version
            entries = self._history.of_version(as_of, version)
            self._require_not_deleting(as_of, version, entries)
            staged = manifest_of(entries)
            if making := making_of(entries):
                kept = staged or kept_claim(self._claim_uri(as_of, version, making))
                rule.require_claimed(manifest, kept)
            if (
                staged is not None
                and parts_digest(staged) != parts
                and loaded_parts(entries) is not None
            ):
                raise rule.published_otherwise(manifest, uri)
            self._history.append(number, manifest, parts=parts)

        self._lock.write(f"stage version {manifest.version}", keep)
        return uri

    def require_not_superseded(self, manifest: VersionManifest, planned_at: dt.datetime) -> None:
        current = self._current_commit(manifest.as_of)
        rule.require_not_superseded(manifest, planned_at, current)

    def commit(
        self,
        manifest: VersionManifest,
        planned_at: dt.datetime,
        approval: Decision | None = None,
        *,
        seen: Seen | None = None,
    ) -> Published:
        """Make the staged version current, in one transaction; rule.py has the rule.

        A version that is not in the table yet is loaded in the same transaction. `planned_at` is
        that of the run which asks.
        """
        return self._move(manifest, planned_at, seen, approval=approval)

    def rollback(self, as_of: dt.date, to: str, decision: Decision, *, replacing: str) -> Published:
        """Make an older version current again; reads all its parts before, and loads none again."""
        manifest = self.manifest(as_of, to)
        if manifest is None or to not in {version.version for version in self.versions(as_of)}:
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
        mark = uuid.uuid4().hex
        uploaded: list[str] = []

        def require_next(current: Commit | None) -> None:
            if decision is None:
                rule.require_not_superseded(manifest, planned_at, current)
            rule.require_seen(manifest, seen, current)

        def prepare() -> None:
            if uploaded:
                return
            # Before the lock is taken, since it takes the longest.
            current = self._current_commit(manifest.as_of)
            if current is not None and current.version == manifest.version:
                return
            require_next(current)
            entries = self._history.of_version(manifest.as_of, manifest.version)
            if not self._is_loaded(manifest, entries):
                uploaded.append(upload(self._session, self.names, manifest))

        def move(number: int) -> Published:
            current = self._current_commit(manifest.as_of)
            if current is not None and current.version == manifest.version:
                # Ours where the server took the commit and its answer was lost.
                return self._outcome(current, number, published=current.mark == mark)
            require_next(current)
            entries = self._history.of_version(manifest.as_of, manifest.version)
            self._require_not_deleting(manifest.as_of, manifest.version, entries)
            if (staged := manifest_of(entries)) is None:
                raise self._not_stored(manifest.as_of, manifest.version)
            if making_of(entries):
                rule.require_claimed(manifest, staged)
            rule.require_on_record(manifest, staged)
            if not self._is_loaded(manifest, entries):
                # A load takes the files from the stage, even if the transaction fails later.
                self._load(manifest, uploaded.pop() if uploaded else None)
            made = rule.commit_of(manifest, planned_at, current, number, mark, decision, approval)
            self._history.append(number, made, parts=parts_digest(manifest))
            self._point(manifest.as_of, manifest.version, number)
            note = rule.ended(current) if decision is None else None
            return self._outcome(made, number, published=True, note=note)

        return self._lock.write(f"make version {manifest.version} current", move, prepare)

    def current(self, as_of: dt.date) -> Version | None:
        commit = self._current_commit(as_of)
        return self._history.version(commit, True) if commit is not None else None

    def current_dates(self) -> list[dt.date]:
        return sorted(self.current_versions())

    def current_versions(self) -> dict[dt.date, str]:
        found = self._session.run(
            f"SELECT AS_OF, VERSION FROM {self.names.pointer} ORDER BY AS_OF",  # noqa: S608
            do=SET_UP,
        )
        return dict(found)

    def rollbacks(self, dates: Sequence[dt.date]) -> dict[dt.date, Decision]:
        wanted = set(dates)
        commits = self._history.all_current()
        return {
            one.as_of: one.decision
            for one in commits
            if one.as_of in wanted and one.decision is not None
        }

    def versions(self, as_of: dt.date) -> list[Version]:
        """Every committed version of a date that is stored, by its last commit, oldest first."""
        return self._kept(self._history.of_date(as_of), self._current_commit(as_of))

    def _kept(self, entries: list[Entry], current: Commit | None) -> list[Version]:
        listed = self._history.versions(entries, current.version if current is not None else None)
        of_version = by_version(entries)
        return [
            version
            for version in listed
            if version.current or manifest_of(of_version[version.version]) is not None
        ]

    def before(self, as_of: dt.date) -> list[str]:
        current = self._current_commit(as_of)
        commits = commits_of(self._history.of_date(as_of))
        return before(commits, current.version if current is not None else None)

    def expired(self, as_of: dt.date) -> list[Expired]:
        of_version = by_version(self._history.of_date(as_of))
        found = [snowflake_expiry.expired_of(of_version[name]) for name in sorted(of_version)]
        return [record for record in found if record is not None]

    def stored(self) -> list[Stored]:
        """One listing of the parts in the workspace, and one reading of the history."""
        entries, current = self._history.everything(), self.current_versions()
        return snowflake_expiry.stored(self.root, self._history, entries, current)

    def delete(
        self, versions: Sequence[tuple[dt.date, str]], reason: str, at: dt.datetime
    ) -> list[tuple[dt.date, str]]:
        """Delete the rows and the parts of these versions; see snowflake_expiry.py."""
        return [name for name in dict.fromkeys(versions) if self._delete(name, reason, at)]

    def upkeep(self) -> None:
        """Remove from the stage what writers that died left there a day ago or earlier."""
        sweep(self._session, self.names, dt.datetime.now(dt.UTC) - LEFTOVERS_AFTER)

    def read(
        self, as_of: dt.date, version: str | None = None, columns: list[str] | None = None
    ) -> pa.Table:
        """The rows of a version, in the order of its key: its own columns, as_of and version.

        Where the version's rows went while they were read, since another one took its place and
        retention keeps none but the current one, that other one is read.
        """

        def look() -> tuple[Commit | None, Callable[[], pa.Table]]:
            current = self._current_commit(as_of)
            return current, lambda: self._read(current, as_of, version, columns)

        return look()[1]() if version is not None else read_beside_deletions(look)

    def _read(
        self,
        current: Commit | None,
        as_of: dt.date,
        version: str | None,
        columns: list[str] | None,
    ) -> pa.Table:
        wanted = version or (current.version if current is not None else None)
        if wanted is None:
            raise PermanentError(
                f"the predictions of {as_of} have no committed version",
                where=self.names.current,
                do="run that partition",
            )
        entries = self._history.of_date(as_of)
        manifest = manifest_of(by_version(entries).get(wanted, []))
        if manifest is None or wanted not in {one.version for one in self._kept(entries, current)}:
            raise self._not_stored(as_of, wanted)
        return read_rows(self._session, self.names, manifest, columns)

    def rows_of(self, manifest: VersionManifest, key: Mapping[str, Any]) -> pa.Table:
        """The rows of a version that have this key, as readers see them, in its own columns."""
        columns = [column.name for column in manifest.columns]
        return read_rows(self._session, self.names, manifest, columns, key)

    def _load(self, manifest: VersionManifest, path: str | None) -> None:
        if path is None:
            raise TransientError(
                f"the rows of version {manifest.version} went while it was made current",
                where=self.names.rows,
                do="run the partition again",
            )
        rows = load(self._session, self.names, manifest, path)
        if rows != manifest.rows:
            raise CorruptData(
                f"version {manifest.version} of {manifest.as_of} has {manifest.rows:,} rows, and "
                f"{rows:,} of them arrived in {self.names.rows}",
                do="run the partition again; nothing was published",
            )

    def _is_loaded(self, manifest: VersionManifest, entries: list[Entry]) -> bool:
        if loaded_parts(entries) != parts_digest(manifest):
            return False
        rows = count_rows(self._session, self.names, manifest.as_of, manifest.version)
        return rows == manifest.rows

    def _point(self, as_of: dt.date, version: str, number: int) -> None:
        pointer = self.names.pointer
        moved = self._session.changed(
            f"UPDATE {pointer} SET VERSION = ?, N = ? WHERE AS_OF = ?",  # noqa: S608
            (version, number, as_of),
        )
        if not moved:
            self._session.changed(
                f"INSERT INTO {pointer} (AS_OF, VERSION, N) SELECT ?, ?, ?",
                (as_of, version, number),
            )

    def _current_commit(self, as_of: dt.date) -> Commit | None:
        """The commit that gave the date what readers see."""
        found = self._history.current(as_of)
        if len(found) > 1:
            raise CorruptData(
                f"{as_of} has {len(found)} current versions at once",
                where=self.names.pointer,
                do="see who wrote to it beside Daybreak, and delete all rows of that date but one",
            )
        return found[0] if found else None

    def _outcome(
        self, commit: Commit, number: int, *, published: bool, note: str | None = None
    ) -> Published:
        return rule.outcome(commit, self.names.current, number, published=published, note=note)

    def _delete(self, name: tuple[dt.date, str], reason: str, at: dt.datetime) -> bool:
        left = any(storage.entries(self.parts_uri(*name)))

        def begin(number: int) -> Expired | None:
            current = self._current_commit(name[0])
            if current is not None and current.version == name[1]:
                return None
            of_date = self._history.of_date(name[0])
            entries = by_version(of_date).get(name[1], [])
            before = snowflake_expiry.expired_of(entries)
            if before is not None and before.done and not left:
                return before
            listed = self._history.versions(of_date, current.version if current else None)
            if before is None and was_current_since(at, name[1], listed):
                return None
            record = snowflake_expiry.begun(entries, name, reason, at)
            delete_rows(self._session, self.names, *name)
            if record != before:
                self._history.append(number, record)
            return record

        what = f"delete version {name[1]}"
        record = self._lock.write(what, begin)
        if record is None or record.done:
            return record is not None

        def begun() -> bool:
            entries = self._history.of_version(*name)
            return snowflake_expiry.expired_of(entries) == record

        def end(number: int) -> None:
            # Another upkeep may have ended it, and a run have made the version again.
            if begun():
                self._history.append(number, record.model_copy(update={"done": True}))

        files = list(storage.entries(self.parts_uri(*name)))
        under_way = UnderWay(begun)  # from the listing on
        for entry in files:
            if not under_way():
                return False
            storage.delete([entry.uri])
        self._lock.write(what, end)
        return True

    def _require_not_deleting(self, as_of: dt.date, version: str, entries: list[Entry]) -> None:
        expired = snowflake_expiry.expired_of(entries)
        if expired is not None and not expired.done:
            raise BeingDeleted(
                f"version {version} of {as_of} is being deleted since "
                f"{expired.at:%Y-%m-%d %H:%M:%S %Z} ({expired.reason})",
                where=self.names.table,
                do="wait until `daybreak expire` of this pipeline is done, or run it again if it "
                "was killed; then run the partition again",
            )

    def _not_stored(self, as_of: dt.date, version: str) -> PermanentError:
        """The error for a version whose manifest is not there: deleted, or never made."""
        expired = snowflake_expiry.expired_of(self._history.of_version(as_of, version))
        if expired is not None:
            return PermanentError(
                f"the files of version {version} of {as_of} were deleted at "
                f"{expired.at:%Y-%m-%d %H:%M:%S %Z} ({expired.reason})",
                where=self.names.table,
                do="run the partition again with the same rows, model and configuration to make "
                "them again",
            )
        names = [one.version for one in self.versions(as_of)]
        return PermanentError(
            f"the predictions of {as_of} have no committed version {version}",
            where=self.names.current,
            do=f"choose one of {names}, or run that partition",
        )


def open_table(config: Predictions, workspace_uri: str) -> Table:
    """The table that a pipeline names; its parts lie below `workspace_uri`."""
    if config.connection is None or config.table is None:
        raise BadConfig(
            "predictions of the kind snowflake need a connection and a table",
            do="set predictions.connection and predictions.table",
        )
    session = Session(connection(config.connection), query_tag=f"daybreak {config.table}")
    return Table(session, config.table, workspace_uri, config.readers)
