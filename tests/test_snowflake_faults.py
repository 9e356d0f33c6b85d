"""What a session and the store promise where the network, the server or the session fails."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from include.config import Predictions
from include.errors import PermanentError, TransientError
from include.run import Column
from include.snowflake.session import Session
from include.stores.snowflake import Table, open_table
from include.warehouses.snowflake import connect
from tests.fakesnow_account import CONNECTION, Account
from tests.snowflake_proxy import SESSION_GONE, Answer, Passed, Proxy, passing, proxied
from tests.staged_versions import DAY, PLANNED_AT, rows_of, staged

pytest_plugins = ("tests.fakesnow_server",)

LONG = "DAYBREAK_LONG_TESTS" in os.environ


@pytest.fixture
def proxy(snowflake: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Before the emulator; the connection `snowflake_test` leads to it."""
    with proxied(snowflake.port) as proxy:
        through = dataclasses.replace(snowflake, port=proxy.port)
        monkeypatch.setenv(f"AIRFLOW_CONN_{CONNECTION.upper()}", through.json())
        yield proxy


@pytest.fixture
def session(proxy: Proxy, snowflake: Account) -> Session:
    return dataclasses.replace(snowflake, port=proxy.port).session()


def once(
    answer: Answer, where: Callable[[str], bool] = lambda sql: True
) -> Callable[[str], Answer]:
    """Fail the first statement for which `where` holds, and no other."""
    left = [answer]

    def fault(sql: str) -> Answer:
        if left and where(sql):
            return left.pop()
        raise Passed

    return fault


def refused(code: str) -> Answer:
    return 200, {"success": False, "code": code, "message": f"refused {code}", "data": {}}


@pytest.mark.parametrize("code", ["390111", "390113", "390114", "390115"])
def test_a_session_that_is_gone_may_be_tried_again_and_the_next_one_logs_in_anew(
    proxy: Proxy, session: Session, code: str
) -> None:
    assert session.run("SELECT 1") == [(1,)]
    proxy.fault = once(refused(code))
    with pytest.raises(TransientError):
        session.run("SELECT 2")
    assert session.run("SELECT 3") == [(3,)]
    assert len(proxy.logins) == 2


@pytest.mark.parametrize("answer", [None, (429, {}), (503, {}), (502, {})], ids=str)
def test_a_request_that_is_cut_off_or_throttled_is_asked_again_within_the_session(
    proxy: Proxy, session: Session, answer: Answer
) -> None:
    session.run("SELECT 1")
    proxy.fault = once(answer)
    assert session.run("SELECT 2") == [(2,)]
    assert len(proxy.logins) == 1


@pytest.mark.parametrize("answer", [None, (429, {}), (503, {})], ids=str)
def test_a_network_that_stays_away_ends_in_an_error_that_may_pass(
    proxy: Proxy, session: Session, answer: Answer
) -> None:
    session.run("SELECT 1")
    proxy.fault = lambda sql: answer
    with pytest.raises(TransientError, match="run it again"):
        session.run("SELECT 2")
    proxy.fault = passing
    assert session.run("SELECT 3") == [(3,)]


def test_a_refusal_of_rights_is_no_matter_for_a_retry(proxy: Proxy, session: Session) -> None:
    session.run("SELECT 1")
    words = "SQL access control error:\nInsufficient privileges to operate on table 'T'"
    data = {"errorCode": "003001", "sqlState": "42501", "internalError": False}
    proxy.fault = once((200, {"success": False, "code": "003001", "message": words, "data": data}))
    with pytest.raises(PermanentError, match="Insufficient privileges to operate on table 'T'"):
        session.run("DELETE FROM t")
    assert len(proxy.statements) == 2 and len(proxy.logins) == 1


def test_a_statement_that_ran_into_its_timeout_may_be_tried_again(
    proxy: Proxy, session: Session
) -> None:
    session.run("SELECT 1")
    words = "Statement reached its statement or warehouse timeout of 120 second(s) and was canceled"
    data = {"errorCode": "000630", "sqlState": "57014", "internalError": False}
    proxy.fault = once((200, {"success": False, "code": "000630", "message": words, "data": data}))
    with pytest.raises(TransientError, match=r"timeout of 120 second\(s\)"):
        session.run("SELECT 2")


def test_an_extract_whose_session_is_gone_may_be_tried_again(proxy: Proxy) -> None:
    from include.connections import connection

    proxy.fault = once(SESSION_GONE, lambda sql: "ORDER BY" in sql)
    with (
        pytest.raises(TransientError, match=r"expired.*features\.sql"),
        connect(connection(CONNECTION)) as warehouse,
    ):
        warehouse.read("SELECT 1 AS id", {}, ["id"]).read_all()


# The store.


@pytest.fixture
def store(proxy: Proxy, tmp_path: Path) -> Table:
    config = Predictions(kind="snowflake", connection=CONNECTION, table="churn")
    table = open_table(config, tmp_path.as_uri())
    table.set_up([Column(name=field.name, type=str(field.type)) for field in rows_of(0).schema])
    return table


def test_a_publish_whose_session_ends_at_any_statement_is_made_once_and_whole(
    proxy: Proxy, store: Table, snowflake: Account
) -> None:
    """Snowflake rolls back with the session what it did; so does the emulator, being told."""
    store.commit(staged(store, "v0", count=6, parts=2), PLANNED_AT)
    proxy.statements.clear()
    store.commit(staged(store, "v1", count=6, parts=2), PLANNED_AT)
    statements = len(proxy.statements)
    assert statements > 10
    before = "v1"
    for position in range(0, statements, 1 if LONG else 4):
        asked = [0]

        def fault(sql: str, position: int = position, asked: list[int] = asked) -> Answer:
            asked[0] += 1
            if asked[0] == position + 1:
                snowflake.end_transactions()
                return SESSION_GONE
            raise Passed

        version = f"vcut{position}"
        proxy.fault = fault
        try:
            manifest = staged(store, version, count=6, parts=2)
        except TransientError:
            # Before its transaction a session that is gone is the step's to try again.
            manifest = staged(store, version, count=6, parts=2)
        try:
            published = store.commit(manifest, PLANNED_AT)
        except TransientError:
            published = store.commit(manifest, PLANNED_AT)
        proxy.fault = passing
        assert (published.outcome, published.replaced) == ("published", before)
        before = version
        assert store.read(DAY)["id"].to_pylist() == list(range(6))
        assert set(store.read(DAY)["version"].to_pylist()) == {version}
        listed = [one.version for one in store.versions(DAY)]
        assert listed.count(version) == 1 and listed[-1] == version
