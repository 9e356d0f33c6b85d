"""The parts of a snapshot as executors write them: no row passes through the driver.

Two jobs of Spark. The first sorts the rows over all partitions and stages them as they come, a file
a batch; after it the driver knows how many rows lie where. The second cuts them at the same rows
at which a stream of them is cut and writes the parts. So the same rows are the same bytes, however
Spark had spread them, and whichever of its tasks were done twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from include import storage
from include.keys import KeyOrder
from include.run import Part, Value
from include.snapshots import part_uri, write_part

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

# More tasks than parts are of no use, and more than this of little.
MOST_TASKS = 512

STAGED = "partition int, position int, uri string, rows int"
WRITTEN = "part string, violation string, ends binary"


class Staged(NamedTuple):
    """A file of sorted rows: the batch `position` of the partition `partition`."""

    partition: int
    position: int
    uri: str
    rows: int


class Slice(Value):
    """Some rows of a staged file."""

    uri: str
    offset: int
    rows: int


class Slices(Value):
    """What a part consists of."""

    of: tuple[Slice, ...]


class Written(NamedTuple):
    """The parts, in order, and what is wrong with the first bad key, None where all are good."""

    parts: list[Part]
    violation: str | None


def write_parts(
    spark: SparkSession,
    ordered: DataFrame,
    schema: pa.Schema,
    key: Sequence[str],
    part_rows: int,
    files: str,
) -> Written:
    """Write the rows of `ordered`, which are sorted by `key`, as parts below the URI `files`.

    Executors need the code of this project, see shipping.py, and must reach `files`. Nothing but
    the parts remains; after a failure, whatever was written by then does.
    """
    stage = Stage(files, schema.serialize().to_pybytes())
    staged = sorted(Staged(*row) for row in ordered.mapInArrow(stage, STAGED).collect())
    parts = cut(staged, part_rows)
    if not parts:
        return Written([], None)
    assemble = Assemble(files, tuple(key), tuple(part.model_dump_json() for part in parts))
    positions: Any = spark.range(0, len(parts), 1, min(len(parts), MOST_TASKS))
    rows = positions.mapInArrow(assemble, WRITTEN).collect()
    storage.delete([file.uri for file in staged])
    done = sorted(
        ((Part.model_validate_json(part), said, ends) for part, said, ends in rows),
        key=lambda row: row[0].index,
    )
    return Written([part for part, _, _ in done], _first_violation(key, done))


def cut(staged: Iterable[Staged], part_rows: int) -> list[Slices]:
    """The staged files, in their order, as parts of `part_rows` rows, the last one shorter."""
    parts: list[list[Slice]] = []
    room = 0
    for file in staged:
        offset = 0
        while offset < file.rows:
            if not room:
                parts.append([])
                room = part_rows
            taken = min(room, file.rows - offset)
            parts[-1].append(Slice(uri=file.uri, offset=offset, rows=taken))
            offset, room = offset + taken, room - taken
    return [Slices(of=tuple(part)) for part in parts]


@dataclass(frozen=True)
class Stage:
    """Writes each batch of a partition to a file of its own; `schema` is what its columns become.

    A task that is done twice writes twice, and the driver hears of one of them.
    """

    files: str
    schema: bytes

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        from pyspark import TaskContext

        schema = pa.ipc.read_schema(pa.BufferReader(self.schema))
        context: Any = TaskContext.get()
        for position, batch in enumerate(batches):
            # Without what Spark adds: whether a column may be null, and its own metadata.
            columns = [c.cast(f.type) for c, f in zip(batch.columns, schema, strict=True)]
            plain = pa.RecordBatch.from_arrays(columns, schema=schema)
            uri = storage.join(self.files, f"staged-{uuid.uuid4().hex}.arrow")
            storage.write(uri, _ipc(plain))
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array([context.partitionId()], pa.int32()),
                    pa.array([position], pa.int32()),
                    pa.array([uri]),
                    pa.array([plain.num_rows], pa.int32()),
                ],
                names=list(Staged._fields),
            )


@dataclass(frozen=True)
class Assemble:
    """Writes the parts whose numbers it is given; `parts` are JSON of their slices.

    It yields the part, what is wrong with its keys, and the keys of its first and last row.
    """

    files: str
    key: tuple[str, ...]
    parts: tuple[str, ...]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for index in (index for batch in batches for index in batch.column(0).to_pylist()):
            slices = Slices.model_validate_json(self.parts[index]).of
            table = pa.concat_tables(map(_rows, slices)).combine_chunks()
            part = write_part(table, index, part_uri(self.files, index))
            keys = table.select(list(self.key))
            ends = pa.concat_tables([keys.slice(0, 1), keys.slice(max(1, keys.num_rows - 1))])
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array([part.model_dump_json()]),
                    pa.array([KeyOrder(self.key).first_violation(table)], pa.string()),
                    pa.array([_ipc(ends.combine_chunks().to_batches()[0])], pa.binary()),
                ],
                names=["part", "violation", "ends"],
            )


def _first_violation(
    key: Sequence[str], done: Sequence[tuple[Part, str | None, bytes]]
) -> str | None:
    """Where the keys of a part, or those on either side of a border, do not rise."""
    import pyarrow as pa

    order = KeyOrder(key)
    for _, said, ends in done:
        keys = pa.ipc.open_stream(ends).read_all()
        found = order.first_violation(keys.slice(0, 1)) or said
        if found is not None:
            return found
        order.first_violation(keys.slice(1))
    return None


def _rows(part: Slice) -> pa.Table:
    import pyarrow as pa

    table = pa.ipc.open_stream(storage.read(part.uri)).read_all()
    return table.slice(part.offset, part.rows)


def _ipc(batch: pa.RecordBatch) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())
