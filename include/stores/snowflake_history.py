"""What <table>_HISTORY remembers: manifests, commits and deletions, in the order of the lock."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from include.snowflake.session import Session
from include.stores import Expired, Version, VersionManifest
from include.stores.history import Commit, version_of, versions_of
from include.stores.rule import digests
from include.stores.snowflake_tables import SET_UP, Names

# The kinds of an entry. What became of a version's rows is told by the last one of the others.
COMMITTED, STAGED, EXPIRING, EXPIRED = "committed", "staged", "expiring", "expired"


@dataclass(frozen=True)
class Entry:
    """One entry; `record` is the JSON of a VersionManifest, a Commit or an Expired by its kind."""

    number: int
    kind: str
    as_of: dt.date
    version: str
    written_at: dt.datetime
    parts: str | None
    record: str


class SnowflakeHistory:
    """Reads and writes entries with the store's session."""

    def __init__(self, session: Session, names: Names) -> None:
        self._session, self._names = session, names

    def manifest_uri(self, as_of: dt.date, version: str) -> str:
        """Where a version's manifest stands, for a person: it is an entry and no file."""
        return f"snowflake:{self._names.history}?as_of={as_of}&version={version}&kind={STAGED}"

    def append(
        self, number: int, record: VersionManifest | Commit | Expired, *, parts: str | None = None
    ) -> None:
        """Write an entry; the caller holds the lock, which gave `number`."""
        if isinstance(record, Expired):
            kind = EXPIRED if record.done else EXPIRING
        else:
            kind = COMMITTED if isinstance(record, Commit) else STAGED
        self._session.changed(
            f"INSERT INTO {self._names.history} "
            "(N, KIND, AS_OF, VERSION, WRITTEN_AT, PARTS, RECORD) "
            "SELECT ?, ?, ?, ?, TO_TIMESTAMP_NTZ(?), ?, ?",
            (
                number,
                kind,
                record.as_of,
                record.version,
                f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S.%f}",
                parts,
                record.model_dump_json(),
            ),
        )

    def of_date(self, as_of: dt.date) -> list[Entry]:
        """Every entry of a date, the oldest first."""
        return self._entries("AS_OF = ?", (as_of,))

    def everything(self) -> list[Entry]:
        """Every entry, the oldest first; of all but commits without their content."""
        return self._entries("1 = 1", (), f"CASE WHEN KIND = '{COMMITTED}' THEN RECORD ELSE '' END")

    def states(self, first: dt.date, last: dt.date) -> dict[tuple[dt.date, str], list[Entry]]:
        """What was staged and deleted of each version, of the dates from `first` to `last`."""
        found: dict[tuple[dt.date, str], list[Entry]] = {}
        where = f"KIND <> '{COMMITTED}' AND AS_OF BETWEEN ? AND ?"
        for entry in self._entries(where, (first, last)):
            found.setdefault((entry.as_of, entry.version), []).append(entry)
        return found

    def of_version(self, as_of: dt.date, version: str) -> list[Entry]:
        return self._entries("AS_OF = ? AND VERSION = ?", (as_of, version))

    def current(self, as_of: dt.date) -> list[Commit]:
        """The commits that the pointer names for a date: one, or none."""
        found = self._session.run(
            f"SELECT H.RECORD FROM {self._names.pointer} P "  # noqa: S608
            f"JOIN {self._names.history} H ON H.N = P.N AND H.KIND = '{COMMITTED}' "
            "WHERE P.AS_OF = ?",
            (as_of,),
            do=SET_UP,
        )
        return [Commit.model_validate_json(record) for (record,) in found]

    def all_current(self) -> list[Commit]:
        """The commits that the pointer names, of every date."""
        found = self._session.run(
            f"SELECT H.RECORD FROM {self._names.pointer} P "  # noqa: S608
            f"JOIN {self._names.history} H ON H.N = P.N AND H.KIND = '{COMMITTED}'",
            do=SET_UP,
        )
        return [Commit.model_validate_json(record) for (record,) in found]

    def versions(self, entries: list[Entry], current: str | None) -> list[Version]:
        """One entry per version that was ever committed, by its last commit, the oldest first."""
        return versions_of(commits_of(entries), current, self.manifest_uri)

    def version(self, commit: Commit, current: bool) -> Version:
        return version_of(commit, current, self.manifest_uri)

    def _entries(self, where: str, values: tuple[Any, ...], record: str = "RECORD") -> list[Entry]:
        found = self._session.run(
            f"SELECT N, KIND, AS_OF, VERSION, WRITTEN_AT, PARTS, {record} AS RECORD "  # noqa: S608
            f"FROM {self._names.history} WHERE {where} ORDER BY N",
            values,
            do=SET_UP,
        )
        return [
            Entry(int(n), kind, as_of, version, at.replace(tzinfo=dt.UTC), parts, text)
            for n, kind, as_of, version, at, parts, text in found
        ]


def commits_of(entries: list[Entry]) -> list[Commit]:
    return [Commit.model_validate_json(one.record) for one in entries if one.kind == COMMITTED]


def last_state(entries: list[Entry]) -> Entry | None:
    """The entry that says whether a version is staged or deleted, of one version's entries."""
    states = [entry for entry in entries if entry.kind != COMMITTED]
    return states[-1] if states else None


def manifest_of(entries: list[Entry]) -> VersionManifest | None:
    """The manifest of one version's entries; None where it was never staged, or is deleted."""
    state = last_state(entries)
    if state is None or state.kind != STAGED:
        return None
    return VersionManifest.model_validate_json(state.record)


def making_of(entries: list[Entry]) -> int:
    """How often one version was deleted, of its entries."""
    return sum(entry.kind == EXPIRED for entry in entries)


def by_version(entries: list[Entry]) -> dict[str, list[Entry]]:
    """One date's entries, for each of its versions."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.version, []).append(entry)
    return found


def loaded_parts(entries: list[Entry]) -> str | None:
    """The digest of the parts whose rows one version has in the table, of its entries."""
    for entry in reversed(entries):
        if entry.kind in (EXPIRING, EXPIRED):
            return None
        if entry.kind == COMMITTED:
            return entry.parts
    return None


def parts_digest(manifest: VersionManifest) -> str:
    return hashlib.sha256(json.dumps(digests(manifest)).encode()).hexdigest()
