"""What every warehouse promises; DuckDB runs against a real file, with real writers beside it."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from include.connections import Connection
from include.errors import PermanentError, TransientError
from include.warehouses import duckdb as member
from include.warehouses.duckdb import connect

DAY = {"as_of": dt.date(2024, 5, 1), "partition_start": dt.date(2024, 5, 1)}
QUERY = """
SELECT id, city, temp, seen_at, $as_of AS day  -- a comment, with a ; in it
FROM visits
WHERE day = $as_of
-- the end
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a warehouse.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            """CREATE TABLE visits AS SELECT
                 (7919 * i) % 1000 AS id, 'city ' || i % 3 AS city, i / 7 AS temp,
                 TIMESTAMPTZ '2024-05-01 12:00:00+02' + i * INTERVAL 1 MINUTE AS seen_at,
                 DATE '2024-05-01' + (i % 2)::INTEGER AS day
               FROM range(1000) AS r(i)"""
        )
    return path


def _connection(path: Path) -> Connection:
    return Connection(id="w", kind="duckdb", host=str(path))


def test_rows_stream_in_the_order_of_the_key_with_values_bound(file: Path) -> None:
    with connect(_connection(file)) as warehouse:
        table = warehouse.read(QUERY, DAY, ["city", "id"]).read_all()
    assert table.num_rows == 500
    keys = list(zip(table["city"].to_pylist(), table["id"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    assert set(table["day"].to_pylist()) == {dt.date(2024, 5, 1)}
    assert table.schema.field("seen_at").type == pa.timestamp("us", tz="UTC")


def test_a_value_is_a_value_and_never_a_piece_of_the_query(file: Path) -> None:
    hostile = {"as_of": "2024-05-01'; DROP TABLE visits; --"}
    with connect(_connection(file)) as warehouse:
        query = "SELECT id FROM visits WHERE city = $as_of"
        assert warehouse.read(query, hostile, ["id"]).read_all().num_rows == 0
        assert warehouse.read("SELECT id FROM visits", {}, ["id"]).read_all().num_rows == 1000


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT id, nope FROM visits", 'Referenced column "nope" not found.*features.sql'),
        ("SELECT id\nFROM visits\nWHERE city == = 3", "LINE 3"),
        ("SELECT id FROM absent", "Table with name absent does not exist"),
        ("SELECT id FROM visits; SELECT 1", "holds 2 statements"),
        ("SELECT id FROM visits WHERE day = $tomorrow", r"asks for \$tomorrow"),
        ("SELECT city FROM visits", r"does not select \['id'\], of the key"),
        ("SELECT id, CAST(city AS INTEGER) AS n FROM visits", "Could not convert string"),
    ],
)
def test_a_query_that_cannot_run_says_why_and_no_retry_is_advised(
    file: Path, query: str, message: str
) -> None:
    with pytest.raises(PermanentError, match=message), connect(_connection(file)) as warehouse:
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
