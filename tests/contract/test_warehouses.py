"""What every warehouse promises, and what DuckDB's file does while others write it."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from include import storage
from include.config import Warehouse as WarehouseConfig
from include.connections import Connection
from include.errors import PermanentError, TransientError
from include.run import Run
from include.warehouses import MEMBERS, Warehouse, open_warehouse
from include.warehouses import duckdb as member
from include.warehouses.duckdb import connect
from include.workspace import Workspace
from tests.fakesnow_account import CONNECTION, Account
from tests.spark_cluster import (
    connect_server,
    kept_session,
    on_cluster,
    on_this_machine,
    spark_cluster,
)
from tests.world import World

pytest_plugins = ("tests.fakesnow_server",)

DAY = {"as_of": dt.date(2024, 5, 1), "partition_start": dt.date(2024, 5, 1)}
QUERY = """
SELECT id, city, temp, seen_at, $as_of AS day  -- a comment, with a ; in it
FROM visits
WHERE day = $as_of
-- the end
"""
DUCKDB_VISITS = """
CREATE TABLE visits AS SELECT
  (7919 * i) % 1000 AS id, 'city ' || i % 3 AS city, i / 7 AS temp,
  TIMESTAMPTZ '2024-05-01 12:00:00+02' + i * INTERVAL 1 MINUTE AS seen_at,
  DATE '2024-05-01' + (i % 2)::INTEGER AS day
FROM range(1000) AS r(i)"""
# The same rows; names are not quoted, so that Snowflake has them in upper case.
SNOWFLAKE_VISITS = """
CREATE TABLE visits AS SELECT
  (7919 * i) % 1000 AS id, 'city ' || (i % 3) AS city, i / 7 AS temp,
  DATEADD(minute, i, '2024-05-01 10:00:00'::TIMESTAMP_NTZ)::TIMESTAMP_TZ AS seen_at,
  DATEADD(day, i % 2, '2024-05-01'::DATE)::DATE AS day
FROM (
  SELECT ROW_NUMBER() OVER (ORDER BY 1) - 1 AS i FROM TABLE(GENERATOR(ROWCOUNT => 1000))
) r"""

Open = Callable[[], Warehouse]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a warehouse.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(DUCKDB_VISITS)
    return path


@pytest.fixture(scope="module")
def lake_session() -> Iterator[None]:
    """Spark on this machine, started once; the warehouse finds it and leaves it open.

    Few rows stay spread over several partitions, as many rows would be.
    """
    conf = {
        "spark.sql.shuffle.partitions": "5",
        "spark.sql.adaptive.coalescePartitions.enabled": "false",
    }
    with kept_session(on_this_machine(conf=conf)):
        yield


def _lake(file: Path) -> dict[str, object]:
    """A Spark connection to the tables of a DuckDB file, as Parquet beside it."""
    parquet = file.with_suffix(".parquet")
    with duckdb.connect(str(file)) as connection:
        connection.execute(f"COPY visits TO '{parquet}' (FORMAT parquet)")
    tables = {"visits": str(parquet)}
    return {"conn_type": "spark", "host": "local[2]", "extra": {"tables": tables}}


@pytest.fixture(params=MEMBERS)
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens a warehouse that has the table `visits`, through the connection of its kind."""
    name = CONNECTION
    if request.param == "duckdb":
        name, path = "duckdb_test", request.getfixturevalue("file")
        monkeypatch.setenv(
            "AIRFLOW_CONN_DUCKDB_TEST", json.dumps({"conn_type": "duckdb", "host": str(path)})
        )
    elif request.param == "spark":
        request.getfixturevalue("lake_session")
        name, lake = "lake_test", _lake(request.getfixturevalue("file"))
        monkeypatch.setenv("AIRFLOW_CONN_LAKE_TEST", json.dumps(lake))
    else:
        account: Account = request.getfixturevalue("snowflake")
        account.session().run(SNOWFLAKE_VISITS)
    return lambda: open_warehouse(WarehouseConfig(kind=request.param, connection=name))


def _connection(path: Path) -> Connection:
    return Connection(id="w", kind="duckdb", host=str(path))


def test_rows_stream_in_the_order_of_the_key_with_values_bound(opened: Open) -> None:
    with opened() as warehouse:
        table = warehouse.read(QUERY, DAY, ["city", "id"]).read_all()
    assert table.num_rows == 500
    keys = list(zip(table["city"].to_pylist(), table["id"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    assert table.column_names == ["id", "city", "temp", "seen_at", "day"]
    assert set(table["day"].to_pylist()) == {dt.date(2024, 5, 1)}
    assert table.schema.field("id").type == pa.int64()
    assert table.schema.field("seen_at").type == pa.timestamp("us", tz="UTC")
    seen = dict(zip(table["id"].to_pylist(), table["seen_at"].to_pylist(), strict=True))
    assert seen[0] == dt.datetime(2024, 5, 1, 10, tzinfo=dt.UTC)


def test_the_same_rows_arrive_whatever_the_warehouse(opened: Open, file: Path) -> None:
    with opened() as warehouse:
        rows = warehouse.read(QUERY, DAY, ["id"]).read_all()
    with connect(_connection(file)) as reference:
        expected = reference.read(QUERY, DAY, ["id"]).read_all()
    assert rows.schema.names == expected.schema.names
    for name in ("id", "city", "seen_at", "day"):
        assert rows[name].to_pylist() == expected[name].to_pylist()
    assert rows["temp"].cast(pa.float64()).to_pylist() == pytest.approx(
        expected["temp"].cast(pa.float64()).to_pylist()
    )


def test_a_value_is_a_value_and_never_a_piece_of_the_query(opened: Open) -> None:
    hostile: dict[str, Any] = {"as_of": "2024-05-01'; DROP TABLE visits; --"}
    with opened() as warehouse:
        query = "SELECT id FROM visits WHERE city = $as_of"
        assert warehouse.read(query, hostile, ["id"]).read_all().num_rows == 0
        assert warehouse.read("SELECT id FROM visits", {}, ["id"]).read_all().num_rows == 1000


def test_a_query_without_rows_gives_its_columns(opened: Open) -> None:
    with opened() as warehouse:
        rows = warehouse.read("SELECT id, city FROM visits WHERE id < 0;", DAY, ["id"]).read_all()
    assert (rows.num_rows, rows.column_names) == (0, ["id", "city"])
    assert rows.schema.types == [pa.int64(), pa.string()]


def test_columns_have_the_types_that_the_query_declares_with_rows_and_without(opened: Open) -> None:
    query = """
        SELECT id, CAST(id AS DECIMAL(10, 2)) AS amount, CAST(temp AS DOUBLE) AS temp, day,
            CAST(NULL AS STRING) AS nothing, id > 500 AS large
        FROM visits WHERE id < """
    expected = pa.schema(
        [
            ("id", pa.int64()),
            ("amount", pa.decimal128(10, 2)),
            ("temp", pa.float64()),
            ("day", pa.date32()),
            ("nothing", pa.string()),
            ("large", pa.bool_()),
        ]
    )
    for limit, rows in (("1000", 1000), ("0", 0)):
        with opened() as warehouse:
            reader = warehouse.read(query + limit, {}, ["id"])
            assert reader.schema.remove_metadata() == expected
            table = reader.read_all()
        assert table.num_rows == rows
        assert table.schema.remove_metadata() == expected


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "SELECT id, nope FROM visits",
            '(?i)(column "nope" not found|column.*`nope` cannot be resolved).*features.sql',
        ),
        ("SELECT id\nFROM visits\nWHERE city == = 3", "(?i)LINE 3"),
        ("SELECT id FROM absent", "(?i)table.*absent.*(does not exist|cannot be found)"),
        ("SELECT id FROM visits; SELECT 1", "holds (2 statements|more than one statement)"),
        ("SELECT id FROM visits WHERE day = $tomorrow", r"asks for \$tomorrow"),
        ("SELECT city FROM visits", r"does not select \['id'\], of the key"),
        ("SELECT id, city, id FROM visits", "selects id more than once"),
        (
            "SELECT id, CAST(city AS INTEGER) AS n FROM visits",
            "Could not convert string|cannot be cast",
        ),
    ],
)
def test_a_query_that_cannot_run_says_why_and_no_retry_is_advised(
    opened: Open, query: str, message: str
) -> None:
    with pytest.raises(PermanentError, match=message), opened() as warehouse:
        warehouse.read(query, DAY, ["id"]).read_all()


def test_a_file_that_is_absent_or_no_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"no DuckDB file .*none\.duckdb"):
        connect(_connection(tmp_path / "none.duckdb"))
    wrong = tmp_path / "wrong.duckdb"
    wrong.write_bytes(b"no database" * 1000)
    with pytest.raises(PermanentError, match=r"wrong\.duckdb is no DuckDB file"):
        connect(_connection(wrong))


WRITER = """
import sys, time, duckdb
connection = duckdb.connect(sys.argv[1])
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""


def _writer(file: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_short_load_is_waited_for(file: Path) -> None:
    with _writer(file, 0.6), connect(_connection(file)) as warehouse:
        assert warehouse.read(QUERY, DAY, ["id"]).read_all().num_rows == 500


def test_a_long_load_is_a_transient_error_that_names_the_file_and_the_writer(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "OPEN_ATTEMPTS", 2)
    with _writer(file, 60) as writer:
        try:
            with pytest.raises(TransientError, match=rf"locked by .*PID {writer.pid}"):
                connect(_connection(file))
        finally:
            writer.kill()


@pytest.fixture
def lake_of(lake_session: None, tiny: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Makes `tiny` read its rows from a lake; `extra` goes into the connection."""
    from tasks.plan import plan

    lake = tiny.home / "lake"
    tiny.execute(f"COPY accounts TO '{lake}' (FORMAT parquet, PARTITION_BY (event_date))")

    def planned(**extra: Any) -> Run:
        made = {"conn_type": "spark", "host": "local[2]",
                "extra": {"tables": {"accounts": str(lake)}} | extra}  # fmt: skip
        monkeypatch.setenv("AIRFLOW_CONN_LAKE_TEST", json.dumps(made))
        tiny.configure({"warehouse": {"kind": "spark", "connection": "lake_test"}})
        return plan(tiny.request(run=f"lake {extra}"))

    return planned


def test_a_lake_and_a_database_with_the_same_rows_give_the_same_snapshot(
    lake_of: Callable[..., Run], tiny: World
) -> None:
    from tasks.extract import extract
    from tasks.plan import plan

    tiny.configure({"snapshot": {"part_rows": 7}})
    first = extract(plan(tiny.request(run="database")))
    place = Workspace(tiny.workspace, tiny.name).snapshots(tiny.day)
    files = {entry.uri for entry in storage.entries(place)}
    for who in ("executors", "driver"):
        found = extract(lake_of(parts=who))
        assert (found.digest, found.uri, found.reused) == (first.digest, first.uri, True), who
        assert {entry.uri for entry in storage.entries(place)} == files, who


@pytest.mark.skipif("DAYBREAK_LONG_TESTS" not in os.environ, reason="long: make test-all")
@pytest.mark.parametrize("kind", ["a cluster", "Spark Connect"])
def test_the_executors_of_a_cluster_write_the_same_snapshot(
    tiny: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Of one whose machines share this disk, which its connection says."""
    from tasks.extract import extract
    from tasks.plan import plan

    tiny.configure({"snapshot": {"part_rows": 7}})
    first = extract(plan(tiny.request(run="database")))
    lake = tiny.home / "lake"
    tiny.execute(f"COPY accounts TO '{lake}' (FORMAT parquet, PARTITION_BY (event_date))")
    tiny.configure({"warehouse": {"kind": "spark", "connection": "lake_test"}})
    spread = {
        "spark.sql.shuffle.partitions": "5",
        "spark.sql.adaptive.coalescePartitions.enabled": "false",
    }
    with ExitStack() as stack:
        if kind == "a cluster":
            engine = on_cluster(stack.enter_context(spark_cluster(tmp_path)), conf=spread)
        else:
            found = stack.enter_context(connect_server(tmp_path))
            engine = found.model_copy(update={"conf": spread})
        extra = {
            "tables": {"accounts": str(lake)},
            "conf": engine.conf,
            "packaging": engine.packaging.model_dump(exclude_defaults=True),
            "parts": "executors",
        }
        made = {"conn_type": "spark", "host": engine.master, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_LAKE_TEST", json.dumps(made))
        found_again = extract(plan(tiny.request(run="lake")))
    assert (found_again.digest, found_again.reused) == (first.digest, True)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        # With parts of seven rows the second (1003, 'store') is the first row of a part.
        (
            "SELECT * FROM accounts WHERE event_date = $as_of UNION ALL "
            "SELECT * FROM accounts WHERE event_date = $as_of AND account_id = 1003",
            "account_id=1003, channel='store'. stands twice",
        ),
        (
            "SELECT *, account_id / (account_id - 1149) AS n FROM accounts "
            "WHERE event_date = $as_of",
            "DIVIDE_BY_ZERO",
        ),
        ("SELECT * FROM accounts WHERE event_date < $as_of - 999", "the query gave no rows"),
    ],
)
def test_a_lakes_rows_that_make_no_snapshot_leave_none(
    lake_of: Callable[..., Run], tiny: World, query: str, message: str
) -> None:
    from tasks.extract import extract

    tiny.configure({"snapshot": {"part_rows": 7}})
    (tiny.folder / "features.sql").write_text(query, "utf-8")
    with pytest.raises(PermanentError, match=message):
        extract(lake_of())
    place = Workspace(tiny.workspace, tiny.name).snapshots(tiny.day)
    assert [entry.uri for entry in storage.entries(place)] == []


def test_a_delta_table_of_a_lake_is_read_without_its_jar(
    lake_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import deltalake

    path = str(tmp_path / "visits")
    for day in (1, 2):
        rows = pa.table({"id": [day, 10 + day], "day": [dt.date(2024, 5, day)] * 2})
        deltalake.write_deltalake(path, rows, mode="append", partition_by=["day"])
    deltalake.DeltaTable(path).delete("id = 1")  # its old file is there still, and not read
    extra = {"tables": {"visits": {"path": path, "format": "delta"}}}
    monkeypatch.setenv(
        "AIRFLOW_CONN_LAKE_TEST",
        json.dumps({"conn_type": "spark", "host": "local[2]", "extra": extra}),
    )
    with open_warehouse(WarehouseConfig(kind="spark", connection="lake_test")) as warehouse:
        query = "SELECT id, day FROM visits WHERE day = $as_of"
        found = warehouse.read(query, DAY, ["id"]).read_all()
    assert found.to_pylist() == [{"id": 11, "day": dt.date(2024, 5, 1)}]
