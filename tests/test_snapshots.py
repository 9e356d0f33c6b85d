"""A snapshot is immutable, dated, and the same for the same rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include import storage
from include.errors import CorruptData, PermanentError
from include.partition import Partition
from include.run import Invocation, ModelVersion, Run
from include.snapshots import load_manifest, read_part, write_snapshot

SCHEMA = pa.schema([("id", pa.int64()), ("city", pa.string()), ("temp", pa.float64())])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return _run(tmp_path.as_uri())


def _run(workspace: str) -> Run:
    model = ModelVersion(
        name="m", version="1", alias=None, flavor="lightgbm", digest="d", uri=workspace,
        mlflow_run_id=None, inputs=(),
    )  # fmt: skip
    return Run(
        run_id="cli-1", pipeline="tiny", partition=Partition.containing(dt.date(2024, 5, 1), "day"),
        timezone="UTC", workspace=workspace, pipeline_uri="", config_digest="c", model=model,
        planned_at=dt.datetime(2024, 5, 1, tzinfo=dt.UTC),
        invocation=Invocation(orchestrator="cli", id="1"),
    )  # fmt: skip


def _reader(rows: int, batch_rows: int, nothing: float = 1.0) -> pa.RecordBatchReader:
    table = pa.table(
        {
            "id": pa.array(range(rows), pa.int64()),
            "city": [None if i % 7 == 3 else f"city {i % 3}" for i in range(rows)],
            "temp": pa.array([None if i % 5 == 1 else i * nothing for i in range(rows)]),
        },
        schema=SCHEMA,
    )
    return pa.RecordBatchReader.from_batches(SCHEMA, table.to_batches(max_chunksize=batch_rows))


def _write(run: Run, reader: pa.RecordBatchReader, part_rows: int, inspect: Callable[..., None]):
    return write_snapshot(run, reader, part_rows, query="SELECT", source="t", inspect=inspect)


def _accept(table: pa.Table) -> None:
    return None


def _files(run: Run) -> list[str]:
    return [entry.uri for entry in storage.entries(run.workspace)]


def test_the_rows_come_back_as_they_were_in_parts_of_the_size_asked_for(run: Run) -> None:
    snapshot = _write(run, _reader(250, 64), 100, _accept)
    manifest = load_manifest(snapshot)
    assert [part.rows for part in manifest.parts] == [100, 100, 50]
    whole = pa.concat_tables(read_part(part) for part in manifest.parts)
    assert whole.equals(_reader(250, 250).read_all())
    assert [column.type for column in manifest.columns] == ["int64", "string", "double"]


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 400), batch=st.integers(1, 150), part=st.integers(1, 120))
def test_the_digest_does_not_depend_on_how_the_warehouse_sizes_its_batches(
    tmp_path_factory: pytest.TempPathFactory, rows: int, batch: int, part: int
) -> None:
    one = _write(_run(tmp_path_factory.mktemp("a").as_uri()), _reader(rows, batch), part, _accept)
    other = _write(_run(tmp_path_factory.mktemp("b").as_uri()), _reader(rows, rows), part, _accept)
    assert one.digest == other.digest


def test_extracting_the_same_rows_again_is_the_same_snapshot_and_leaves_no_file(run: Run) -> None:
    first = _write(run, _reader(250, 64), 100, _accept)
    files = _files(run)
    again = _write(run, _reader(250, 9), 100, _accept)
    assert again == first.model_copy(update={"reused": True})
    assert _files(run) == files


def test_other_rows_are_another_snapshot_and_the_first_one_stays(run: Run) -> None:
    first = _write(run, _reader(250, 64), 100, _accept)
    second = _write(run, _reader(250, 64, nothing=1.5), 100, _accept)
    assert second.digest != first.digest
    for snapshot in (first, second):
        assert sum(read_part(p).num_rows for p in load_manifest(snapshot).parts) == 250


def test_a_snapshot_whose_parts_were_deleted_is_made_again(run: Run) -> None:
    first = _write(run, _reader(250, 64), 100, _accept)
    storage.delete([load_manifest(first).parts[1].uri])
    again = _write(run, _reader(250, 64), 100, _accept)
    assert not again.reused
    assert sum(read_part(part).num_rows for part in load_manifest(again).parts) == 250


def test_no_rows_are_an_error_that_names_the_dates_and_the_query(run: Run) -> None:
    with pytest.raises(PermanentError, match="no rows for 2024-05-01.*features.sql"):
        _write(run, _reader(0, 10), 100, _accept)
    assert _files(run) == []


def test_a_failure_in_the_middle_leaves_nothing_behind(run: Run) -> None:
    def refuse_the_second(table: pa.Table) -> None:
        if table["id"][0].as_py() == 100:
            raise PermanentError("the second part is bad")

    with pytest.raises(PermanentError):
        _write(run, _reader(250, 64), 100, refuse_the_second)

    def broken() -> Iterator[pa.RecordBatch]:
        yield from _reader(150, 50)
        raise ConnectionResetError("the warehouse went away")

    with pytest.raises(ConnectionResetError):
        _write(run, pa.RecordBatchReader.from_batches(SCHEMA, broken()), 100, _accept)
    assert _files(run) == []


def test_a_flipped_byte_is_found_when_the_part_is_read(run: Run) -> None:
    snapshot = _write(run, _reader(50, 50), 100, _accept)
    part = load_manifest(snapshot).parts[0]
    path = storage.local_path(part.uri)
    assert path is not None
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptData, match="part 0 .* not the file that was written"):
        read_part(part)


def test_a_deleted_part_or_manifest_is_named(run: Run) -> None:
    snapshot = _write(run, _reader(50, 50), 100, _accept)
    part = load_manifest(snapshot).parts[0]
    storage.delete([part.uri])
    with pytest.raises(CorruptData, match="part 0 of the snapshot is gone"):
        read_part(part)
    storage.delete([snapshot.uri])
    with pytest.raises(CorruptData, match="manifest .* is gone"):
        load_manifest(snapshot)


def test_a_manifest_of_another_snapshot_is_refused(run: Run) -> None:
    one = _write(run, _reader(50, 50), 100, _accept)
    other = _write(run, _reader(51, 50), 100, _accept)
    storage.write(one.uri, storage.read(other.uri))
    with pytest.raises(CorruptData, match="manifest of another snapshot"):
        load_manifest(one)
