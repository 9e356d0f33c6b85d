"""One part in, one part and its receipt out: the hot path, the same on every engine."""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from include import storage
from include.environment import differences, environment_for
from include.errors import CorruptData, PermanentError
from include.poison import scores_without_poison
from include.quarantine import (
    positions_by_part,
    quarantine_table,
    read_quarantine,
    write_quarantine,
)
from include.receipts import failures as failures
from include.receipts import receipts as receipts
from include.run import Column, ModelVersion, Part, Receipt, Value
from include.scorers.device import Device
from include.snapshots import read_part
from include.stored import load

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from include.scorers import Scorer

# Readers scan row groups side by side; parts are mostly smaller than one.
_ROW_GROUP_ROWS = 131_072

# What a job takes from the run that opened it last.
_OF_THE_LAST_RUN = (
    *("run_id", "scored_at", "published", "max_failed"),
    *("parts_uri", "quarantine_uri", "snapshot_uri"),
)


class ScoringJob(Value):
    """All that a worker needs to score any part of a version; JSON, in storage.

    `run_id` and `scored_at` are of the store's claim, the same for whoever scores the version, so
    that a part has the same bytes whoever scores it. Its name is that of the claim and of these
    bytes: where another machine rounds otherwise, nothing is written over what may be published
    by now, and who still deletes a version that was deleted and made again meets no new file.

    `snapshot_uri` is the manifest that lists the parts, `parts_uri` is where scored parts go and
    `receipts_uri` where their receipts go. At most `max_failed` rows may be such that the model
    fails on them, over all parts. `environment` are the versions of the libraries where the job was
    made, see environment.py, and `device` is where its workers compute, see scorers/device.py.
    `published` are the digests, by part, of a version that was committed before: a part of it that
    is scored again must come out the same.
    """

    pipeline: str
    as_of: dt.date
    version: str
    run_id: str
    scored_at: dt.datetime
    model: ModelVersion
    output: str
    key: tuple[str, ...]
    pass_through: tuple[str, ...]
    score_column: str
    quarantine_uri: str | None
    parts_uri: str
    receipts_uri: str
    snapshot_uri: str = ""
    max_failed: int = 0
    device: Device = "auto"
    environment: dict[str, str] = Field(default_factory=dict)
    published: dict[int, str] = Field(default_factory=dict)

    @property
    def uri(self) -> str:
        return storage.join(self.receipts_uri, "job.json")

    def part_uri(self, index: int, digest: str) -> str:
        """Of the part whose bytes have this SHA-256."""
        whose = f"{self.run_id} {self.scored_at.timestamp():.6f} {digest}"
        name = hashlib.sha256(whose.encode()).hexdigest()[:8]
        return storage.join(self.parts_uri, f"part-{index:05d}-{name}.parquet")

    def receipt_uri(self, index: int) -> str:
        return storage.join(self.receipts_uri, f"part-{index:05d}.json")

    def failed_uri(self, index: int) -> str:
        return storage.join(self.receipts_uri, f"quarantine-{index:05d}.parquet")

    def failure_uri(self, index: int | None) -> str:
        """Of a part; None is of a worker that could score no part."""
        name = "worker" if index is None else f"{index:05d}"
        return storage.join(self.receipts_uri, f"failure-{name}.json")


def version_id(snapshot_digest: str, model_digest: str, config_digest: str) -> str:
    """The name of what these make: the same inputs are the same version."""
    content = "\n".join((snapshot_digest, model_digest, config_digest))
    return "v" + hashlib.sha256(content.encode()).hexdigest()[:12]


def open_job(job: ScoringJob) -> ScoringJob:
    """The job of this version: the one that is in storage, or else `job`, stored.

    What it was made with stays: the model and the libraries. A table that was moved
    (`predictions.uri`) moves the job with it, and a version that was deleted gets another claim:
    then its parts are scored anew.
    """
    if storage.create(job.uri, _written(job)):
        return job
    stored = load_job(job.uri)
    if (stored.as_of, stored.version) != (job.as_of, job.version):
        raise CorruptData(
            f"this is the scoring job of version {stored.version} of {stored.as_of}, not of "
            f"{job.version} of {job.as_of}",
            where=job.uri,
            do="delete it and run the partition again",
        )
    opened = stored.model_copy(update={name: getattr(job, name) for name in _OF_THE_LAST_RUN})
    if opened != stored:
        storage.write(job.uri, _written(opened))
    return opened


def _written(job: ScoringJob) -> bytes:
    return job.model_dump_json(indent=2).encode()


def load_job(uri: str) -> ScoringJob:
    """The stored job at `uri`; CorruptData where it is gone."""
    try:
        return load(ScoringJob, uri, "the scoring job")
    except FileNotFoundError:
        raise CorruptData(
            f"the scoring job {uri} is gone", do="score the partition again"
        ) from None


def quarantined_rows(job: ScoringJob) -> dict[int, NDArray[np.int64]]:
    """The positions that the gate set aside, ascending, by part; other parts are not there."""
    if job.quarantine_uri is None:
        return {}
    return positions_by_part(read_quarantine(job.quarantine_uri, ["part", "row"]))


class ScoredRows(NamedTuple):
    """The rows of one part as they are published, and those on which the model failed, if any."""

    rows: pa.Table
    failed: pa.Table | None


def score_part(
    job: ScoringJob, part: Part, scorer: Scorer, quarantined: Mapping[int, NDArray[np.int64]]
) -> Receipt:
    """Score one part and write it, then its receipt; the same bytes whoever does it, and when.

    `quarantined` is what `quarantined_rows` gave; those rows are left out. So are rows on which the
    model fails, as many as `job.max_failed` allows, into a quarantine file of the part. Raises
    PartFailed, with the part and the first key, where it fails on more, and CorruptData where the
    part's bytes changed.
    """
    started = time.perf_counter()
    scored, failed = scored_rows(job, part, scorer, quarantined)
    content = _parquet(scored, job)
    digest = hashlib.sha256(content).hexdigest()
    _require_as_published(job, part, digest)
    uri = job.part_uri(part.index, digest)
    storage.write(uri, content)
    if failed is not None:
        write_quarantine(job.failed_uri(part.index), failed)
    count = failed.num_rows if failed is not None else 0
    receipt = Receipt(
        part=part.index,
        uri=uri,
        rows_in=part.rows,
        scored=scored.num_rows,
        quarantined=part.rows - scored.num_rows - count,
        bytes=len(content),
        digest=digest,
        seconds=round(time.perf_counter() - started, 4),
        device=scorer.device,
        failed=count,
        failed_uri=job.failed_uri(part.index) if failed is not None else None,
    )
    storage.write(job.receipt_uri(part.index), receipt.model_dump_json(indent=2).encode())
    return receipt


def _require_as_published(job: ScoringJob, part: Part, digest: str) -> None:
    if job.published.get(part.index, digest) == digest:
        return
    others = differences(job.environment, environment_for(job.model.flavor))
    made_with = ", ".join(f"{name} {was}" for name, (was, _) in others.items() if was)
    raise CorruptData(
        f"part {part.index} of version {job.version} of {job.as_of}, which was published, is not "
        "the file that it was, and scored again it holds other bytes"
        + (f" (it was scored with {made_with})" if made_with else ""),
        where=job.part_uri(part.index, job.published[part.index]),
        do="nothing was written: restore the file from a backup, score with the libraries of then, "
        "or roll back to another version",
    )


def scored_rows(
    job: ScoringJob, part: Part, scorer: Scorer, quarantined: Mapping[int, NDArray[np.int64]]
) -> ScoredRows:
    """What `score_part` writes, in the order of the key."""
    import numpy as np
    import pyarrow as pa

    needed = dict.fromkeys((*job.key, *job.pass_through, *scorer.columns))
    whole = rows = read_part(part, list(needed))
    missing = [name for name in needed if name not in rows.column_names]
    if missing:
        raise PermanentError(
            f"the snapshot has no column {', '.join(missing)}, which the model or the table needs",
            do="select it in features.sql",
        )
    keep = _all_but(rows.num_rows, quarantined.get(part.index, ()), part)
    rows = rows.filter(pa.array(keep)) if not keep.all() else rows
    scores, reasons = scores_without_poison(job, part, rows, scorer)
    failed = None
    if reasons:
        positions = np.flatnonzero(keep)
        by_position = {int(positions[row]): reason for row, reason in reasons.items()}
        failed = quarantine_table(whole, part.index, by_position, job.key)
        rows = rows.filter(pa.array(_all_but(rows.num_rows, sorted(reasons), part)))
    lineage = {
        "model_name": job.model.name,
        "model_version": job.model.version,
        "model_digest": job.model.digest,
        "run_id": job.run_id,
        "scored_at": pa.scalar(job.scored_at, pa.timestamp("us", "UTC")),
    }
    scored = rows.select([*job.key, *job.pass_through]).append_column(job.score_column, scores)
    for name, value in lineage.items():
        scored = scored.append_column(name, pa.repeat(value, rows.num_rows))
    return ScoredRows(scored, failed)


def _all_but(rows: int, positions: Sequence[int] | NDArray[np.int64], part: Part) -> Any:
    """A mask of `rows` booleans, False at the `positions`, which ascend."""
    import numpy as np

    if rows and len(positions) and not 0 <= positions[0] <= positions[-1] < rows:
        raise CorruptData(
            f"the quarantine names row {positions[-1]} of part {part.index}, which has {rows}",
            do="run the gate again",
        )
    keep = np.ones(rows, dtype=bool)
    keep[np.asarray(positions, dtype=np.int64)] = False
    return keep


def scored_columns(
    key: Sequence[str], pass_through: Sequence[str], score_column: str, source: Sequence[Column]
) -> tuple[Column, ...]:
    """The columns of scored files, in order; `source` are those of the snapshot."""
    kept = {column.name: column for column in source}
    lineage = ("model_name", "model_version", "model_digest", "run_id")
    return (
        *(kept[name] for name in (*key, *pass_through)),
        Column(name=score_column, type="double"),
        *(Column(name=name, type="string") for name in lineage),
        Column(name="scored_at", type="timestamp[us, tz=UTC]"),
    )


def _parquet(scored: pa.Table, job: ScoringJob) -> bytes:
    """The file's bytes: small, and the same for the same rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {field.name: field.type for field in scored.schema}
    words = [n for n, t in types.items() if pa.types.is_string(t) or pa.types.is_large_string(t)]
    encodings: dict[str, Any] = {job.score_column: "BYTE_STREAM_SPLIT"}
    # Keys ascend, so their differences are small.
    encodings |= {n: "DELTA_BINARY_PACKED" for n in job.key if pa.types.is_integer(types[n])}
    sink = pa.BufferOutputStream()
    pq.write_table(
        scored,
        sink,
        compression="zstd",
        use_dictionary=words,
        column_encoding=encodings,
        row_group_size=_ROW_GROUP_ROWS,
    )
    return bytes(sink.getvalue().to_pybytes())
