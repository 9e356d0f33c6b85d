"""What the tables in Snowflake promise beyond what contract/test_stores.py asks of every store."""

from __future__ import annotations

import datetime as dt
import decimal
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from include import storage
from include.config import Predictions
from include.errors import CorruptData, PermanentError, TransientError
from include.run import Column
from include.stores import snowflake as module
from include.stores import snowflake_lock, snowflake_read
from include.stores.snowflake import Table, open_table
from include.stores.snowflake_load import sweep, upload
from include.stores.snowflake_tables import Names, snowflake_type
from tests.fakesnow_account import CONNECTION, Account
from tests.staged_versions import DAY, PLANNED_AT, rows_of, stage, staged, write_version

pytest_plugins = ("tests.fakesnow_server",)

NAMES = Names("CHURN")
LATER = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)  # than every commit that a test makes
Opened = Callable[..., Table]


def columns_of(rows: pa.Table) -> list[Column]:
    return [Column(name=field.name, type=str(field.type)) for field in rows.schema]


@pytest.fixture
def opened(snowflake: Account, tmp_path: Path) -> Opened:
    """Opens the table `churn`, set up for these further columns."""

    def table(extra: dict[str, pa.Array] | None = None, **more: Any) -> Table:
        config = Predictions(kind="snowflake", connection=CONNECTION, table="churn", **more)
        opened = open_table(config, tmp_path.as_uri())
        count = len(next(iter(extra.values()))) if extra else 0
        opened.set_up(columns_of(rows_of(count, extra=extra)))
        return opened

    return table


def test_sql_readers_see_the_current_versions_in_one_view(
    opened: Opened, snowflake: Account
) -> None:
    store = opened()
    store.commit(staged(store, "v1"), PLANNED_AT)
    store.commit(staged(store, "v2", count=40), PLANNED_AT)
    store.commit(staged(store, "v1", as_of=DAY + dt.timedelta(days=1), count=10), PLANNED_AT)
    found = snowflake.session().run(
        "SELECT as_of, version, COUNT(*), MIN(id) FROM scores.churn_current "
        "GROUP BY as_of, version ORDER BY as_of"
    )
    assert found == [(DAY, "v2", 40, 0), (DAY + dt.timedelta(days=1), "v1", 10, 0)]


def test_a_run_needs_no_right_to_create_anything(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    asked: list[str] = []
    real = store._session._cursor

    def noted(sql: str, *args: Any, **more: Any) -> Any:
        asked.append(sql)
        return real(sql, *args, **more)

    monkeypatch.setattr(store._session, "_cursor", noted)
    store.commit(staged(store, "v1"), PLANNED_AT)
    store.commit(staged(store, "v2"), PLANNED_AT)
    store.delete([(DAY, "v1")], "old", LATER)
    assert {sql.split()[0] for sql in asked} == {
        *("BEGIN", "COMMIT", "SELECT", "INSERT", "UPDATE", "DELETE", "COPY"),
    }


def test_setting_up_again_keeps_every_row_and_adds_what_is_new(
    opened: Opened, snowflake: Account
) -> None:
    store = opened()
    store.commit(staged(store, "v1", count=4), PLANNED_AT)
    segment = pa.array(["a", "b", None, "d"])
    with pytest.raises(PermanentError, match="CHURN_ROWS has no column segment.*daybreak init"):
        staged(store, "v2", count=4, parts=1, extra={"segment": segment})
    store = opened({"segment": segment})
    store.commit(staged(store, "v2", count=4, parts=1, extra={"segment": segment}), PLANNED_AT)
    assert store.read(DAY)["segment"].to_pylist() == segment.to_pylist()
    assert "segment" not in store.read(DAY, "v1").column_names
    seen = snowflake.session().run("SELECT segment FROM churn_current ORDER BY id")
    assert [value for (value,) in seen] == segment.to_pylist()
    # A version without it may follow, and the lock's row is still the only one.
    store.commit(staged(store, "v3", count=4), PLANNED_AT)
    assert store.current(DAY).version == "v3"  # type: ignore[union-attr]
    assert snowflake.session().run("SELECT COUNT(*) FROM churn_lock") == [(1,)]


def test_the_statements_of_the_set_up_can_be_printed_for_somebody_else_to_run(
    snowflake: Account, tmp_path: Path
) -> None:
    config = Predictions(
        kind="snowflake", connection=CONNECTION, table="ml.scores.churn", readers=("analyst",)
    )
    store = open_table(config, tmp_path.as_uri())
    statements = store.set_up(columns_of(rows_of(0)), run=False).statements
    assert statements[-1] == "GRANT SELECT ON VIEW ML.SCORES.CHURN_CURRENT TO ROLE analyst"
    assert any('"SCORED_AT" TIMESTAMP_TZ(6)' in statement for statement in statements)
    with pytest.raises(PermanentError, match=r"(?i)not exist.*daybreak init"):
        store.current(DAY)


def test_a_grant_that_the_server_does_not_support_is_said_and_the_rest_is_set_up(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    store = opened(readers=("analyst", "auditor"))
    assert caplog.text.count("does not support GRANT SELECT ON") == 2
    store.commit(staged(store, "v1"), PLANNED_AT)


@pytest.mark.parametrize("rows", [0, 2])
def test_without_its_one_row_the_lock_lets_nobody_write(
    opened: Opened, snowflake: Account, rows: int
) -> None:
    store = opened()
    session = snowflake.session()
    session.run("DELETE FROM churn_lock" if not rows else "INSERT INTO churn_lock SELECT 7")
    with pytest.raises(CorruptData, match=f"CHURN_LOCK has {rows} rows and not one"):
        staged(store, "v1")
    assert store.manifest(DAY, "v1") is None


def test_a_date_with_two_current_versions_is_no_date_to_read(
    opened: Opened, snowflake: Account
) -> None:
    store = opened()
    store.commit(staged(store, "v1"), PLANNED_AT)
    snowflake.session().run("INSERT INTO churn_pointer SELECT * FROM churn_pointer")
    with pytest.raises(CorruptData, match="2 current versions at once"):
        store.current(DAY)


def test_rows_that_somebody_deleted_are_missed(opened: Opened, snowflake: Account) -> None:
    store = opened()
    v1 = staged(store, "v1")
    store.commit(v1, PLANNED_AT)
    snowflake.session().run("DELETE FROM churn_rows WHERE id = 3")
    with pytest.raises(CorruptData, match="v1 of 2026-03-01 has 30 rows, and 29 are in"):
        store.read(DAY)
    # Made current again, the version is loaded again.
    store.commit(staged(store, "v2"), PLANNED_AT)
    assert store.commit(v1, PLANNED_AT).replaced == "v2"
    assert store.read(DAY).num_rows == 30


def test_a_row_is_found_by_its_key_as_readers_see_it(opened: Opened, snowflake: Account) -> None:
    moments = [dt.datetime(2026, 1, day, 5, 30, 0, 7, tzinfo=dt.UTC) for day in (1, 2, 3)]
    names = ["Zürich '", "?", "x"]
    extra = {"name": pa.array(names), "moment": pa.array(moments, pa.timestamp("us", "UTC"))}
    store = opened(extra)
    v1 = staged(store, "v1", count=3, parts=1, extra=extra)
    store.commit(v1, PLANNED_AT)
    snowflake.session().run("UPDATE churn_rows SET score = 0.125 WHERE id = 1")
    for key in ({"id": 1}, {"name": "?"}, {"id": 1, "name": "?", "moment": moments[1]}):
        (row,) = store.rows_of(v1, key).to_pylist()
        assert (row["id"], row["name"], row["moment"]) == (1, "?", moments[1])
        assert list(row) == [column.name for column in v1.columns]
        assert row["score"] == 0.125
    assert store.rows_of(v1, {"id": 7}).num_rows == 0


def test_who_reads_a_version_while_it_is_replaced_and_deleted_gets_the_one_after_it(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where retention keeps none but the current version: its rows go under the reader."""
    store, other = opened(), opened()
    store.commit(staged(store, "v1"), PLANNED_AT)
    real = snowflake_read.read_rows

    def slow(*args: Any) -> pa.Table:
        monkeypatch.setattr(module, "read_rows", real)
        other.commit(staged(other, "v2", count=40), PLANNED_AT)
        assert other.delete([(DAY, "v1")], "too old", LATER) == [(DAY, "v1")]
        return real(*args)

    monkeypatch.setattr(module, "read_rows", slow)
    rows = store.read(DAY)
    assert (rows.num_rows, set(rows["version"].to_pylist())) == (40, {"v2"})
    with pytest.raises(PermanentError, match="v1 of 2026-03-01 were deleted"):
        store.read(DAY, "v1")


def test_a_writer_that_is_refused_more_than_a_thousand_times_goes_on(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    monkeypatch.setattr(snowflake_lock, "LONGEST_WAIT_SECONDS", 0.0)
    refusals = iter(range(1100))

    def refused() -> None:
        if next(refusals, None) is not None:
            raise TransientError("somebody else has locked it")

    assert store._lock.write("count", lambda number: number, refused) > 0


def test_making_an_older_version_current_again_loads_nothing(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    v1 = staged(store, "v1")
    store.commit(v1, PLANNED_AT)
    store.commit(staged(store, "v2"), PLANNED_AT)

    def loaded(*_: Any) -> int:
        raise AssertionError("rows that are there were loaded again")

    monkeypatch.setattr(module, "upload", loaded)
    monkeypatch.setattr(module, "load", loaded)
    assert store.commit(v1, PLANNED_AT).replaced == "v2"


def test_other_parts_of_a_version_that_was_deleted_take_the_place_of_its_rows(
    opened: Opened,
) -> None:
    store = opened()
    store.commit(staged(store, "v1"), PLANNED_AT)
    store.commit(staged(store, "v2"), PLANNED_AT)
    store.delete([(DAY, "v1")], "old", LATER)
    other = write_version(store, "v1", rows_of(30, label="run-of-v1", scores=[0.25] * 30))
    stage(store, other)
    store.commit(other, PLANNED_AT)
    assert set(store.read(DAY)["score"].to_pylist()) == {0.25}


TYPES: list[tuple[list[Any], pa.DataType, pa.DataType | None]] = [
    ([1, -1], pa.int8(), None),
    ([2**31], pa.uint32(), None),
    ([2**64 - 1], pa.uint64(), None),
    ([-(2**63)], pa.int64(), None),
    ([0.5], pa.float32(), None),
    ([0.1], pa.float64(), None),
    ([True, False], pa.bool_(), None),
    (["Zürich '", ""], pa.string(), None),
    (["Zürich"], pa.large_string(), pa.string()),
    ([b"\x00\xff"], pa.binary(), None),
    ([dt.date(1969, 12, 31)], pa.date32(), None),
    ([1_767_229_323_000_004], pa.timestamp("us"), None),
    ([dt.datetime(2026, 1, 1, tzinfo=dt.UTC)], pa.timestamp("us", "UTC"), None),
    (
        [dt.datetime(2026, 1, 1, tzinfo=dt.UTC)],
        pa.timestamp("us", "Europe/Berlin"),
        pa.timestamp("us", "UTC"),
    ),
    ([decimal.Decimal("12345678.91")], pa.decimal128(10, 2), None),
]


def test_pass_through_types_come_back_as_they_went_in(opened: Opened) -> None:
    extra = {
        f"c{number}": pa.array([*values, None, None][:3], type_)
        for number, (values, type_, _) in enumerate(TYPES)
    }
    store = opened(extra)
    store.commit(staged(store, "v1", count=3, parts=1, extra=extra), PLANNED_AT)
    rows = store.read(DAY)
    for name, (_, type_, back) in zip(extra, TYPES, strict=True):
        expected = extra[name].cast(back or type_)
        assert rows[name].type == expected.type
        assert rows[name].to_pylist() == expected.to_pylist(), type_


@pytest.mark.parametrize(
    ("type_", "cast"),
    [
        (pa.time64("us"), "VARCHAR"),
        (pa.timestamp("ns"), "microseconds"),
        (pa.list_(pa.int64()), "VARCHAR"),
        (pa.null(), "the type that the column is meant to have"),
        (pa.decimal256(60, 2), "VARCHAR"),
    ],
    ids=str,
)
def test_a_type_that_has_no_place_is_refused_with_a_cast(type_: pa.DataType, cast: str) -> None:
    with pytest.raises(PermanentError, match=f"amount.*Cast amount to .*{cast}"):
        snowflake_type(Column(name="amount", type=str(type_)))


def test_a_column_of_another_type_is_refused_before_anything_is_staged(opened: Opened) -> None:
    numbers = {"plan": pa.array([1, 2])}
    store = opened(numbers)
    with pytest.raises(PermanentError, match="plan is VARCHAR here and FIXED.* in the table"):
        staged(store, "v2", count=2, parts=1, extra={"plan": pa.array(["a", "b"])})
    assert store.manifest(DAY, "v2") is None


def test_columns_that_differ_in_case_only_are_refused(opened: Opened) -> None:
    store = opened()
    with pytest.raises(PermanentError, match="ID and id differ|id and ID differ"):
        staged(store, "v1", count=2, parts=1, extra={"ID": pa.array([1, 2])})


def test_a_commit_that_the_server_took_and_whose_answer_was_lost_counts_as_made(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    store.commit(staged(store, "v1"), PLANNED_AT)
    v2 = staged(store, "v2")
    session, real, lost = store._session, store._session.run, list[str]()

    def run(sql: str, *args: Any, **more: Any) -> Any:
        answer = real(sql, *args, **more)
        if sql == "COMMIT" and not lost:
            lost.append(sql)
            session.close()
            raise TransientError("the connection was lost after the request was sent")
        return answer

    monkeypatch.setattr(session, "run", run)
    published = store.commit(v2, PLANNED_AT)
    assert (published.outcome, published.replaced) == ("published", "v1")
    assert [version.version for version in store.versions(DAY)] == ["v1", "v2"]


def test_a_lock_that_a_dead_writer_holds_is_named_with_the_way_to_free_it(
    opened: Opened, snowflake: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    v1 = staged(store, "v1")
    monkeypatch.setattr(snowflake_lock, "WRITE_SECONDS", 0.2)
    other = snowflake.session()
    with other.transaction():
        other.changed("UPDATE churn_lock SET n = n + 1")
        with pytest.raises(TransientError, match=r"has locked.*SYSTEM\$ABORT_TRANSACTION"):
            store.commit(v1, PLANNED_AT)
    assert store.commit(v1, PLANNED_AT).outcome == "published"


def test_uploads_of_writers_that_died_are_swept_from_the_stage(
    opened: Opened, snowflake: Account, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened()
    store.commit(staged(store, "v1"), PLANNED_AT)
    session = snowflake.session()
    assert session.run("LIST @churn_stage") == []  # a load leaves nothing there
    upload(session, NAMES, staged(store, "v2"))
    assert sweep(session, NAMES, dt.datetime(2020, 1, 1, tzinfo=dt.UTC)) == 0
    # The emulator has no REMOVE: what is left to see here is which uploads it is asked for.
    assert sweep(session, NAMES, dt.datetime(2100, 1, 1, tzinfo=dt.UTC)) == 0
    assert "does not support REMOVE @CHURN_STAGE/2026-03-01/v2/" in caplog.text
    store.upkeep()


def test_a_deletion_that_was_begun_holds_back_the_version_until_it_is_done(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    v1 = staged(store, "v1")
    store.commit(v1, PLANNED_AT)
    store.commit(staged(store, "v2"), PLANNED_AT)
    with monkeypatch.context() as killed:

        def died(uris: list[str]) -> None:
            raise KeyboardInterrupt

        killed.setattr(storage, "delete", died)
        with pytest.raises(KeyboardInterrupt):
            store.delete([(DAY, "v1")], "old", LATER)
    assert [one.version for one in store.stored() if one.deleting] == ["v1"]
    for attempt in (lambda: store.stage(v1), lambda: store.commit(v1, PLANNED_AT)):
        with pytest.raises(TransientError, match="v1 of 2026-03-01 is being deleted"):
            attempt()
    assert store.delete([(DAY, "v1")], "old", LATER) == [(DAY, "v1")]
    assert [one.version for one in store.stored()] == ["v2"]


# What an account does and the emulator does not. Each is expected to fail there, and only there.


def emulator(lacks: str) -> pytest.MarkDecorator:
    return pytest.mark.xfail(strict=True, reason=f"fakesnow {lacks}", raises=AssertionError)


@emulator("has no roles: GRANT is refused as unknown")
def test_the_readers_of_the_view_are_granted(opened: Opened, snowflake: Account) -> None:
    store = opened()
    done = store.set_up(columns_of(rows_of(0)))
    assert done.left_out == ()
    store = open_table(
        Predictions(kind="snowflake", connection=CONNECTION, table="churn", readers=("analyst",)),
        store.root,
    )
    assert store.set_up(columns_of(rows_of(0))).left_out == ()


@emulator("has no REMOVE: files stay in the stage")
def test_the_stage_is_empty_after_the_sweep(opened: Opened, snowflake: Account) -> None:
    store = opened()
    session = snowflake.session()
    upload(session, NAMES, staged(store, "v1"))
    sweep(session, NAMES, dt.datetime(2100, 1, 1, tzinfo=dt.UTC))
    assert session.run("LIST @churn_stage") == []


@emulator("fails a writer that meets another one's lock, where Snowflake lets it wait")
def test_a_writer_waits_for_the_lock_and_does_not_fail(opened: Opened, snowflake: Account) -> None:
    opened()
    first, second, failed = snowflake.session(), snowflake.session(), list[Exception]()

    def write() -> None:
        try:
            second.changed("UPDATE churn_lock SET n = n + 1")
        except TransientError as error:
            failed.append(error)

    with first.transaction():
        first.changed("UPDATE churn_lock SET n = n + 1")
        other = threading.Thread(target=write)
        other.start()
        other.join(2)
    other.join(60)
    assert failed == []


@emulator("takes the session's parameters and forgets them")
@pytest.mark.parametrize("name", ["QUERY_TAG", "STATEMENT_TIMEOUT_IN_SECONDS", "LOCK_TIMEOUT"])
def test_the_session_has_its_tag_and_its_timeouts(snowflake: Account, name: str) -> None:
    try:
        found = snowflake.session().run(f"SHOW PARAMETERS LIKE '{name}' IN SESSION")
    except PermanentError as error:
        raise AssertionError(str(error)) from error
    assert found and found[0][1] not in ("", "0")


@emulator("takes a clustering key and forgets it")
def test_the_rows_are_clustered_by_date(opened: Opened, snowflake: Account) -> None:
    opened()
    try:
        ((found,),) = snowflake.session().run(
            "SELECT clustering_key FROM information_schema.tables "
            "WHERE table_schema = 'SCORES' AND table_name = 'CHURN_ROWS'"
        )
    except PermanentError as error:
        raise AssertionError(str(error)) from error
    assert found == "LINEAR(AS_OF)"
