"""How a connection to Snowflake logs in, what reaches the server, and that no secret is shown."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.connections import Connection, connection
from include.errors import BadConfig, DaybreakError
from include.snowflake.credentials import login_of
from include.snowflake.session import Session
from tests.fakesnow_account import CONNECTION, Account
from tests.snowflake_proxy import Proxy, proxied

pytest_plugins = ("tests.fakesnow_server",)

PASSPHRASE = "open sesame"


@pytest.fixture(scope="module")
def pem() -> bytes:
    """A private key, encrypted with PASSPHRASE."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(PASSPHRASE.encode()),
    )


def connection_of(**values: Any) -> Connection:
    extra = {"account": "org-account", "database": "ml", **values.pop("extra", {})}
    return Connection(id="sf", kind="snowflake", extra=extra, **values)


# Logging in.


@pytest.mark.parametrize("form", ["file", "base64", "text"])
def test_a_key_pair_logs_in_with_the_key_from_a_file_or_from_the_connection(
    pem: bytes, form: str, tmp_path: Path
) -> None:
    (tmp_path / "key.p8").write_bytes(pem)
    extra = {
        "file": {"private_key_file": str(tmp_path / "key.p8")},
        "base64": {"private_key_content": base64.b64encode(pem).decode()},
        "text": {"private_key_content": pem.decode()},
    }[form]
    login = login_of(connection_of(login="robot", password=PASSPHRASE, extra=extra), "tag")
    given = login.arguments
    assert (given["user"], given["authenticator"]) == ("robot", "SNOWFLAKE_JWT")
    assert "password" not in given
    key = serialization.load_der_private_key(given["private_key"], None)
    expected = serialization.load_pem_private_key(pem, PASSPHRASE.encode())
    assert isinstance(key, rsa.RSAPrivateKey) and isinstance(expected, rsa.RSAPrivateKey)
    assert key.private_numbers() == expected.private_numbers()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"extra": {"authenticator": "oauth", "token": "t0ken"}},
            {"authenticator": "oauth", "token": "t0ken"},
        ),
        (
            {"login": "robot", "password": "t0ken", "extra": {"authenticator": "oauth"}},
            {"authenticator": "oauth", "token": "t0ken", "user": "robot"},
        ),
        (
            {
                "login": "client",
                "password": "s3cret",
                "extra": {
                    "authenticator": "oauth_client_credentials",
                    "oauth_token_request_url": "https://idp/token",
                },
            },
            {
                "oauth_client_id": "client",
                "oauth_client_secret": "s3cret",
                "oauth_token_request_url": "https://idp/token",
            },
        ),
        ({"login": "robot", "password": "pw"}, {"user": "robot", "password": "pw"}),
        (
            {"extra": {"authenticator": "workload_identity", "workload_identity_provider": "AWS"}},
            {"authenticator": "workload_identity", "workload_identity_provider": "AWS"},
        ),
    ],
    ids=["oauth", "oauth, token as password", "client credentials", "password", "workload"],
)
def test_other_ways_to_log_in(values: dict[str, Any], expected: dict[str, Any]) -> None:
    arguments = login_of(connection_of(**values), "tag").arguments
    assert {name: arguments[name] for name in expected} == expected


def test_the_session_is_tagged_in_utc_and_every_wait_has_an_end() -> None:
    connection = connection_of(
        login="robot",
        password="pw",
        schema="scores",
        extra={
            "warehouse": "wh",
            "role": "scorer",
            "extra__snowflake__region": "eu-central-1",
            "statement_timeout": "900",
            "session_parameters": {"WEEK_START": 1},
        },
    )
    arguments = login_of(connection, "daybreak churn").arguments
    assert arguments["session_parameters"] == {
        "QUERY_TAG": "daybreak churn",
        "TIMEZONE": "UTC",
        "STATEMENT_TIMEOUT_IN_SECONDS": 900,
        "LOCK_TIMEOUT": 240,
        "CLIENT_TELEMETRY_ENABLED": False,
        "WEEK_START": 1,
    }
    assert (arguments["login_timeout"], arguments["network_timeout"]) == (60, 300)
    assert {"warehouse", "role", "region", "schema", "database", "account"} <= set(arguments)


def test_the_uri_form_of_a_connection_names_its_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    from include.connections import connection

    uri = "snowflake://robot:pw@/scores?account=org-account&database=ml"
    monkeypatch.setenv("AIRFLOW_CONN_SF", uri)
    arguments = login_of(connection("sf"), "").arguments
    assert (arguments["schema"], arguments["user"]) == ("scores", "robot")
    assert "host" not in arguments


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "has no way to log in"),
        ({"login": "robot"}, "has no way to log in"),
        ({"extra": {"authenticator": "oauth"}}, "has no token"),
        ({"extra": {"authenticator": "externalbrowser"}}, "a scheduled run cannot use"),
        ({"extra": {"authenticator": "oauth_client_credentials"}}, "has no OAuth client"),
        ({"extra": {"private_key_content": "?"}}, "a private key and no login"),
        ({"login": "r", "extra": {"private_key_content": "?"}}, "neither PEM nor Base64"),
        ({"login": "r", "extra": {"private_key_file": "/nowhere/k.p8"}}, "/nowhere/k.p8.*No such"),
        ({"login": "r", "password": "p", "extra": {"account": ""}}, "names no account"),
        (
            {"login": "r", "password": "p", "extra": {"network_timeout": "soon"}},
            "network_timeout 'soon'",
        ),
    ],
)
def test_a_connection_that_cannot_log_in_says_what_it_lacks(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadConfig, match=f"(?s)connection 'sf' .*{message}"):
        login_of(connection_of(**values), "")


@pytest.mark.parametrize("passphrase", ["", "a wrong one"])
def test_a_key_that_cannot_be_opened_shows_neither_key_nor_passphrase(
    pem: bytes, passphrase: str
) -> None:
    extra = {"private_key_content": pem.decode()}
    connection = connection_of(login="robot", password=passphrase, extra=extra)
    with pytest.raises(BadConfig, match="private key that cannot be read") as caught:
        login_of(connection, "")
    shown = f"{caught.value} {caught.value.fields()} {caught.value.__cause__}"
    assert not passphrase or passphrase not in shown
    assert pem.decode().splitlines()[3] not in shown


def test_no_repr_shows_a_secret(pem: bytes) -> None:
    extra = {"private_key_content": pem.decode(), "token": "t0ken"}
    connection = connection_of(login="robot", password=PASSPHRASE, extra=extra)
    login, session = login_of(connection, ""), Session(connection, "")
    shown = f"{connection!r} {login!r} {session!r}"
    assert all(secret not in shown for secret in (PASSPHRASE, "t0ken", "BEGIN"))
    assert "sf" in shown


# What reaches the server.


@pytest.fixture
def proxy(fakesnow_port: int) -> Iterator[Proxy]:
    with proxied(fakesnow_port) as proxy:
        yield proxy


def through(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Session:
    """A session of a connection from the environment, as the workers of Airflow have it."""
    values = json.loads(Account(proxy.port, "login").json())
    extra = {**values["extra"], **changes.pop("extra", {})}
    monkeypatch.setenv(
        f"AIRFLOW_CONN_{CONNECTION.upper()}", json.dumps({**values, **changes, "extra": extra})
    )
    return Session(connection(CONNECTION), "daybreak scores.churn")


def test_a_key_pair_reaches_the_server_as_a_token_that_its_public_key_verifies(
    pem: bytes, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = through(
        proxy,
        monkeypatch,
        login="robot",
        password=PASSPHRASE,
        extra={"private_key_content": base64.b64encode(pem).decode()},
    )
    assert session.run("SELECT 1") == [(1,)]
    (sent,) = proxy.logins
    assert (sent["LOGIN_NAME"], sent["AUTHENTICATOR"]) == ("robot", "SNOWFLAKE_JWT")
    key = serialization.load_pem_private_key(pem, PASSPHRASE.encode())
    assert isinstance(key, rsa.RSAPrivateKey)
    claims = jwt.decode(
        sent["TOKEN"], key.public_key(), algorithms=["RS256"], options={"verify_exp": False}
    )
    assert claims["sub"] == "FAKESNOW.ROBOT"
    assert "PASSWORD" not in sent
    assert PASSPHRASE not in json.dumps(sent) and "PRIVATE" not in json.dumps(sent)


def test_an_oauth_token_reaches_the_server_and_no_password_does(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"authenticator": "oauth", "token": "t0ken-of-the-night"}
    session = through(proxy, monkeypatch, password="", extra=extra)
    assert session.run("SELECT 1") == [(1,)]
    (sent,) = proxy.logins
    assert (sent["AUTHENTICATOR"], sent["TOKEN"]) == ("OAUTH", "t0ken-of-the-night")
    assert not sent.get("PASSWORD")


def test_an_oauth_token_is_read_from_its_file_at_each_login(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    extra = {"authenticator": "oauth", "token_file_path": str(file)}
    for token in ("first-token", "second-token"):
        file.write_text(token)
        file.chmod(0o600)
        session = through(proxy, monkeypatch, password="", extra=extra)
        assert session.run("SELECT 1") == [(1,)]
    assert [sent["TOKEN"] for sent in proxy.logins] == ["first-token", "second-token"]


def test_the_query_tag_and_the_timeouts_reach_the_server(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    through(proxy, monkeypatch).run("SELECT 1")
    parameters = proxy.logins[0]["SESSION_PARAMETERS"]
    assert parameters["QUERY_TAG"] == "daybreak scores.churn"
    assert parameters["STATEMENT_TIMEOUT_IN_SECONDS"] == 120
    assert parameters["TIMEZONE"] == "UTC"


# No secret is shown.

SECRET = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=8, max_size=40
)


def shown_by(caplog: pytest.LogCaptureFixture, *things: Any) -> str:
    """All that a person or a log could see of these things, and all that was logged."""
    texts = [caplog.text]
    for thing in things:
        texts += [repr(thing), str(thing)]
        if isinstance(thing, DaybreakError):
            texts += [json.dumps(thing.fields(), ensure_ascii=False), repr(thing.__cause__)]
    return "\n".join(texts)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    secret=SECRET,
    place=st.sampled_from(["password", "token", "private_key_passphrase", "private_key_content"]),
    authenticator=st.sampled_from(
        ["", "oauth", "oauth_client_credentials", "externalbrowser", "workload_identity"]
    ),
    login=st.sampled_from(["", "robot"]),
)
def test_no_repr_no_error_and_no_log_shows_a_secret_wherever_it_stands(
    caplog: pytest.LogCaptureFixture, secret: str, place: str, authenticator: str, login: str
) -> None:
    secret = f"§{secret}§"  # so that it is no piece of another word
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    extra: dict[str, Any] = {"authenticator": authenticator}
    password = secret if place == "password" else ""
    if place != "password":
        extra[place] = secret
    if place == "private_key_passphrase":
        extra["private_key_content"] = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END"
    of = connection_of(login=login, password=password, extra=extra)
    things: list[Any] = [of]
    try:
        things += [login_of(of, "tag"), Session(of, "tag")]
    except BadConfig as error:
        things.append(error)
    assert secret not in shown_by(caplog, *things)


@pytest.mark.parametrize("way", ["password", "key pair", "oauth"])
def test_a_real_login_and_a_statement_log_no_secret_at_any_level(
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pem: bytes,
    way: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "5ecret-of-the-night"
    if way == "key pair":
        key = serialization.load_pem_private_key(pem, PASSPHRASE.encode())
        content = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(secret.encode()),
        )
        changes: dict[str, Any] = {
            "password": secret,
            "extra": {"private_key_content": content.decode()},
        }
    elif way == "oauth":
        changes = {"password": "", "extra": {"authenticator": "oauth", "token": secret}}
    else:
        changes = {"password": secret}
    session = through(proxy, monkeypatch, **changes)
    session.run("SELECT 1")
    with pytest.raises(DaybreakError) as caught:
        session.run("SELECT * FROM absent")
    shown = shown_by(caplog, session, caught.value, caught.value.__cause__)
    assert secret not in shown
    assert "BEGIN ENCRYPTED" not in shown
    assert proxy.logins[0].get("TOKEN", secret) not in shown or way != "key pair"
