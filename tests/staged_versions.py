"""Small real versions for the tests of stores, audit and publish: Parquet parts and a manifest."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from include import storage
from include.partition import Partition
from include.run import Column, Part, Receipt, SnapshotManifest
from include.stores import Store, Unclaimed, VersionManifest, rule

DAY = dt.date(2026, 3, 1)
PLANNED_AT = dt.datetime(2026, 3, 2, 4, tzinfo=dt.UTC)
SCORED_AT = dt.datetime(2026, 3, 2, 4, 30, tzinfo=dt.UTC)
MODEL = {"model_name": "churn", "model_version": "7", "model_digest": "d" * 64}


def rows_of(
    count: int,
    *,
    scores: Sequence[float] | np.ndarray | None = None,
    label: str = "run-1",
    extra: Mapping[str, pa.Array] | None = None,
) -> pa.Table:
    """Scored rows with the key `id`, pass-through columns `extra`, a score and the lineage."""
    if scores is None:
        scores = np.linspace(0.05, 0.95, count)
    constants = {**MODEL, "run_id": label}
    return pa.table(
        {
            "id": pa.array(range(count), pa.int64()),
            **(extra or {}),
            "score": pa.array(scores, pa.float64()),
            **{name: pa.repeat(value, count) for name, value in constants.items()},
            "scored_at": pa.repeat(pa.scalar(SCORED_AT, pa.timestamp("us", "UTC")), count),
        }
    )


def write_version(
    store: Store,
    version: str,
    rows: pa.Table,
    *,
    as_of: dt.date = DAY,
    parts: int = 3,
    name: str = "",
) -> VersionManifest:
    """Write `rows` as a version's parts, as an engine does; nothing is staged yet.

    `name` is what is in the names of the parts beside their number.
    """
    step = -(-rows.num_rows // parts)
    receipts = []
    for index in range(parts):
        piece = rows.slice(index * step, step)
        sink = pa.BufferOutputStream()
        pq.write_table(piece, sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
        uri = storage.join(store.parts_uri(as_of, version), f"part-{index:05d}{name}.parquet")
        storage.write(uri, content)
        receipts.append(
            Receipt(
                part=index,
                uri=uri,
                rows_in=piece.num_rows,
                scored=piece.num_rows,
                quarantined=0,
                bytes=len(content),
                digest=hashlib.sha256(content).hexdigest(),
                seconds=0.1,
            )
        )
    values: dict[str, Any] = {
        "pipeline": "churn",
        "as_of": as_of,
        "version": version,
        "rows_in": rows.num_rows,
        "rows": rows.num_rows,
        "quarantined": 0,
        "key": ("id",),
        "score_column": "score",
        "columns": tuple(Column(name=f.name, type=str(f.type)) for f in rows.schema),
        "parts": tuple(receipts),
        "snapshot_uri": "file:///nowhere/snapshot.json",
        "snapshot_digest": "5" * 64,
        "quarantine_uri": None,
        "config_digest": "c" * 64,
        "run_id": rows["run_id"][0].as_py() if rows.num_rows else "run-1",
        "scored_at": SCORED_AT,
        **MODEL,
    }
    return VersionManifest(**values)


def staged(
    store: Store,
    version: str,
    *,
    as_of: dt.date = DAY,
    count: int = 30,
    parts: int = 3,
    extra: Mapping[str, pa.Array] | None = None,
) -> VersionManifest:
    """A staged version whose run_id is its own, so that readers can tell mixed rows."""
    rows = rows_of(count, label=f"run-of-{version}", extra=extra)
    manifest = write_version(store, version, rows, as_of=as_of, parts=parts)
    stage(store, manifest)
    return manifest


def stage(store: Store, manifest: VersionManifest) -> None:
    """Stage a version, claimed anew where it was deleted before."""
    try:
        store.stage(manifest)
    except Unclaimed:
        claim = rule.claim_of(manifest)
        assert store.claim(manifest.as_of, manifest.version, claim) == claim
        store.stage(manifest)


def snapshot_of(manifest: VersionManifest) -> SnapshotManifest:
    """The manifest of the snapshot from which a version would have been scored."""
    return SnapshotManifest(
        pipeline=manifest.pipeline,
        partition=Partition.containing(manifest.as_of, "day"),
        digest=manifest.snapshot_digest,
        rows=manifest.rows_in,
        columns=(Column(name="id", type="int64"),),
        parts=tuple(
            Part(index=part.part, uri=part.uri, rows=part.rows_in, bytes=1, digest="0" * 64)
            for part in manifest.parts
        ),
        query_digest="q" * 64,
        source="duckdb",
        extracted_at=SCORED_AT,
    )
