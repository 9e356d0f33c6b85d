"""Connections are found by id, as Airflow writes them, and never show what is secret."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from include import connections
from include.connections import Connection, connection, use_connections_of
from include.errors import BadConfig
from include.settings import PROJECT

FILE = """\
airflow:
  connections:
    - conn_id: flights
      conn_type: duckdb
      conn_host: .daybreak/flights.duckdb
      conn_schema:
      conn_login:
      conn_password: hush
      conn_port: 5432
      conn_extra: {role: reader}
  pools: []
  variables: []
"""


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch):
    file = tmp_path / "airflow_settings.yaml"
    file.write_text(FILE)
    monkeypatch.setenv("DAYBREAK_CONNECTIONS_FILE", str(file))
    monkeypatch.delenv("AIRFLOW_CONN_FLIGHTS", raising=False)
    monkeypatch.setattr(connections, "_orchestrator", None)
    return file


def test_a_connection_comes_from_airflow_settings_yaml():
    found = connection("flights")
    assert (found.kind, found.port, found.extra) == ("duckdb", 5432, {"role": "reader"})
    assert found.path() == PROJECT / ".daybreak/flights.duckdb"


def test_the_environment_goes_before_the_orchestrator_and_that_before_the_file(monkeypatch):
    use_connections_of(
        lambda name: Connection(id=name, kind="theirs") if name == "flights" else None
    )
    assert connection("flights").kind == "theirs"
    monkeypatch.setenv("AIRFLOW_CONN_FLIGHTS", "mine://host")
    assert connection("flights").kind == "mine"


def test_an_orchestrator_that_does_not_know_it_leaves_it_to_the_file():
    use_connections_of(lambda name: None)
    assert connection("flights").kind == "duckdb"


def test_an_unknown_connection_says_where_one_was_looked_for():
    with pytest.raises(BadConfig) as raised:
        connection("snow")
    for place in ("'snow'", "AIRFLOW_CONN_SNOW", "airflow_settings.yaml", "Airflow's connections"):
        assert place in str(raised.value)


def test_without_any_file_a_connection_is_unknown_and_nothing_else_breaks(world):
    world.unlink()
    with pytest.raises(BadConfig, match="there is no connection 'flights'"):
        connection("flights")


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("duckdb://%2Fdata%2Fa%20b.duckdb", "/data/a b.duckdb"),
        ("duckdb:///data/flights.duckdb", "/data/flights.duckdb"),
        ("duckdb://%2Fdata%2F100%25.duckdb?read_only=1", "/data/100%.duckdb"),
        ("duckdb://Data%2FMixed.duckdb", "Data/Mixed.duckdb"),
    ],
)
def test_a_file_is_named_by_a_uri(monkeypatch, uri, host):
    monkeypatch.setenv("AIRFLOW_CONN_FLIGHTS", uri)
    found = connection("flights")
    assert (found.kind, found.host) == ("duckdb", host)
    assert found.path() == PROJECT / host


def test_a_json_connection_may_hold_its_extra_as_text_or_as_a_mapping(monkeypatch):
    for extra in ({"a": 1}, '{"a": 1}'):
        text = json.dumps({"conn_type": "duckdb", "host": "/x", "port": "1", "extra": extra})
        monkeypatch.setenv("AIRFLOW_CONN_FLIGHTS", text)
        found = connection("flights")
        assert (found.kind, found.host, found.port, found.extra) == ("duckdb", "/x", 1, {"a": 1})


names = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=10)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(login="a", password="b", host="c", schema="/", port=1)
@given(login=names, password=names, host=names, schema=names, port=st.integers(1, 65535))
def test_what_airflow_writes_as_a_uri_is_read_back(
    monkeypatch, login, password, host, schema, port
):
    from include.connections import _from_variable

    parts = [quote(part, safe="") for part in (login, password, host, schema)]
    uri = f"postgres://{parts[0]}:{parts[1]}@{parts[2]}:{port}/{parts[3]}"
    uri += "?__extra__=" + quote(json.dumps({"k": password}), safe="")
    found = _from_variable("warehouse", uri)
    assert found.login == login and found.password == password and found.host == host
    assert found.schema == schema and found.port == port
    assert found.extra == {"k": password}


SECRET = "h4sh-hush"  # the secret that must not be seen


@pytest.mark.parametrize(
    "text",
    [
        '{"conn_type": "x", "password": "h4sh-hush"',
        '{"conn_type": "x", "password": "h4sh-hush", "port": "nine"}',
        '{"conn_type": "x", "extra": "h4sh-hush"}',
        '{"conn_type": "x", "extra": ["h4sh-hush"]}',
        "postgres://me:h4sh-hush@host:port/db",
        "postgres://me:h4sh-hush@host/db?__extra__=%7B",
        "me:h4sh-hush@host",
        "/h4sh-hush",
    ],
)
def test_a_broken_connection_is_an_error_that_does_not_quote_it(monkeypatch, text):
    monkeypatch.setenv("AIRFLOW_CONN_FLIGHTS", text)
    try:
        shown = repr(connection("flights"))
    except BadConfig as error:
        assert "AIRFLOW_CONN_FLIGHTS" in str(error)
        assert error.__suppress_context__  # a traceback would show the parser's own message
        shown = str(error)
    assert SECRET not in shown


def test_the_secrets_of_a_connection_are_not_in_its_repr():
    secret = Connection(id="a", kind="b", password=SECRET, extra={"token": SECRET})
    assert SECRET not in repr(secret) and SECRET not in str(secret) and SECRET not in f"{[secret]}"


@pytest.mark.parametrize(
    "content",
    [
        "airflow: [",
        "airflow: [1]",
        "- a",
        "airflow: {connections: [3]}",
        "airflow: x\n",
        "airflow: {connections: [{conn_id: flights, conn_port: abc}]}",
    ],
)
def test_a_broken_settings_file_is_named(world: Path, content):
    world.write_text(content)
    with pytest.raises(BadConfig) as raised:
        connection("flights")
    assert str(world) in raised.value.where


@pytest.mark.parametrize("content", ["", "airflow:\n", "airflow: {connections: }\n"])
def test_an_empty_settings_file_has_no_connections(world: Path, content):
    world.write_text(content)
    with pytest.raises(BadConfig, match="there is no connection"):
        connection("flights")
