"""What a version's columns are compared with: the training data, and the partitions before it."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import ValidationError

from include import storage
from include.drift.profiles import TRAINING_PROFILE, TRAINING_SAMPLE, Profile, bins_of, merged
from include.drift.verdicts import Reference
from include.drift.version_rows import VersionRows, even_positions, profile_of, sample_of
from include.errors import CorruptData, PermanentError
from include.partition import Partition
from include.run import Snapshot
from include.snapshots import load_manifest
from include.stores import Store, Version, VersionManifest
from include.workspace import SHORT, Workspace

if TYPE_CHECKING:
    import pyarrow as pa

_READERS = 8
BINS_FROM_ROWS = 100_000  # rows that bins are chosen from where no reference has them


@dataclass(frozen=True)
class Trailing:
    """The versions before, added up; `profile` is None where none of them could be used.

    `left_out` counts the versions whose rows are gone, `models` names the model versions among
    those used, `samples` are where even samples of their rows lie.
    """

    profile: Profile | None = None
    versions: tuple[tuple[dt.date, str], ...] = ()
    left_out: int = 0
    models: tuple[str, ...] = ()
    samples: tuple[str, ...] = field(default=(), repr=False)

    @property
    def reference(self) -> Reference | None:
        if self.profile is None:
            return None
        return Reference(rows=self.profile.rows, versions=self.versions)


def training_profile_of(model_uri: str) -> Profile | None:
    """The profile that training left beside the model; None where it left none."""
    uri = storage.join(model_uri, TRAINING_PROFILE)
    try:
        content = storage.read(uri)
    except FileNotFoundError:
        return None
    try:
        return Profile.model_validate_json(content)
    except ValidationError as error:
        raise PermanentError(
            f"the model's training profile is none: {error.errors()[0]['msg']}",
            where=uri,
            do="log it with daybreak.training.log_training_reference and register the model again",
        ) from None


def trailing_versions(store: Store, partition: Partition, count: int) -> list[Version]:
    """The current versions of the `count` partitions before this one, the oldest first."""
    if not count:
        return []
    first = partition.back(count).as_of
    dates = [date for date in store.current_dates() if first <= date < partition.as_of]
    # Each answer is a few round trips to the table's log: together they take as long as one.
    with ThreadPoolExecutor(_READERS) as readers:
        found = list(readers.map(store.current, dates))
    return [version for version in found if version is not None]


def template_for(
    rows: VersionRows,
    training: Profile | None,
    workspace: Workspace,
    trailing: Sequence[Version],
) -> Profile:
    """The bins to count a version in: training's, else the newest trailing's, else its own.

    Own bins are chosen from an even sample and then stay: the versions after inherit them.
    """
    columns = {column.name: column for column in training.columns} if training else {}
    wanted = [*dict.fromkeys((*rows.features, rows.score_column))]
    if not set(wanted) <= set(columns):
        inherited = _newest_profile(workspace, trailing)
        for column in inherited.columns if inherited else ():
            columns.setdefault(column.name, column)
    if not set(wanted) <= set(columns):
        sample = sample_of(rows, BINS_FROM_ROWS)
        for column in bins_of(sample).columns if sample is not None else ():
            columns.setdefault(column.name, column)
    return Profile(
        rows=0,
        score_column=rows.score_column,
        columns=tuple(columns[name] for name in wanted if name in columns),
        left_out=tuple(sorted(name for name in wanted if name not in columns)),
    )


def stored_profile(
    workspace: Workspace, rows: VersionRows, template: Profile, sample_rows: int
) -> Profile:
    """The profile of a version in these bins: as stored, or counted now and stored.

    A sample of the rows is stored beside it, unless `sample_rows` is 0.
    """
    uri = _profile_uri(workspace, rows.as_of, rows.version, template)
    found = _read_profile(uri)
    sample_uri = sample_at(workspace, rows.as_of, rows.version)
    if found is not None and (not sample_rows or storage.exists(sample_uri)):
        return found
    profile, sample = profile_of(rows, template, sample_rows)
    if sample is not None:
        storage.write(sample_uri, parquet_bytes(sample))
    storage.write(uri, profile.model_dump_json().encode())
    return profile


def trailing_reference(
    store: Store,
    workspace: Workspace,
    versions: Sequence[Version],
    template: Profile,
    rows: VersionRows,
    sample_rows: int,
) -> Trailing:
    """The profiles of these versions in the template's bins, added up.

    A version that was profiled in other bins (for another model) is counted again from its rows,
    once; one whose rows are gone is left out.
    """
    profiles, used, models = [], [], set()
    for version in versions:
        profile = _read_profile(_profile_uri(workspace, version.as_of, version.version, template))
        if profile is None:
            profile = _recounted(store, workspace, version, template, rows, sample_rows)
        if profile is not None and profile.rows:
            profiles.append(profile)
            used.append((version.as_of, version.version))
            models.add(version.model_version)
    samples = (sample_at(workspace, date, version) for date, version in used)
    return Trailing(
        profile=merged(profiles) if profiles else None,
        versions=tuple(used),
        left_out=len(versions) - len(used),
        models=tuple(sorted(models)),
        samples=tuple(uri for uri in samples if sample_rows and storage.exists(uri)),
    )


def reference_sample(trailing: Trailing, model_uri: str, wanted: int) -> pa.Table | None:
    """At most `wanted` rows of the trailing versions, else of training; None without any."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    uris = trailing.samples or (storage.join(model_uri, TRAINING_SAMPLE),)
    tables = []
    for uri in uris:
        try:
            tables.append(pq.read_table(io.BytesIO(storage.read(uri))))
        except FileNotFoundError:
            continue
    if not tables:
        return None
    rows = pa.concat_tables(tables, promote_options="permissive")
    return rows.take(even_positions(rows.num_rows, wanted))


def sample_at(workspace: Workspace, as_of: dt.date, version: str) -> str:
    return storage.join(workspace.drift(as_of, version), "sample.parquet")


def parquet_bytes(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _profile_uri(workspace: Workspace, as_of: dt.date, version: str, template: Profile) -> str:
    name = f"profile-{template.bins_digest[:SHORT]}.json"
    return storage.join(workspace.drift(as_of, version), name)


def _read_profile(uri: str) -> Profile | None:
    try:
        return Profile.model_validate_json(storage.read(uri))
    except FileNotFoundError:
        return None


def _newest_profile(workspace: Workspace, versions: Sequence[Version]) -> Profile | None:
    """Any stored profile of the newest version that has one."""
    for version in reversed(versions):
        for entry in storage.entries(workspace.drift(version.as_of, version.version)):
            if entry.uri.rsplit("/", 1)[-1].startswith("profile-"):
                return _read_profile(entry.uri)
    return None


def _recounted(
    store: Store,
    workspace: Workspace,
    version: Version,
    template: Profile,
    like: VersionRows,
    sample_rows: int,
) -> Profile | None:
    manifest = store.manifest(version.as_of, version.version)
    if manifest is None:
        return None
    try:
        rows = _rows_of(manifest, like)
        return stored_profile(workspace, rows, template, sample_rows)
    except CorruptData:
        # Retention deletes old snapshots: the caller counts the version as left out, and says so.
        return None


def _rows_of(manifest: VersionManifest, like: VersionRows) -> VersionRows:
    snapshot = Snapshot(
        uri=manifest.snapshot_uri,
        digest=manifest.snapshot_digest,
        rows=manifest.rows_in,
        parts=len(manifest.parts),
    )
    return VersionRows(
        as_of=manifest.as_of,
        version=manifest.version,
        snapshot=load_manifest(snapshot),
        quarantine_uri=manifest.quarantine_uri,
        receipts=manifest.parts,
        features=like.features,
        stored_score_column=manifest.score_column,
        score_column=like.score_column,
    )
