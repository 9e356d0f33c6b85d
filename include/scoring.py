"""One part in, one part and its receipt out: the hot path, the same on every engine."""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pydantic import Field

from include import storage
from include.errors import CorruptData, DaybreakError, PermanentError
from include.run import ModelVersion, Part, Receipt, Value
from include.snapshots import read_part

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from include.scorers import Scorer

# Receipts are small files: their reads wait for the storage, not for the processor.
_READERS = 16

# Readers scan row groups side by side; parts are mostly smaller than one.
_ROW_GROUP_ROWS = 131_072


class ScoringJob(Value):
    """All that a worker needs to score any part of a version; JSON, in storage.

    Made once per version: whoever resumes it reads the same `run_id` and `scored_at`, so that a
    part has the same bytes whoever scores it. `parts_uri` is where scored parts go and
    `receipts_uri` where their receipts go. `environment` are the versions of the libraries where
    the job was made, see environment.py.
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
    environment: dict[str, str] = Field(default_factory=dict)

    @property
    def uri(self) -> str:
        return storage.join(self.receipts_uri, "job.json")

    def part_uri(self, index: int) -> str:
        return storage.join(self.parts_uri, f"part-{index:05d}.parquet")

    def receipt_uri(self, index: int) -> str:
        return storage.join(self.receipts_uri, f"part-{index:05d}.json")


def version_id(snapshot_digest: str, model_digest: str, config_digest: str) -> str:
    """The name of what these make: the same inputs are the same version."""
    content = "\n".join((snapshot_digest, model_digest, config_digest))
    return "v" + hashlib.sha256(content.encode()).hexdigest()[:12]


def open_job(job: ScoringJob) -> ScoringJob:
    """The job of this version: the one that is in storage, or else `job`, stored.

    Its run and its time stay. A table that was moved (`predictions.uri`) moves the job with it, and
    its parts are scored anew.
    """
    if storage.create(job.uri, job.model_dump_json(indent=2).encode()):
        return job
    stored = load_job(job.uri)
    places = {"parts_uri": job.parts_uri, "quarantine_uri": job.quarantine_uri}
    moved = stored.model_copy(update=places)
    if moved != stored:
        storage.write(job.uri, moved.model_dump_json(indent=2).encode())
    return moved


def load_job(uri: str) -> ScoringJob:
    """The stored job at `uri`; CorruptData where it is gone."""
    try:
        return ScoringJob.model_validate_json(storage.read(uri))
    except FileNotFoundError:
        raise CorruptData(
            f"the scoring job {uri} is gone", do="score the partition again"
        ) from None


def receipts(job: ScoringJob) -> list[Receipt]:
    """The finished parts, in order: those whose file is where the receipt says, of its size."""
    sizes = {_name(entry.uri): entry.size for entry in storage.entries(job.parts_uri)}
    listed = [entry.uri for entry in storage.entries(job.receipts_uri)]
    found = [uri for uri in listed if _name(uri).startswith("part-")]
    with ThreadPoolExecutor(_READERS) as readers:
        read = [Receipt.model_validate_json(text) for text in readers.map(storage.read, found)]
    finished = [
        receipt
        for receipt in read
        if receipt.uri == job.part_uri(receipt.part)
        and sizes.get(_name(receipt.uri)) == receipt.bytes
    ]
    return sorted(finished, key=lambda receipt: receipt.part)


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]


def quarantined_rows(job: ScoringJob) -> dict[int, NDArray[np.int64]]:
    """The positions that the gate set aside, ascending, by part; other parts are not there."""
    if job.quarantine_uri is None:
        return {}
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = storage.read(job.quarantine_uri)
    except FileNotFoundError:
        raise CorruptData(
            f"the quarantined rows {job.quarantine_uri} are gone", do="run the gate again"
        ) from None
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        table = file.read(columns=["part", "row"], use_threads=False)
    parts, rows = table["part"].to_numpy(), table["row"].to_numpy()
    return {int(part): np.sort(rows[parts == part]) for part in np.unique(parts)}


def score_part(
    job: ScoringJob, part: Part, scorer: Scorer, quarantined: Mapping[int, NDArray[np.int64]]
) -> Receipt:
    """Score one part and write it, then its receipt; the same bytes whoever does it, and when.

    `quarantined` is what `quarantined_rows` gave; those rows are left out. Raises PermanentError,
    with the part and its first key, for a score that is not finite and for a model that fails,
    and CorruptData where the part's bytes changed.
    """
    started = time.perf_counter()
    scored = scored_rows(job, part, scorer, quarantined)
    content = _parquet(scored, job)
    storage.write(job.part_uri(part.index), content)
    receipt = Receipt(
        part=part.index,
        uri=job.part_uri(part.index),
        rows_in=part.rows,
        scored=scored.num_rows,
        quarantined=part.rows - scored.num_rows,
        bytes=len(content),
        digest=hashlib.sha256(content).hexdigest(),
        seconds=round(time.perf_counter() - started, 4),
    )
    storage.write(job.receipt_uri(part.index), receipt.model_dump_json(indent=2).encode())
    return receipt


def scored_rows(
    job: ScoringJob, part: Part, scorer: Scorer, quarantined: Mapping[int, NDArray[np.int64]]
) -> pa.Table:
    """The rows of one part as they are published, in the order of the key; see `score_part`."""
    import pyarrow as pa

    needed = dict.fromkeys((*job.key, *job.pass_through, *scorer.columns))
    rows = read_part(part, list(needed))
    missing = [name for name in needed if name not in rows.column_names]
    if missing:
        raise PermanentError(
            f"the snapshot has no column {', '.join(missing)}, which the model or the table needs",
            do="select it in features.sql",
        )
    set_aside = quarantined.get(part.index)
    if set_aside is not None:
        rows = rows.filter(_all_but(rows.num_rows, set_aside, part))
    scores = _scores(part, rows, scorer)
    _require_finite(job, part, rows, scores)
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
    return scored


def _all_but(rows: int, positions: NDArray[np.int64], part: Part) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    if rows and len(positions) and not 0 <= positions[0] <= positions[-1] < rows:
        raise CorruptData(
            f"the quarantine names row {positions[-1]} of part {part.index}, which has {rows}",
            do="run the gate again",
        )
    keep = np.ones(rows, dtype=bool)
    keep[positions] = False
    return pa.array(keep)


def _scores(part: Part, rows: pa.Table, scorer: Scorer) -> pa.Array:
    """One score per row; a part goes to the model whole, always the same rows together."""
    import pyarrow as pa

    batches = rows.select(list(scorer.columns)).combine_chunks().to_batches()
    try:
        scores = [scorer.score(batch) for batch in batches]
    except DaybreakError as error:
        error.where = error.where or f"part {part.index}"
        raise
    except Exception as error:
        raise PermanentError(
            f"the model failed on part {part.index}: {type(error).__name__}: {error}",
            where=part.uri,
            do="see that the features have the types that the model was trained on",
        ) from error
    return pa.chunked_array(scores, pa.float64()).combine_chunks()


def _require_finite(job: ScoringJob, part: Part, rows: pa.Table, scores: pa.Array) -> None:
    import numpy as np

    values = scores.to_numpy()
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        first = int(bad[0])
        key = ", ".join(f"{name}={rows[name][first].as_py()}" for name in job.key)
        raise PermanentError(
            f"the model gives {values[first]} for {key}, and no finite score for {len(bad):,} of "
            f"the {rows.num_rows:,} rows of part {part.index}",
            where=part.uri,
            do="have suite.yaml set such rows aside, or mend the model",
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
