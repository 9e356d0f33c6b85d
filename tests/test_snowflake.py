"""What a connection to Snowflake promises: how it logs in, what it binds, what it says."""

from __future__ import annotations

import datetime as dt
import json
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.connections import Connection
from include.errors import DaybreakError, PermanentError, TransientError
from include.snowflake.session import Field, Session
from include.warehouses.snowflake import arriving_names, arrow_type, bound, connect
from tests.fakesnow_account import PASSWORD, Account

pytest_plugins = ("tests.fakesnow_server",)

DAY = dt.date(2024, 5, 1)
PASSPHRASE = "open sesame"


# A server that refuses, is away or fails.


@pytest.fixture
def answering() -> Iterator[Callable[[int, dict[str, Any]], Connection]]:
    """A real server that gives every request one answer, and a connection to it."""
    servers: list[ThreadingHTTPServer] = []

    def serve(status: int, answer: dict[str, Any]) -> Connection:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return Account(server.server_address[1], "db").connection(login_timeout=1)

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


REFUSED = {
    "success": False,
    "code": "390100",
    "message": f"Incorrect username or password was specified. ({PASSWORD})",
    "data": {},
}


def test_refused_credentials_are_not_tried_again_and_not_shown(
    answering: Callable[..., Connection], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(PermanentError, match="refused the connection 'snowflake_test'") as caught:
        Session(answering(200, REFUSED), "").run("SELECT 1")
    assert "Incorrect username" in str(caught.value)
    assert PASSWORD not in str(caught.value) + repr(caught.value.fields())
    assert caught.value.__suppress_context__
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("status", [503, 429])
def test_a_server_that_is_overloaded_may_be_tried_again(
    answering: Callable[..., Connection], status: int
) -> None:
    with pytest.raises(TransientError, match="snowflake_test"):
        Session(answering(status, {}), "").run("SELECT 1")


def test_a_server_that_is_away_may_be_tried_again() -> None:
    with pytest.raises(TransientError, match="snowflake_test"):
        Session(Account(9, "db").connection(login_timeout=1), "").run("SELECT 1")


def test_a_query_that_the_server_fails_at_may_be_tried_again(snowflake: Account) -> None:
    session = snowflake.session()
    with pytest.raises(TransientError, match="HTTP 500"):
        session.run("SELECT $1 FROM (VALUES (1))")  # which the emulator has no answer for
    assert session.run("SELECT 1") == [(1,)]


def test_a_lock_that_is_not_to_be_had_may_be_tried_again_in_the_same_session(
    snowflake: Account,
) -> None:
    first, second = snowflake.session(), snowflake.session()
    first.run("CREATE TABLE lock_of (n NUMBER(38, 0))")
    first.run("INSERT INTO lock_of SELECT 0")
    with first.transaction():
        assert first.changed("UPDATE lock_of SET n = n + 1") == 1
        with pytest.raises(TransientError, match="has locked the table"), second.transaction():
            second.changed("UPDATE lock_of SET n = n + 1")
    with second.transaction():
        assert second.changed("UPDATE lock_of SET n = n + 1") == 1
    assert first.run("SELECT n FROM lock_of") == [(2,)]


def test_a_transaction_that_fails_leaves_nothing(snowflake: Account) -> None:
    session = snowflake.session()
    session.run("CREATE TABLE t (n NUMBER(38, 0))")
    with pytest.raises(PermanentError, match="ABSENT"), session.transaction():
        session.changed("INSERT INTO t SELECT 1")
        session.run("SELECT * FROM absent")
    assert session.run("SELECT COUNT(*) FROM t") == [(0,)]


def test_what_a_server_does_not_support_is_said_in_the_log_and_nothing_else_is_passed_over(
    snowflake: Account, caplog: pytest.LogCaptureFixture
) -> None:
    session = snowflake.session()
    assert not session.run_if_supported("GRANT SELECT ON VIEW v TO ROLE r")
    assert "does not support GRANT SELECT ON" in caplog.text
    for wrong in ("CREATE VIEW v AS SELECT nope FROM absent", "CREATE VIEW v AS SELEC 1"):
        with pytest.raises(PermanentError):
            session.run_if_supported(wrong)


def test_threads_share_a_session(snowflake: Account) -> None:
    session, found = snowflake.session(), list[int]()
    threads = [
        threading.Thread(target=lambda n=n: found.append(session.run("SELECT ? AS n", (n,))[0][0]))
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(int, found)) == list(range(12))


# The query: what is bound, and the names and types of what arrives.

PLACEHOLDER = "$as_of"
SILENT = st.sampled_from(
    [
        "'it''s $as_of'",
        "'\\' $as_of'",
        '"a column $as_of"',
        "$$ $as_of ' $$",
        "-- $as_of ' \"\n",
        "// $as_of\n",
        "/* $as_of\n' */",
        "metadata$filename",
        "a$as_of",
        "$1",
        "'ü€𝄞'",
        "100 % 7",
        "v:path.to[0]::int",
    ]
)


@given(st.lists(st.one_of(SILENT, st.just(PLACEHOLDER)), min_size=1, max_size=12))
def test_placeholders_are_bound_wherever_they_stand_and_text_is_left_alone(
    pieces: list[str],
) -> None:
    text = "SELECT " + " , ".join(pieces) + " FROM t"
    statement = bound(text, {"as_of": DAY})
    expected = " , ".join("?" if piece == PLACEHOLDER else piece for piece in pieces)
    assert statement.text == f"SELECT {expected} FROM t"
    assert statement.values == (DAY,) * pieces.count(PLACEHOLDER)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT ? FROM t", "nothing is bound to '\\?'"),
        ("SELECT $tomorrow, $as_off FROM t", r"asks for \$as_off, \$tomorrow"),
        ("SELECT 1; DROP TABLE t", "more than one statement"),
        ("SELECT 'open", "cannot be read"),
    ],
)
def test_a_query_that_cannot_be_bound_says_why(text: str, message: str) -> None:
    with pytest.raises(PermanentError, match=f"{message}.*features.sql"):
        bound(text, {"as_of": DAY})


def test_a_final_semicolon_and_what_follows_it_are_left_out() -> None:
    assert bound("SELECT 1 -- one\n ; -- the end\n", {}).text == "SELECT 1"


@pytest.mark.parametrize(
    ("stored", "query", "arriving"),
    [
        (["ID", "CITY"], "SELECT id, City FROM t", ["id", "city"]),
        (["ID", "Plan"], 'SELECT id, "Plan" FROM t', ["id", "Plan"]),
        (["V1", "V2"], 'SELECT "V1", v2 FROM t', ["V1", "v2"]),
        (["ID", "V1"], "SELECT * FROM t", ["id", "v1"]),
    ],
)
def test_names_arrive_in_lower_case_unless_the_query_quotes_them(
    stored: list[str], query: str, arriving: list[str]
) -> None:
    assert arriving_names(stored, bound(query, {}).quoted) == arriving


def test_names_that_differ_in_case_only_are_refused_where_they_would_be_one() -> None:
    with pytest.raises(PermanentError, match="selects id more than once"):
        arriving_names(["ID", "id"], frozenset())


@pytest.mark.parametrize(
    ("field", "type_"),
    [
        (Field("N", "FIXED", 38, 0), pa.int64()),
        (Field("N", "FIXED", 10, 2), pa.decimal128(10, 2)),
        (Field("N", "REAL", None, None), pa.float64()),
        (Field("N", "VARIANT", None, None), pa.string()),
        (Field("N", "TIME", 0, 9), pa.time64("us")),
        (Field("N", "TIMESTAMP_LTZ", 0, 9), pa.timestamp("us", "UTC")),
    ],
    ids=str,
)
def test_a_column_has_one_type_whatever_its_batches_have(field: Field, type_: pa.DataType) -> None:
    assert arrow_type(field) == type_


def test_values_of_every_type_arrive_as_they_are_stored(snowflake: Account) -> None:
    query = """
        SELECT 1 AS id, 12.34::NUMBER(10, 2) AS amount, 0.1::FLOAT AS share, TRUE AS active,
            'Zürich' AS city, NULL::VARCHAR AS nothing,
            '2024-02-29'::DATE AS day, '9999-12-31'::DATE AS open_end,
            '2024-05-01 10:00:00.000123'::TIMESTAMP_NTZ AS at"""
    with connect(snowflake.connection()) as warehouse:
        rows = warehouse.read(query, {}, ["id"]).read_all()
    (row,) = rows.to_pylist()
    assert str(row["amount"]) == "12.34"
    assert (row["share"], row["city"], row["active"]) == (0.1, "Zürich", True)
    assert (row["day"], row["open_end"]) == (dt.date(2024, 2, 29), dt.date(9999, 12, 31))
    assert row["at"] == dt.datetime(2024, 5, 1, 10, 0, 0, 123)
    assert row["nothing"] is None
    assert rows.schema.field("amount").type == pa.decimal128(10, 2)


def test_a_number_that_no_integer_holds_is_named_with_a_cast(snowflake: Account) -> None:
    query = "SELECT 1 AS id, 99999999999999999999 AS big"
    with connect(snowflake.connection()) as warehouse:
        reader = warehouse.read(query, {}, ["id"])
        with pytest.raises(PermanentError, match="column big holds what is no int64.*Cast big"):
            reader.read_all()


@pytest.mark.parametrize("kind", ["DATE", "TIMESTAMP_NTZ", "TIMESTAMP_TZ"])
def test_a_year_after_9999_is_named_with_what_to_do_and_the_last_day_before_is_not(
    snowflake: Account, kind: str
) -> None:
    for day, cast in (("9999-12-31", kind), ("10000-01-01", kind)):
        sql = f"SELECT a, b FROM (SELECT 1 AS a, NULL AS b UNION ALL SELECT 2, '{day}'::{cast})"
        with connect(snowflake.connection()) as warehouse:
            reader = warehouse.read(sql, {}, ["a"])
            if day < "99":
                with pytest.raises(PermanentError, match=r"b has a date .*9999.*LEAST\(b, '9999"):
                    reader.read_all()
            else:
                last = reader.read_all()["b"].to_pylist()[1]
                assert (last.year, last.month, last.day) == (9999, 12, 31)


def test_errors_survive_the_way_between_processes(snowflake: Account) -> None:
    import pickle

    with pytest.raises(DaybreakError) as caught:
        snowflake.session().run("SELECT * FROM absent")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
