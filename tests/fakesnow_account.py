"""What tests ask of the emulator of Snowflake: an account, and its connection."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from typing import Any

from include.connections import Connection
from include.snowflake.session import Session

CONNECTION = "snowflake_test"
PASSWORD = "hush-hush-hush"


@dataclass(frozen=True)
class Account:
    """A database of its own on the emulator, as an Airflow connection."""

    port: int
    database: str

    def json(self, **extra: Any) -> str:
        """The connection as AIRFLOW_CONN_<ID> has it; no retry of it takes long."""
        return json.dumps(
            {
                "conn_type": "snowflake",
                "login": "tester",
                "password": PASSWORD,
                "schema": "scores",
                "extra": {
                    "account": "fakesnow",
                    "database": self.database,
                    "host": "127.0.0.1",
                    "port": self.port,
                    "protocol": "http",
                    "login_timeout": 5,
                    "network_timeout": 5,
                    "statement_timeout": 120,
                    **extra,
                },
            }
        )

    def connection(self, **extra: Any) -> Connection:
        values = json.loads(self.json(**extra))
        return Connection(
            id=CONNECTION,
            kind=values["conn_type"],
            login=values["login"],
            password=values["password"],
            schema=values["schema"],
            extra=values["extra"],
        )

    def session(self) -> Session:
        return Session(self.connection(), query_tag="tests")

    def end_transactions(self) -> None:
        """What Snowflake does with the transactions of dead clients, at once."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/abort?database={self.database}", method="POST"
        )
        urllib.request.urlopen(request, timeout=300).close()
