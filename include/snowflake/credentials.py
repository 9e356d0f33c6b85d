"""An Airflow connection as the arguments of Snowflake's connector: who logs in, where, and how."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

from include.connections import Connection
from include.errors import BadConfig

# As Airflow's own Snowflake connections name them; an old one has a prefix before each.
_PREFIX = "extra__snowflake__"
# What of the extra goes to the connector as it is.
_PASSED = (
    "account",
    "region",
    "host",
    "protocol",
    "warehouse",
    "database",
    "role",
    "authenticator",
    "token",
    "token_file_path",
    "oauth_token_request_url",
    "oauth_scope",
    "workload_identity_provider",
    "workload_identity_entra_resource",
    "proxy_host",
    "proxy_port",
    "ocsp_fail_open",
)
# Seconds. The connector's own defaults are minutes for a login and no end for the network.
LOGIN_TIMEOUT_SECONDS = 60
NETWORK_TIMEOUT_SECONDS = 300
STATEMENT_TIMEOUT_SECONDS = 3600
# How long a statement waits for another one's lock, less than the network timeout, which would cut
# it off without a word; Snowflake's own default is 12 hours.
LOCK_TIMEOUT_SECONDS = 240


@dataclass(frozen=True)
class Login:
    """What a session is opened with. `secrets` must stand in no message; `repr` hides them."""

    connection_id: str
    statement_timeout_seconds: int
    arguments: dict[str, Any] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


def login_of(connection: Connection, query_tag: str) -> Login:
    """The login of a connection, by key pair, OAuth, workload identity or password.

    A key pair goes before an `authenticator`, and that before a password. Raises BadConfig, which
    quotes no secret, where something that is needed is missing or cannot be used.
    """
    extra = {name.removeprefix(_PREFIX): value for name, value in connection.extra.items()}
    arguments = {name: extra[name] for name in _PASSED if extra.get(name) not in (None, "")}
    host, schema = connection.host, connection.schema or extra.get("schema") or ""
    if host.startswith("/"):  # the URI form, which has the schema where a file would have its path
        host, schema = "", host.strip("/") or schema
    if host:
        arguments.setdefault("host", host)
    if port := connection.port or extra.get("port"):
        arguments["port"] = _seconds(connection, "port", port)
    if schema:
        arguments["schema"] = schema
    if "account" not in arguments and "host" not in arguments:
        raise _bad(connection, "names no account", "add account to its extra, as in myorg-account1")
    arguments.setdefault("account", str(arguments.get("host", "")).split(".")[0])
    arguments |= _identity(connection, extra, str(arguments.get("authenticator", "")).lower())

    def seconds(name: str, default: int) -> int:
        return _seconds(connection, name, extra.get(name, default))

    statement_timeout = seconds("statement_timeout", STATEMENT_TIMEOUT_SECONDS)
    arguments |= {
        "application": "Daybreak",
        "paramstyle": "qmark",  # values are bound by the server
        "arrow_number_to_decimal": True,  # else NUMBER(10, 2) arrives as a float
        "login_timeout": seconds("login_timeout", LOGIN_TIMEOUT_SECONDS),
        "network_timeout": seconds("network_timeout", NETWORK_TIMEOUT_SECONDS),
        "log_imported_packages_in_telemetry": False,
        "session_parameters": {
            "QUERY_TAG": query_tag,
            "TIMEZONE": "UTC",
            "STATEMENT_TIMEOUT_IN_SECONDS": statement_timeout,
            "LOCK_TIMEOUT": seconds("lock_timeout", LOCK_TIMEOUT_SECONDS),
            "CLIENT_TELEMETRY_ENABLED": False,
            **(extra.get("session_parameters") or {}),
        },
    }
    held = (connection.password, extra.get("token"), extra.get("private_key_passphrase"))
    secrets = tuple(str(secret) for secret in held if secret)
    return Login(connection.id, statement_timeout, arguments, secrets)


def _identity(connection: Connection, extra: dict[str, Any], authenticator: str) -> dict[str, Any]:
    user = {"user": connection.login} if connection.login else {}
    if extra.get("private_key_content") or extra.get("private_key_file"):
        if not user:
            raise _bad(connection, "has a private key and no login", "set login to the user's name")
        key = _private_key(connection, extra)
        return {**user, "private_key": key, "authenticator": "SNOWFLAKE_JWT"}
    if authenticator in ("oauth", "programmatic_access_token"):
        if not extra.get("token_file_path"):
            token = extra.get("token") or connection.password
            if not token:
                raise _bad(connection, "has no token", "set token in its extra, or its password")
            return {**user, "token": token}
        return user
    if authenticator == "oauth_client_credentials":
        if not connection.login or not connection.password:
            raise _bad(connection, "has no OAuth client", "set login to its id, password to secret")
        return {
            "oauth_client_id": connection.login,
            "oauth_client_secret": connection.password,
        }
    if authenticator == "workload_identity":
        return user
    if authenticator not in ("", "snowflake"):
        raise _bad(
            connection,
            f"wants the authenticator {authenticator!r}, which a scheduled run cannot use",
            "use a key pair, oauth, oauth_client_credentials, workload_identity or a password",
        )
    if not connection.login or not connection.password:
        raise _bad(
            connection,
            "has no way to log in",
            "set private_key_file or private_key_content in its extra, authenticator and token "
            "for OAuth, or login and password",
        )
    return {**user, "password": connection.password}


def _private_key(connection: Connection, extra: dict[str, Any]) -> bytes:
    """The key as the connector takes it: unencrypted PKCS #8, DER."""
    from cryptography.hazmat.primitives import serialization

    content = extra.get("private_key_content")
    pem = _pem(connection, str(content)) if content else _key_file(connection, extra)
    passphrase = str(extra.get("private_key_passphrase") or connection.password or "")
    try:
        key = serialization.load_pem_private_key(pem, passphrase.encode() or None)
    except (ValueError, TypeError):
        # What the library says may name parts of the key: it is not passed on.
        raise _bad(
            connection,
            "has a private key that cannot be read",
            "give it unbroken, in PEM, with its passphrase as the connection's password if it has "
            "one, and none otherwise",
        ) from None
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _pem(connection: Connection, content: str) -> bytes:
    """The key's text; Airflow wants it in Base64, and older connections have it as it is."""
    if "-----BEGIN" in content:
        return content.encode()
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _bad(
            connection,
            "has a private_key_content that is neither PEM nor Base64 of it",
            "take it from the key's file",
        ) from None


def _key_file(connection: Connection, extra: dict[str, Any]) -> bytes:
    from pathlib import Path

    file = Path(str(extra["private_key_file"])).expanduser()
    try:
        return file.read_bytes()
    except OSError as error:
        raise _bad(
            connection,
            f"names the private key {file}, which cannot be read ({error.strerror})",
            "correct private_key_file, or let this process read the file",
        ) from None


def _seconds(connection: Connection, name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise _bad(connection, f"has the {name} {value!r}", f"make {name} a whole number above 0")
    return number


def _bad(connection: Connection, found: str, do: str) -> BadConfig:
    return BadConfig(f"the connection {connection.id!r} {found}", do=do)
