"""The versioned prediction table: one Protocol, one module per kind of table.

A reader sees, for each date, one complete audited version or the one before it. A version is
immutable and named by what it was made from, so that committing it twice is committing it once.
"""

from __future__ import annotations

import datetime as dt
import importlib
from typing import TYPE_CHECKING, Protocol

from include.run import Column, Published, Receipt, Value

if TYPE_CHECKING:
    import pyarrow as pa

    from include.config import Predictions

MEMBERS = ("delta",)


class VersionManifest(Value):
    """The lineage of one version, written beside its files before it is committed.

    rows_in = rows + quarantined. `columns` is the schema of the files, without the partition
    columns; `score_column` is one of them.
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


class Version(Value):
    """A version as the table knows it; `current` is what readers see."""

    as_of: dt.date
    version: str
    current: bool
    rows: int
    model_version: str
    run_id: str
    committed_at: dt.datetime
    manifest_uri: str


class Store(Protocol):
    """One pipeline's prediction table."""

    def parts_uri(self, as_of: dt.date, version: str) -> str:
        """Where the Parquet parts of a version are written, out of readers' sight until commit."""

    def manifest(self, as_of: dt.date, version: str) -> VersionManifest | None:
        """The manifest of a staged or committed version; None where nothing was staged."""

    def stage(self, manifest: VersionManifest) -> str:
        """Write the manifest beside the parts; its URI. Readers still see nothing of it."""

    def commit(self, manifest: VersionManifest, planned_at: dt.datetime) -> Published:
        """Make the staged version current, in one move; `unchanged` where it is already.

        `planned_at` is that of the run which asks, and orders runs. Raises PermanentError when a
        version of a run planned later took the partition meanwhile, and TransientError when the
        table was too busy to take the commit.
        """

    def current(self, as_of: dt.date) -> Version | None:
        """What readers see of a date; None before its first version."""

    def current_dates(self) -> list[dt.date]:
        """The dates that have a current version, ascending."""

    def versions(self, as_of: dt.date) -> list[Version]:
        """Every committed version of a date, the oldest first."""

    def read(
        self, as_of: dt.date, version: str | None = None, columns: list[str] | None = None
    ) -> pa.Table:
        """The rows of a date's current version, or of any committed one.

        Raises PermanentError where there is none.
        """


def open_store(config: Predictions, workspace_uri: str) -> Store:
    """The table of a pipeline; `workspace_uri` is where it lies unless the pipeline says."""
    module = importlib.import_module(f"include.stores.{config.kind}")
    store: Store = module.Table(config.uri or workspace_uri)
    return store
