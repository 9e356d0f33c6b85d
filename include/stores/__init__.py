"""The versioned prediction table: one Protocol, one module per kind of table.

A reader sees, for each date, one complete audited version or the one before it. A version is
immutable and named by what it was made from, so that committing it twice is committing it once.
"""

from __future__ import annotations

import datetime as dt
import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pydantic import Field

from include.errors import PermanentError
from include.run import Column, Published, Receipt, Value

if TYPE_CHECKING:
    import pyarrow as pa

    from include.config import Predictions

MEMBERS = ("delta", "snowflake")


class VersionManifest(Value):
    """The lineage of one version, written beside its files before it is committed.

    rows_in = rows + quarantined + failed: the gate set rows aside, and on others the model failed.
    `columns` is the schema of the files, without the partition
    columns; `score_column` is one of them. `environment` are the versions of the libraries that
    scored it, by package, empty where a release before this key wrote it.
    """

    pipeline: str
    as_of: dt.date
    version: str
    rows_in: int
    rows: int
    quarantined: int
    key: tuple[str, ...]
    score_column: str
    columns: tuple[Column, ...]
    parts: tuple[Receipt, ...]
    snapshot_uri: str
    snapshot_digest: str
    quarantine_uri: str | None
    model_name: str
    model_version: str
    model_digest: str
    config_digest: str
    run_id: str
    scored_at: dt.datetime
    environment: dict[str, str] = Field(default_factory=dict)
    failed: int = 0

    @property
    def set_aside(self) -> int:
        """All the rows in quarantine, whoever put them there."""
        return self.quarantined + self.failed


class Claim(Value):
    """Whose a version is: its rows carry this run and this time, whoever scores them."""

    run_id: str
    scored_at: dt.datetime


class RolledBack(PermanentError):
    """A person rolled back from this version: it does not come back by itself."""


class Seen(Value):
    """What readers had of a date when something was decided about it: a version, or nothing."""

    version: str | None

    @classmethod
    def of(cls, current: Version | None) -> Seen:
        return cls(version=current.version if current is not None else None)


class Overtaken(PermanentError):
    """Readers have another version than the one that was looked at for a decision."""


class Unclaimed(PermanentError):
    """The version was deleted since this run claimed it: it has to be scored anew."""


class Decision(Value):
    """A person's rollback or approval: who decided it, when and why."""

    by: str
    at: dt.datetime
    reason: str

    def __str__(self) -> str:
        said = f": {self.reason}" if self.reason else ""
        return f"by {self.by} at {self.at:%Y-%m-%d %H:%M:%S %Z}{said}"


class Version(Value):
    """A committed version as the table knows it; `current` is what readers see.

    `decision` is the rollback that made it current the last time, None where a run did; `approval`
    is the person's approval that a run's version was held for, None where it needed none.
    `rolled_back` says that a person rolled back from it and nobody took that back, `rolled_back_by`
    which rollback that was.
    `superseded_at` is when another version took its place.
    """

    as_of: dt.date
    version: str
    current: bool
    rows: int
    model_version: str
    run_id: str
    committed_at: dt.datetime
    manifest_uri: str
    decision: Decision | None = None
    approval: Decision | None = None
    rolled_back: bool = False
    rolled_back_by: Decision | None = None
    superseded_at: dt.datetime | None = None


class Stored(Value):
    """What is stored of one version, for retention; `committed` is None where it never was.

    `staged` says that its manifest is there. `deleting` says that a deletion of it was begun and
    not finished. `modified_at` is the newest of its files' times, `bytes` their size.
    """

    as_of: dt.date
    version: str
    committed: Version | None
    staged: bool
    deleting: bool
    files: int
    bytes: int
    modified_at: dt.datetime


class Expired(Value):
    """The record of a version whose files retention deleted; `manifest` is its lineage, if any.

    It is written before the first file goes, and again when it is known how it ended: `done`, or
    called off. `making` is how often the version was deleted before, and `number` counts its
    deletions with those that were called off; a store may know both by other means.
    """

    as_of: dt.date
    version: str
    at: dt.datetime
    reason: str
    done: bool
    manifest: VersionManifest | None
    making: int = 0
    number: int = 0


class SetUp(Value):
    """The statements that set a table up, in order; `left_out` are those that the server lacks."""

    statements: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


class Store(Protocol):
    """One pipeline's prediction table."""

    def set_up(self, columns: Sequence[Column], *, run: bool = True) -> SetUp:
        """Create what versions with these columns need, before the first of them; safe to repeat.

        There are no statements where a table needs no set-up; without `run` none is executed.
        """

    def parts_uri(self, as_of: dt.date, version: str) -> str:
        """Where the Parquet parts of a version are written, out of readers' sight until commit."""

    def claim(self, as_of: dt.date, version: str, claim: Claim) -> Claim:
        """Whose the version is: the first that asked, until the version is deleted.

        Two workspaces may publish into one table; with the same run and time in their rows they
        make the same bytes. TransientError while the version is being deleted: what is scored then
        might go with it.
        """

    def manifest(self, as_of: dt.date, version: str) -> VersionManifest | None:
        """The manifest of a staged or committed version; None where nothing was staged."""

    def manifests(self, names: Sequence[tuple[dt.date, str]]) -> list[VersionManifest]:
        """The manifests of those of these versions that have one: many at once, in their order."""

    def stage(self, manifest: VersionManifest) -> str:
        """Write the manifest beside the parts; its URI. Readers still see nothing of it.

        Raises Unclaimed where the version was deleted since the manifest's run claimed it: whoever
        deleted it may still delete files of these names, and another claim makes other names.
        """

    def require_not_superseded(self, manifest: VersionManifest, planned_at: dt.datetime) -> None:
        """Raise what `commit` would of the runs and the people who decided otherwise.

        For whoever is about to do work for it, or to ask a person.
        """

    def commit(
        self,
        manifest: VersionManifest,
        planned_at: dt.datetime,
        approval: Decision | None = None,
        *,
        seen: Seen | None = None,
    ) -> Published:
        """Make the staged version current, in one move; `unchanged` where it is already.

        `planned_at` is that of the run which asks, and orders runs; `approval` is on record with
        the commit. Raises PermanentError when a version of a run planned later, or a rollback
        decided later, took the partition meanwhile, RolledBack when this very version was rolled
        back from, and TransientError when the table was too busy to take the commit. `seen` is
        what readers had when the version was audited: Overtaken is raised where it would replace
        another one. Ending a rollback is said in the result's `note`.
        """

    def rollback(self, as_of: dt.date, to: str, decision: Decision, *, replacing: str) -> Published:
        """Make a version current again that was committed before, in one move.

        `replacing` is what the person saw as current; where readers have another version by now,
        Overtaken is raised. Every file is read first and held against the manifest:
        CorruptData where one is missing or another, and then nothing has changed. `unchanged`
        where `to` is current already. A run planned before `decision.at` does not supersede it,
        and the version that is replaced is refused by `commit` until a rollback names it.
        """

    def current(self, as_of: dt.date) -> Version | None:
        """What readers see of a date; None before its first version."""

    def current_dates(self) -> list[dt.date]:
        """The dates that have a current version, ascending."""

    def current_versions(self) -> dict[dt.date, str]:
        """The current version of each date that has one: one look at the table for all of them."""

    def rollbacks(self, dates: Sequence[dt.date]) -> dict[dt.date, Decision]:
        """The rollback by which a date has what readers see, for those dates where one did it.

        One look at the table for all of them.
        """

    def versions(self, as_of: dt.date) -> list[Version]:
        """Every committed version of a date that is still stored, by its last commit."""

    def before(self, as_of: dt.date) -> list[str]:
        """What readers of a date had before its current version, the last one at the front.

        That is what runs took the place of, one after another, stored or deleted since; a version
        that a rollback brought back has before it what it had when a run published it.
        """

    def expired(self, as_of: dt.date) -> list[Expired]:
        """The versions of a date whose files were deleted and are not there again."""

    def stored(self) -> list[Stored]:
        """All that lies in the table, committed or not, by date and version."""

    def delete(
        self, versions: Sequence[tuple[dt.date, str]], reason: str, at: dt.datetime
    ) -> list[tuple[dt.date, str]]:
        """Delete the files of these versions; those that were deleted.

        A version that is current, or becomes it meanwhile, is left, and so is one that was current
        at or after `at`, when the deletion was decided. Killed at any moment, nothing
        that readers see has lost a file, and the same call finishes the work.
        """

    def upkeep(self) -> None:
        """Keep the table's own log small; no version changes."""

    def read(
        self, as_of: dt.date, version: str | None = None, columns: list[str] | None = None
    ) -> pa.Table:
        """The rows of a date's current version, or of any committed one.

        Raises PermanentError where there is none.
        """


def open_store(config: Predictions, workspace_uri: str) -> Store:
    """The table of a pipeline; `workspace_uri` is where it lies unless the pipeline says."""
    module = importlib.import_module(f"include.stores.{config.kind}")
    store: Store = module.open_table(config, workspace_uri)
    return store
