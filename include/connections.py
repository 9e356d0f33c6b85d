"""Connections by id, as Airflow names them, wherever a step runs.

Looked up in AIRFLOW_CONN_<ID>, then in the orchestrator's own store where one was registered, then
in airflow_settings.yaml, which Astro and this project use for local development.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from include.errors import BadConfig
from include.settings import PROJECT, connection_variable, settings


@dataclass(frozen=True)
class Connection:
    """An Airflow connection; `repr` hides what is secret in it."""

    id: str
    kind: str
    host: str = ""
    login: str = ""
    schema: str = ""
    port: int | None = None
    password: str = field(default="", repr=False)
    extra: dict[str, Any] = field(default_factory=dict, repr=False)

    def path(self) -> Path:
        """The file that the connection names; a relative path starts at the project."""
        return PROJECT / self.host


_orchestrator: Callable[[str], Connection | None] | None = None


def use_connections_of(lookup: Callable[[str], Connection | None]) -> None:
    """Let an orchestrator answer for the connections that the environment does not have."""
    global _orchestrator
    _orchestrator = lookup


def connection(connection_id: str) -> Connection:
    """The connection, or a BadConfig that says where one was looked for."""
    found = find_connection(connection_id)
    if found is None:
        raise BadConfig(
            f"there is no connection {connection_id!r}",
            do=f"set AIRFLOW_CONN_{connection_id.upper()}, or add it to Airflow's connections or "
            f"to {settings().connections_file.name}",
        )
    return found


def find_connection(connection_id: str) -> Connection | None:
    """The connection, or None where nobody has one of that id; BadConfig for one that is broken."""
    variable = connection_variable(connection_id)
    if variable is not None:
        return _from_variable(connection_id, variable)
    found = _orchestrator(connection_id) if _orchestrator else None
    return found or next(connections_in(settings().connections_file, connection_id), None)


def _from_variable(connection_id: str, text: str) -> Connection:
    """Airflow's two forms: JSON, or a URI with every part percent-encoded.

    An error never quotes the text: it may hold a password.
    """
    is_json = text.lstrip().startswith("{")
    try:
        return _from_json(connection_id, text) if is_json else _from_uri(connection_id, text)
    except (ValueError, TypeError, AttributeError):
        form = "starts with a brace but is no JSON object" if is_json else "is no URI"
        raise BadConfig(
            f"AIRFLOW_CONN_{connection_id.upper()} {form} of a connection",
            do="write it as Airflow's documentation of connections shows: "
            + ('{"conn_type": …}' if is_json else "kind://login:password@host:port/schema?extra"),
        ) from None


def _from_json(connection_id: str, text: str) -> Connection:
    values = json.loads(text)
    return Connection(
        id=connection_id,
        kind=values.get("conn_type") or "",
        host=values.get("host") or "",
        login=values.get("login") or "",
        schema=values.get("schema") or "",
        port=int(values["port"]) if values.get("port") else None,
        password=values.get("password") or "",
        extra=_extra(values.get("extra")),
    )


def _from_uri(connection_id: str, text: str) -> Connection:
    split = urlsplit(text)
    if not split.scheme or "://" not in text:
        raise ValueError("no scheme")
    query = dict(parse_qsl(split.query))
    # Airflow's URI form writes a file's path as the host, percent-encoded.
    host, schema = unquote(split.netloc.rpartition("@")[2].partition(":")[0]), split.path
    return Connection(
        id=connection_id,
        kind=split.scheme,
        host=host or unquote(schema),
        login=unquote(split.username or ""),
        schema=unquote(schema.lstrip("/")) if host else "",
        port=split.port if host else None,
        password=unquote(split.password or ""),
        extra=_extra(query["__extra__"]) if "__extra__" in query else query,
    )


def _extra(value: Any) -> dict[str, Any]:
    """The extra of a connection, which Airflow writes as a mapping or as the JSON of one."""
    extra = json.loads(value) if isinstance(value, str) and value else value
    return dict(extra or {})


def connections_in(file: Path, only: str | None = None) -> Iterator[Connection]:
    """The connections of airflow_settings.yaml or its like; with `only` that one, if it is there.

    Raises BadConfig where the file does not hold a list of them.
    """
    if not file.is_file():
        return
    try:
        content = yaml.safe_load(file.read_text("utf-8")) or {}
        for entry in (content.get("airflow") or {}).get("connections") or []:
            name = entry.get("conn_id")
            if name and only in (None, name):
                yield Connection(
                    id=name,
                    kind=entry.get("conn_type") or "",
                    host=entry.get("conn_host") or "",
                    login=entry.get("conn_login") or "",
                    schema=entry.get("conn_schema") or "",
                    port=int(entry["conn_port"]) if entry.get("conn_port") else None,
                    password=entry.get("conn_password") or "",
                    extra=_extra(entry.get("conn_extra")),
                )
    except (yaml.YAMLError, ValueError, TypeError, AttributeError):
        raise BadConfig(
            f"{file.name} does not hold `airflow: connections:` and a list of connections",
            where=str(file),
            do="compare it with the file that `astro dev init` makes",
        ) from None
