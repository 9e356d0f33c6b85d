"""One published prediction, made again from its stored features and its pinned model."""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from include import storage
from include.engines.worker import Worker
from include.environment import differences, environment_for
from include.errors import CorruptData, PermanentError
from include.keys import value_text
from include.quarantine import quarantine_files, read_quarantine
from include.run import Part, Receipt, Snapshot, Value
from include.scoring import ScoringJob, load_job, scored_rows
from include.snapshots import load_manifest, read_part
from include.stores import Store, VersionManifest
from include.stores.part_files import intact
from include.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa


@runtime_checkable
class KeepsRows(Protocol):
    """A store that loads the parts, so that readers see rows of its own."""

    def rows_of(self, manifest: VersionManifest, key: Mapping[str, Any]) -> pa.Table:
        """The rows of a version that have this key, as readers see them, in its own columns."""


class Replay(Value):
    """A published row beside the one that the same model makes of the same features today.

    `equal` says that every column of the two rows is the same, the score bit for bit. `features`
    are what the model read. `environment` is what the version was scored with, empty where it was
    not recorded, and `differs` what is another here: (recorded, here).
    """

    pipeline: str
    as_of: dt.date
    version: str
    key: dict[str, Any]
    equal: bool
    score_column: str
    published_score: float
    replayed_score: float
    features: dict[str, Any]
    published: dict[str, Any]
    replayed: dict[str, Any]
    part: int
    row: int
    snapshot_uri: str
    snapshot_digest: str
    model_name: str
    model_version: str
    model_digest: str
    model_uri: str
    config_digest: str
    run_id: str
    scored_at: dt.datetime
    environment: dict[str, str]
    differs: dict[str, tuple[str, str]]


def replay(
    store: Store,
    workspace: Workspace,
    as_of: dt.date,
    key: Mapping[str, str],
    version: str | None = None,
) -> Replay:
    """Find the published row of `key`, and score its part again with the pinned model.

    The whole part is scored, since a model may round a row by the rows beside it. `key` is text,
    as a person types it. The published row is the one that readers see, in the table where that is
    not the parts. Raises PermanentError where there is no such version or row, with the reason
    where the row was set aside, or where its features are deleted, and CorruptData where files are
    gone or not what they were.
    """
    from threadpoolctl import threadpool_limits

    manifest = _manifest(store, as_of, version)
    job = load_job(storage.join(workspace.scores(as_of, manifest.version), "job.json"))
    receipt, row, published = _published_row(manifest, key, job)
    wanted = {name: published[name] for name in manifest.key}
    if isinstance(store, KeepsRows):
        published = _seen(store, manifest, wanted)
    _require_features(manifest)
    snapshot = load_manifest(
        Snapshot(
            uri=manifest.snapshot_uri,
            digest=manifest.snapshot_digest,
            rows=manifest.rows_in,
            parts=len(manifest.parts),
        )
    )
    part = next(part for part in snapshot.parts if part.index == receipt.part)
    worker = Worker(job)
    with threadpool_limits(1):  # as the engines score
        again = scored_rows(job, part, worker.scorer, worker.quarantined).rows
    replayed = again.slice(row, 1).to_pylist()[0]
    score = job.score_column
    return Replay(
        pipeline=manifest.pipeline,
        as_of=as_of,
        version=manifest.version,
        key={name: _plain(value) for name, value in wanted.items()},
        equal=_same(published, replayed),
        score_column=score,
        published_score=published[score],
        replayed_score=replayed[score],
        features=_features(part, worker, wanted),
        published={name: _plain(value) for name, value in published.items()},
        replayed={name: _plain(value) for name, value in replayed.items()},
        part=receipt.part,
        row=row,
        snapshot_uri=manifest.snapshot_uri,
        snapshot_digest=manifest.snapshot_digest,
        model_name=manifest.model_name,
        model_version=manifest.model_version,
        model_digest=manifest.model_digest,
        model_uri=job.model.uri,
        config_digest=manifest.config_digest,
        run_id=manifest.run_id,
        scored_at=manifest.scored_at,
        environment=manifest.environment,
        differs=differences(manifest.environment, environment_for(job.model.flavor))
        if manifest.environment
        else {},
    )


def _manifest(store: Store, as_of: dt.date, version: str | None) -> VersionManifest:
    versions = store.versions(as_of)
    found = [one for one in versions if (one.version == version if version else one.current)]
    manifest = store.manifest(as_of, found[0].version) if found else None
    if manifest is None:
        raise PermanentError(
            f"{as_of} has no stored version {version or ''}".rstrip(),
            do=f"choose one of {[one.version for one in versions]}"
            if versions
            else "run the partition",
        )
    return manifest


def _published_row(
    manifest: VersionManifest, key: Mapping[str, str], job: ScoringJob
) -> tuple[Receipt, int, dict[str, Any]]:
    """The part, the position in it and the row, from the files that were published."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted: dict[str, Any] = {}
    for receipt in sorted(manifest.parts, key=lambda receipt: receipt.part):
        with pq.ParquetFile(pa.BufferReader(intact(manifest, receipt))) as file:
            rows = file.read()
        wanted = wanted or _typed(rows.schema, manifest, key)
        row = pc.index(_matches(rows, wanted), True).as_py()
        if row >= 0:
            return receipt, row, rows.slice(row, 1).to_pylist()[0]
    raise PermanentError(
        f"version {manifest.version} of {manifest.as_of} has no row ({_said(wanted)})"
        + _set_aside(job, manifest, wanted),
        do="look for the key in the table, or name another version",
    )


def _seen(store: KeepsRows, manifest: VersionManifest, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The row that readers see in the place of the one that was loaded."""
    rows = store.rows_of(manifest, wanted)
    if rows.num_rows != 1:
        raise CorruptData(
            f"version {manifest.version} of {manifest.as_of} has {rows.num_rows} rows "
            f"({_said(wanted)}) in the table, and one was loaded into it",
            do="see who wrote to the table beside Daybreak, and choose another version",
        )
    return dict(rows.to_pylist()[0])


def _require_features(manifest: VersionManifest) -> None:
    """Raise where the snapshot is deleted: of that no record is kept, but of the rule there is."""
    if not storage.exists(manifest.snapshot_uri):
        raise PermanentError(
            f"the features that version {manifest.version} of {manifest.as_of} was scored from are "
            f"deleted: retention keeps them for snapshot_days, and they were scored at "
            f"{manifest.scored_at:%Y-%m-%d %H:%M:%S %Z}",
            where=manifest.snapshot_uri,
            do="raise retention.snapshot_days for what is scored from now on; where the warehouse "
            "still gives the same rows, running the partition again stores them once more",
        )


def _said(wanted: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value_text(value)}" for name, value in wanted.items())


def _typed(schema: pa.Schema, manifest: VersionManifest, key: Mapping[str, str]) -> dict[str, Any]:
    """The key's values in the types of its columns, in the key's order."""
    import pyarrow as pa

    if set(key) != set(manifest.key):
        raise PermanentError(
            f"a row of {manifest.pipeline} is named by {', '.join(manifest.key)}, not by "
            f"{', '.join(key) or 'nothing'}",
            do="pass " + " ".join(f"--key {name}=…" for name in manifest.key),
        )
    values = {}
    for name in manifest.key:
        kind = schema.field(name).type
        try:
            values[name] = pa.scalar(key[name]).cast(kind).as_py()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise PermanentError(
                f"{key[name]!r} is no value of {name}, which is {kind} ({error})",
                do="write it as the table shows it",
            ) from None
    return values


def _set_aside(job: ScoringJob, manifest: VersionManifest, wanted: Mapping[str, Any]) -> str:
    """Why the row is not in the table, where it is in quarantine."""
    import pyarrow.compute as pc

    for uri in quarantine_files(job.quarantine_uri, manifest.parts):
        try:
            table = read_quarantine(uri)
        except CorruptData:
            return ", and the rows that were set aside are deleted"
        row = pc.index(_matches(table, wanted), True).as_py()
        if row >= 0:
            reason = table["reason"][row].as_py()
            gate = uri == job.quarantine_uri
            return f": the gate set it aside ({reason})" if gate else f": {reason}"
    return ""


def _features(part: Part, worker: Worker, wanted: Mapping[str, Any]) -> dict[str, Any]:
    import pyarrow.compute as pc

    table = read_part(part, list(dict.fromkeys((*wanted, *worker.scorer.columns))))
    position = pc.index(_matches(table, wanted), True).as_py()
    row = table.slice(position, 1).to_pylist()[0]
    return {name: _plain(row[name]) for name in worker.scorer.columns}


def _matches(table: pa.Table, wanted: Mapping[str, Any]) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = None
    for name, value in wanted.items():
        column = table[name]
        same = pc.equal(column, pa.scalar(value, column.type))
        found = same if found is None else pc.and_(found, same)
    return pc.fill_null(found, False)


def _same(published: Mapping[str, Any], replayed: Mapping[str, Any]) -> bool:
    return list(published) == list(replayed) and all(
        _bits(value) == _bits(replayed[name]) for name, value in published.items()
    )


def _bits(value: Any) -> Any:
    """A float as its bits: -0.0 is not 0.0, and a NaN is itself."""
    return struct.pack("<d", value) if isinstance(value, float) else value


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    return value if isinstance(value, bool | int | float | str | None) else str(value)
