"""What the Delta table promises beyond what contract/test_stores.py asks of every store."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import os
import signal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from include import storage
from include.errors import CorruptData, PermanentError, TransientError
from include.run import Column
from include.stores import Decision, delta, delta_expiry, delta_log
from include.stores.delta import Table
from include.stores.delta_schema import delta_type
from include.stores.history import History
from tests import processes
from tests.staged_versions import DAY, PLANNED_AT, staged

ANNA = Decision(by="anna", at=PLANNED_AT, reason="scores doubled")
LATER = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)  # than every commit that a test makes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a folder with spaces" / "predictions"


@pytest.fixture
def store(folder: Path) -> Table:
    return Table(folder.as_uri())


def test_a_plain_path_is_a_table_too(folder: Path) -> None:
    assert Table(str(folder)).root == folder.as_uri()
    assert Table("s3://bucket/predictions/").root == "s3://bucket/predictions"


def test_a_current_version_whose_deletion_was_killed_before_it_was_called_off_is_kept_whole(
    store: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    v1, v2 = (staged(store, version) for version in ("v1", "v2"))
    store.commit(v1, PLANNED_AT)
    store.commit(v2, PLANNED_AT)
    barrier = delta_expiry._barrier

    def rolled_back_before(root: str) -> DeltaTable | None:
        with monkeypatch.context() as earlier:  # it looked before the deletion's record was there
            earlier.setattr(delta_expiry, "require_not_deleting", lambda *_: 0)
            store.rollback(DAY, "v1", ANNA, replacing="v2")
        return barrier(root)

    def killed(*_: Any, done: bool) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(delta_expiry, "_barrier", rolled_back_before)
        patched.setattr(History, "end", killed)
        with pytest.raises(KeyboardInterrupt):
            store.delete([(DAY, "v1")], "old", LATER)
    assert [one.version for one in store.stored() if one.deleting] == ["v1"]
    # The next upkeep calls it off, so that nothing that v1 needs goes as that of a deleted version.
    assert store.delete([(DAY, "v1")], "begun and not finished", LATER) == []
    assert [one.version for one in store.stored() if one.deleting] == []
    assert store.expired(DAY) == [] and store.read(DAY).num_rows == v1.rows
    store.rollback(DAY, "v2", ANNA, replacing="v1")
    assert store.rollback(DAY, "v1", ANNA, replacing="v2").outcome == "published"


def test_pandas_arrow_and_duckdb_read_the_current_versions(store: Table, folder: Path) -> None:
    store.commit(staged(store, "v1"), PLANNED_AT)
    store.commit(staged(store, "v2", count=40), PLANNED_AT)
    store.commit(staged(store, "v1", as_of=DAY + dt.timedelta(days=1), count=10), PLANNED_AT)
    table = DeltaTable(folder.as_uri())
    rows = table.to_pyarrow_table()
    assert rows.num_rows == 50
    assert len(table.to_pandas()) == 50
    assert table.count() == 50
    connection = duckdb.connect().register("predictions", table.to_pyarrow_dataset())
    found = connection.sql("select as_of, version, count(*), min(id) from predictions group by all")
    assert sorted(found.fetchall()) == [
        (DAY, "v2", 40, 0),
        (DAY + dt.timedelta(days=1), "v1", 10, 0),
    ]


def test_who_reads_a_version_while_it_is_replaced_and_deleted_gets_the_one_after_it(
    store: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where retention keeps none but the current version: its files go under the reader."""
    store.commit(staged(store, "v1"), PLANNED_AT)
    real = delta.read_current

    def slow(*args: Any) -> pa.Table:
        monkeypatch.setattr(delta, "read_current", real)
        other = Table(store.root)
        other.commit(staged(other, "v2", count=40), PLANNED_AT)
        assert other.delete([(DAY, "v1")], "too old", LATER) == [(DAY, "v1")]
        return real(*args)

    monkeypatch.setattr(delta, "read_current", slow)
    rows = store.read(DAY)
    assert (rows.num_rows, set(rows["version"].to_pylist())) == (40, {"v2"})
    with pytest.raises(PermanentError, match="v1 of 2026-03-01 were deleted"):
        store.read(DAY, "v1")


@pytest.mark.parametrize("fault", ["gone", "empty", "shorter", "another footer"])
def test_a_current_version_whose_file_is_damaged_is_one_error_that_names_the_part(
    store: Table, fault: str
) -> None:
    v1 = staged(store, "v1")
    store.commit(v1, PLANNED_AT)
    uri = v1.parts[1].uri
    content = storage.read(uri)
    if fault == "gone":
        storage.delete([uri])
    else:
        footer = content[:-20] + b"x" * 12 + content[-8:]
        kinds = {"empty": b"", "shorter": content[:-9], "another footer": footer}
        storage.write(uri, kinds[fault])
    said = "is gone" if fault == "gone" else "is not the file that was scored"
    with pytest.raises(CorruptData, match=f"part 1 of version v1 of 2026-03-01 {said}") as raised:
        store.read(DAY)
    assert raised.value.where == uri and "run the partition again" in raised.value.do


def test_a_read_of_an_older_version_gives_its_rows_or_names_the_part_that_is_another(
    store: Table,
) -> None:
    v1 = staged(store, "v1")
    store.commit(v1, PLANNED_AT)
    store.commit(staged(store, "v2"), PLANNED_AT)
    content = storage.read(v1.parts[2].uri)
    for bit in range(0, 8 * len(content), 8 * len(content) // 20):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        storage.write(v1.parts[2].uri, bytes(flipped))
        with pytest.raises(CorruptData, match="part 2 of version v1 of 2026-03-01 is not the file"):
            store.read(DAY, "v1")
    storage.write(v1.parts[2].uri, content)
    assert store.read(DAY, "v1")["id"].to_pylist() == list(range(30))


def test_a_checkpoint_that_a_power_cut_emptied_is_forgotten(store: Table, folder: Path) -> None:
    for number in range(3):
        store.commit(staged(store, f"v{number}"), PLANNED_AT)
    store.upkeep()
    log = folder / "_delta_log"
    (checkpoint,) = log.glob("*.checkpoint.parquet")
    checkpoint.write_bytes(b"")
    assert (log / "_last_checkpoint").exists()
    rows = store.read(DAY)
    assert set(rows["version"].to_pylist()) == {"v2"}
    store.commit(staged(store, "v3"), PLANNED_AT)
    store.upkeep()
    assert store.current_versions() == {DAY: "v3"}
    assert DeltaTable(folder.as_uri()).count() == 30


def test_files_carry_their_rows_and_the_range_of_their_keys(store: Table, folder: Path) -> None:
    store.commit(staged(store, "v1", count=30, parts=3), PLANNED_AT)
    table = DeltaTable(folder.as_uri())
    actions = pa.table(table.get_add_actions(flatten=True)).sort_by("path")
    assert actions["num_records"].to_pylist() == [10, 10, 10]
    assert actions["min.id"].to_pylist() == [0, 10, 20]
    assert actions["max.id"].to_pylist() == [9, 19, 29]
    assert actions["null_count.id"].to_pylist() == [0, 0, 0]
    found = table.file_uris(file_pruning_predicate="id = 25")
    assert [uri.rpartition("/")[2] for uri in found] == ["part-00002.parquet"]


def test_a_commit_copies_no_row(store: Table, folder: Path) -> None:
    store.commit(staged(store, "v1", count=50_000), PLANNED_AT)
    v2 = staged(store, "v2", count=50_000)

    def files() -> dict[Path, int]:
        return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}

    before = files()
    store.commit(v2, PLANNED_AT)
    after = files()
    assert {path: after[path] for path in before} == before
    written = {path: size for path, size in after.items() if path not in before}
    assert sorted(path.suffix for path in written) == [".json", ".json"]
    assert sum(written.values()) < 8_000 < v2.parts[0].bytes


@pytest.mark.parametrize(
    ("values", "type_", "back"),
    [
        ([1, -1], pa.int8(), None),
        ([1, -1], pa.int16(), None),
        ([1, -1], pa.int32(), None),
        ([2**62], pa.int64(), None),
        ([0.5], pa.float32(), None),
        ([0.1], pa.float64(), None),
        ([True, False], pa.bool_(), None),
        (["Zürich"], pa.string(), None),
        (["Zürich"], pa.large_string(), pa.string()),
        ([b"\x00"], pa.binary(), None),
        ([dt.date(1969, 12, 31)], pa.date32(), None),
        ([1_767_229_323_000_004], pa.timestamp("us"), None),
        ([dt.datetime(2026, 1, 1, tzinfo=dt.UTC)], pa.timestamp("us", "UTC"), None),
        (
            [dt.datetime(2026, 1, 1, tzinfo=dt.UTC)],
            pa.timestamp("us", "Europe/Berlin"),
            pa.timestamp("us", "UTC"),
        ),
        ([decimal.Decimal("12345678.91")], pa.decimal128(10, 2), None),
    ],
    ids=str,
)
def test_pass_through_types_come_back_as_they_went_in(
    store: Table, values: list[Any], type_: pa.DataType, back: pa.DataType | None
) -> None:
    extra = pa.array([*values, None, None][:3], type_)
    store.commit(staged(store, "v1", count=len(extra), extra={"extra": extra}), PLANNED_AT)
    first = store.read(DAY)
    # Once more as an older version, which is read by its manifest instead.
    store.commit(staged(store, "v2", count=3, parts=1), PLANNED_AT)
    for rows in (first, store.read(DAY, "v1")):
        assert rows["extra"].type == (back or type_)
        assert rows["extra"].to_pylist() == extra.cast(back or type_).to_pylist()


@pytest.mark.parametrize(
    ("type_", "cast"),
    [
        (pa.uint8(), "SMALLINT"),
        (pa.uint64(), "BIGINT"),
        (pa.time64("us"), "VARCHAR"),
        (pa.timestamp("ns"), "microseconds"),
        (pa.duration("s"), "VARCHAR"),
        (pa.list_(pa.int64()), "VARCHAR"),
        (pa.dictionary(pa.int32(), pa.string()), "VARCHAR"),
        (pa.decimal256(60, 2), "VARCHAR"),
    ],
    ids=str,
)
def test_a_type_that_delta_lacks_is_refused_with_a_cast(type_: pa.DataType, cast: str) -> None:
    with pytest.raises(PermanentError, match=f"amount.*Cast amount to .*{cast}"):
        delta_type(Column(name="amount", type=str(type_)))


def test_columns_that_differ_in_case_only_are_refused(store: Table) -> None:
    with pytest.raises(PermanentError, match="ID and Id|id and ID"):
        staged(store, "v1", count=2, extra={"ID": pa.array([1, 2])})
    assert store.manifest(DAY, "v1") is None


@pytest.mark.parametrize("type_", [pa.string(), pa.timestamp("us")], ids=str)
def test_a_later_version_may_bring_a_column(store: Table, folder: Path, type_: pa.DataType) -> None:
    yesterday = DAY - dt.timedelta(days=1)
    store.commit(staged(store, "v1", as_of=yesterday, count=4), PLANNED_AT)
    store.commit(staged(store, "v1", count=4), PLANNED_AT)
    values = pa.array(["a", "b", None, "d"] if type_ == pa.string() else [1, 2, None, 4], type_)
    v2 = staged(store, "v2", count=4, parts=1, extra={"segment": values})
    assert store.commit(v2, PLANNED_AT).replaced == "v1"
    assert store.read(DAY)["segment"].to_pylist() == values.to_pylist()
    assert "segment" not in store.read(DAY, "v1").column_names
    assert "segment" not in store.read(yesterday).column_names
    rows = DeltaTable(folder.as_uri()).to_pyarrow_table()
    assert rows["segment"].null_count == 5
    # A version without it may follow.
    store.commit(staged(store, "v3", count=4), PLANNED_AT)
    assert store.current(DAY).version == "v3"  # type: ignore[union-attr]


def test_a_column_of_another_type_is_refused_before_anything_is_staged(store: Table) -> None:
    store.commit(staged(store, "v1", count=2, extra={"plan": pa.array([1, 2])}), PLANNED_AT)
    with pytest.raises(PermanentError, match="plan is string here, plan is long in the table"):
        staged(store, "v2", count=2, extra={"plan": pa.array(["a", "b"])})
    assert store.manifest(DAY, "v2") is None
    assert store.current(DAY).version == "v1"  # type: ignore[union-attr]


def test_a_vacuum_hurts_neither_readers_nor_the_memory_of_versions(
    store: Table, folder: Path
) -> None:
    store.commit(staged(store, "v1"), PLANNED_AT)
    store.commit(staged(store, "v2"), PLANNED_AT)
    v3 = staged(store, "v3")
    listed = store.versions(DAY)
    # By the table's own retention a VACUUM takes nothing, not even what was only staged.
    assert DeltaTable(folder.as_uri()).vacuum(full=True, dry_run=False) == []
    assert store.read(DAY, "v1").num_rows == 30
    DeltaTable(folder.as_uri()).vacuum(
        0, dry_run=False, enforce_retention_duration=False, full=True
    )
    assert store.versions(DAY) == listed
    assert store.manifest(DAY, "v3") == v3
    assert store.read(DAY).num_rows == 30
    with pytest.raises(PermanentError, match="part 0 of version v1 .* is gone"):
        store.read(DAY, "v1")
    with pytest.raises(PermanentError, match="part 0 of version v3 is gone"):
        store.commit(v3, PLANNED_AT)


def forget_log(folder: Path) -> None:
    """What Delta's log clean-up leaves: the newest checkpoint and what comes after it."""
    DeltaTable(folder.as_uri()).create_checkpoint()
    log = folder / "_delta_log"
    newest = max(log.glob("*.checkpoint.parquet")).name.split(".")[0]
    for entry in log.glob("*.json"):
        if entry.stem < newest:
            entry.unlink()


def test_versions_outlast_the_clean_up_of_deltas_log(store: Table, folder: Path) -> None:
    for number in range(4):
        store.commit(staged(store, f"v{number}", count=20), PLANNED_AT)
    listed = store.versions(DAY)
    forget_log(folder)
    assert len(DeltaTable(folder.as_uri()).history()) == 1
    assert store.versions(DAY) == listed
    assert [store.read(DAY, v.version).num_rows for v in listed] == [20] * 4


def records(folder: Path) -> list[Path]:
    return sorted((folder / "_daybreak" / "commits").rglob("*.json"))


@pytest.mark.parametrize("log", ["whole", "cleaned up"])
def test_a_commit_whose_record_was_never_written_is_not_forgotten(
    store: Table, folder: Path, log: str
) -> None:
    for version in ("v1", "v2"):
        store.commit(staged(store, version), PLANNED_AT)
    listed, lost = store.versions(DAY), records(folder)[-1]
    content = lost.read_text()
    lost.unlink()
    if log == "cleaned up":
        store.commit(staged(store, "v1", as_of=DAY + dt.timedelta(days=1)), PLANNED_AT)
        forget_log(folder)
    assert [(v.version, v.current) for v in store.versions(DAY)] == [("v1", False), ("v2", True)]
    store.commit(staged(store, "v3"), PLANNED_AT + dt.timedelta(hours=1))
    assert [(v.version, v.current) for v in store.versions(DAY)] == [
        ("v1", False),
        ("v2", False),
        ("v3", True),
    ]
    if log == "whole":
        assert lost.read_text() == content
        v3 = store.versions(DAY)[-1]
        assert store.versions(DAY)[:2] == [
            listed[0],
            listed[1].model_copy(update={"current": False, "superseded_at": v3.committed_at}),
        ]


def test_deltas_history_tells_which_version_each_commit_brought(store: Table, folder: Path) -> None:
    store.commit(staged(store, "v1"), PLANNED_AT)
    (entry, _created) = DeltaTable(folder.as_uri()).history()
    told = json.loads(entry["userMetadata"])
    assert (told["version"], told["run_id"]) == ("v1", "run-of-v1")
    assert records(folder)[0].read_text() == json.dumps(told, indent=2, ensure_ascii=False)


def test_a_commit_that_the_storage_took_and_then_denied_counts_as_made(
    store: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit(staged(store, "v1"), PLANNED_AT)
    real = delta_log.swap

    def denied(*args: Any) -> None:
        real(*args)
        raise CommitFailedError("the connection was lost after the request was sent")

    monkeypatch.setattr(delta_log, "swap", denied)
    published = store.commit(staged(store, "v2"), PLANNED_AT)
    assert (published.outcome, published.replaced) == ("published", "v1")
    assert [version.version for version in store.versions(DAY)] == ["v1", "v2"]


def test_a_writer_that_is_always_overtaken_gives_up_with_the_numbers(
    store: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit(staged(store, "v1"), PLANNED_AT)
    v2 = staged(store, "v2")
    monkeypatch.setattr(delta, "COMMIT_ATTEMPTS", 3)
    monkeypatch.setattr(delta, "LONGEST_WAIT_SECONDS", 0.0)
    real, rival, days = delta_log.swap, Table(store.root), iter(range(1, 9))

    def overtaken(*args: Any) -> None:
        with monkeypatch.context() as undisturbed:
            undisturbed.setattr(delta_log, "swap", real)
            other = staged(rival, "v1", as_of=DAY + dt.timedelta(days=next(days)))
            rival.commit(other, PLANNED_AT)
        real(*args)

    monkeypatch.setattr(delta_log, "swap", overtaken)
    with pytest.raises(TransientError, match="all 3 commits of version v2"):
        store.commit(v2, PLANNED_AT)
    assert store.current(DAY).version == "v1"  # type: ignore[union-attr]


def test_the_log_is_checkpointed_without_being_asked(store: Table, folder: Path) -> None:
    for number in range(45):
        store.commit(
            staged(store, "v1", as_of=DAY + dt.timedelta(days=number), count=2, parts=1), PLANNED_AT
        )
    assert len(list((folder / "_delta_log").glob("*.checkpoint.parquet"))) == 2


def killed_at(root: str, moment: str) -> None:
    """Stage and commit v2, and die by SIGKILL just before or just after the move itself."""
    real = delta_log.swap

    def dying(*args: Any) -> None:
        if moment == "after":
            real(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    delta_log.swap = dying
    store = Table(root)
    store.commit(staged(store, "v2", count=33), PLANNED_AT)


@pytest.mark.parametrize(("moment", "seen"), [("before", ["v1"]), ("after", ["v1", "v2"])])
def test_repeating_a_publish_that_was_killed_around_the_move_ends_well(
    store: Table, moment: str, seen: list[str]
) -> None:
    store.commit(staged(store, "v1"), PLANNED_AT)
    writer = processes.Process(target=killed_at, args=(store.root, moment))
    writer.start()
    writer.join(120)
    assert writer.exitcode == -signal.SIGKILL
    versions = store.versions(DAY)
    assert [version.version for version in versions] == seen
    assert store.current(DAY) == versions[-1]
    again = store.commit(staged(store, "v2", count=33), PLANNED_AT)
    assert again.outcome == ("published" if moment == "before" else "unchanged")
    assert store.read(DAY).num_rows == 33
    assert [version.version for version in store.versions(DAY)] == ["v1", "v2"]


def test_a_commit_is_known_by_its_record_however_old_the_look_at_the_table_is(
    store: Table,
) -> None:
    first = staged(store, "v1")
    store.commit(first, PLANNED_AT)
    seen = delta_log.load(store.root)
    assert seen is not None
    store.commit(staged(store, "v2"), PLANNED_AT + dt.timedelta(hours=1))
    commit = store._current_commit(seen, DAY)
    assert commit is not None
    # Not the time of scoring, which stands in where nothing else is known.
    assert (commit.version, commit.planned_at, commit.table_version) == ("v1", PLANNED_AT, 1)
