"""Immutable dated snapshots: Parquet parts, a manifest that lists them, and a digest of it all.

A snapshot exists once its manifest does. The manifest is named by the digest of the parts, so the
same rows extracted twice are one snapshot, and the second extract's files are removed again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from include import storage
from include.errors import CorruptData, DaybreakError, PermanentError
from include.partition import Partition
from include.run import Column, Part, Run, Snapshot, SnapshotManifest
from include.stored import load
from include.workspace import SHORT, Workspace

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("daybreak")

# A row group is what a reader decodes at once; parts are mostly smaller than one.
ROW_GROUP_ROWS = 131_072


def write_snapshot(
    run: Run,
    reader: pa.RecordBatchReader,
    part_rows: int,
    *,
    query: str,
    source: str,
    inspect: Callable[[pa.Table], None],
) -> Snapshot:
    """Write a stream of sorted batches as a snapshot of `run`'s partition.

    `inspect` sees each part before it is written and may raise; then, as after any failure,
    nothing of the snapshot remains. At most one part is held in memory, beside the batch that the
    warehouse is about to give.
    """

    def write(files: str) -> list[Part]:
        parts = []
        for index, table in enumerate(_tables(reader, part_rows)):
            inspect(table)
            parts.append(write_part(table, index, part_uri(files, index)))
        return parts

    return place_snapshot(run, reader.schema, write, query=query, source=source)


def place_snapshot(
    run: Run,
    schema: pa.Schema,
    write: Callable[[str], Sequence[Part]],
    *,
    query: str,
    source: str,
) -> Snapshot:
    """Have `write` write the parts below a new URI, and make a snapshot of them.

    `write` gives them in the order of the key, cut as `write_snapshot` cuts them. What it raises
    leaves nothing of the snapshot behind; so do no rows at all, a PermanentError.
    """
    place = Workspace(run.workspace, run.pipeline).snapshots(run.partition.as_of)
    files = storage.join(place, uuid.uuid4().hex[:SHORT])
    try:
        parts = write(files)
        if not parts:
            raise PermanentError(
                f"the query gave no rows for {run.partition.start} to {run.partition.as_of}",
                where=f"{run.pipeline}/features.sql",
                do="see that the warehouse holds that date, and that the query's dates are right",
            )
        columns = tuple(Column(name=f.name, type=str(f.type)) for f in schema)
        manifest = SnapshotManifest(
            pipeline=run.pipeline,
            partition=run.partition,
            digest=_digest(run.partition, columns, parts),
            rows=sum(part.rows for part in parts),
            columns=columns,
            parts=tuple(parts),
            query_digest=hashlib.sha256(query.encode()).hexdigest(),
            source=source,
            extracted_at=dt.datetime.now(dt.UTC),
        )
        uri = storage.join(place, f"{manifest.digest[:SHORT]}.json")
        reused = not _settle(uri, manifest)
    except BaseException:
        _clean(files)
        raise
    if reused:
        storage.delete([part.uri for part in parts])
    return Snapshot(
        uri=uri, digest=manifest.digest, rows=manifest.rows, parts=len(parts), reused=reused
    )


def load_manifest(snapshot: Snapshot) -> SnapshotManifest:
    """The manifest of a snapshot; raises CorruptData where it is gone or another one's."""
    manifest = manifest_at(snapshot.uri)
    if manifest.digest != snapshot.digest:
        raise CorruptData(
            f"{snapshot.uri} is the manifest of another snapshot "
            f"({manifest.digest[:12]}, not {snapshot.digest[:12]})",
            do="run the partition again",
        )
    return manifest


def manifest_at(uri: str) -> SnapshotManifest:
    """The manifest at `uri`; raises CorruptData where it is gone."""
    try:
        return load(SnapshotManifest, uri, "the manifest of a snapshot")
    except FileNotFoundError:
        raise CorruptData(
            f"the snapshot's manifest {uri} is gone", do="run the partition again"
        ) from None


def read_part(part: Part, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of one part, all columns or some; raises CorruptData where its bytes changed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = storage.read(part.uri)
    except FileNotFoundError:
        raise CorruptData(
            f"part {part.index} of the snapshot is gone: {part.uri}", do="run the partition again"
        ) from None
    if hashlib.sha256(content).hexdigest() != part.digest:
        raise CorruptData(
            f"part {part.index} of the snapshot is not the file that was written: {part.uri}",
            do="delete it and run the partition again",
        )
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        return file.read(columns=None if columns is None else list(columns), use_threads=False)


def _tables(reader: pa.RecordBatchReader, part_rows: int) -> Iterator[pa.Table]:
    """The stream cut into tables of `part_rows` rows, the last one shorter.

    Cut at the same rows however the warehouse sizes its batches, and without its chunks, so that
    the same rows make the same bytes.
    """
    import pyarrow as pa

    pending: list[pa.RecordBatch] = []
    rows = 0
    for batch in reader:
        while rows + batch.num_rows >= part_rows:
            taken = part_rows - rows
            pending.append(batch.slice(0, taken))
            yield pa.Table.from_batches(pending, reader.schema).combine_chunks()
            batch, pending, rows = batch.slice(taken), [], 0
        if batch.num_rows:
            pending.append(batch)
            rows += batch.num_rows
    if pending:
        yield pa.Table.from_batches(pending, reader.schema).combine_chunks()


def part_uri(files: str, index: int) -> str:
    return storage.join(files, f"part-{index:05d}.parquet")


def write_part(table: pa.Table, index: int, uri: str) -> Part:
    """Write one part: the same rows in one chunk are the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = [f.name for f in table.schema if pa.types.is_string(f.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, row_group_size=ROW_GROUP_ROWS, compression="zstd", use_dictionary=words
    )
    content = sink.getvalue().to_pybytes()
    storage.write(uri, content)
    return Part(
        index=index,
        uri=uri,
        rows=table.num_rows,
        bytes=len(content),
        digest=hashlib.sha256(content).hexdigest(),
    )


def _digest(partition: Partition, columns: Sequence[Column], parts: Sequence[Part]) -> str:
    content = [
        str(partition),
        [[column.name, column.type] for column in columns],
        [part.digest for part in parts],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _clean(files: str) -> None:
    """Delete what a failed attempt left; what was wrong with it counts, and not this."""
    try:
        storage.delete([entry.uri for entry in storage.entries(files)])
    except DaybreakError as error:
        log.warning("files of a snapshot that was not finished may be left: %s", error)


def _settle(uri: str, manifest: SnapshotManifest) -> bool:
    """Put the manifest in place; False where a whole snapshot of this digest is there already."""
    content = manifest.model_dump_json(indent=2).encode()
    if storage.create(uri, content):
        return True
    try:
        there = manifest_at(uri)
    except CorruptData:  # damaged, or deleted since: ours takes its place
        there = None
    if there is not None and there.parts == manifest.parts:
        # Ours: an object store may take a request, lose its answer, and refuse the repetition.
        return True
    if there is not None and there.digest == manifest.digest and all(map(_is_there, there.parts)):
        return False
    # Somebody deleted parts of it, or cut them short: these ones are the same bytes.
    storage.write(uri, content)
    return True


def _is_there(part: Part) -> bool:
    """Whether a part is in storage in its whole length."""
    try:
        _, size = storage.read_end(part.uri, 1)
    except FileNotFoundError:
        return False
    return size == part.bytes
