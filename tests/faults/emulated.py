"""A pipeline's prediction table in Snowflake's emulator: kept, put back, and all that is in it."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from include.snowflake.session import Session
from include.stores.snowflake_history import COMMITTED, STAGED
from include.stores.snowflake_tables import Names
from tests.fakesnow_account import CONNECTION, Account

# A slow machine is not what these tests are about.
PATIENT = {"login_timeout": 60, "network_timeout": 60}
PARTS = ("ROWS", "POINTER", "HISTORY", "LOCK")


@dataclass
class Emulated:
    """The table `name`, which `daybreak init` makes, and the connection that leads to it."""

    account: Account
    name: str = "scores.tiny"
    session: Session = field(init=False)

    @classmethod
    def on(cls, port: int) -> Emulated:
        """In a database of its own."""
        return cls(Account(port, f"db_{uuid.uuid4().hex[:12]}"))

    def __post_init__(self) -> None:
        self.session = Session(self.account.connection(**PATIENT), query_tag="tests")

    @property
    def names(self) -> Names:
        return Names(self.name.upper())

    @property
    def predictions(self) -> dict[str, Any]:
        """Its section of pipeline.yaml."""
        return {"kind": "snowflake", "connection": CONNECTION, "table": self.name}

    @property
    def env(self) -> dict[str, str]:
        return {f"AIRFLOW_CONN_{CONNECTION.upper()}": self.account.json(**PATIENT)}

    def keep(self, state: str) -> None:
        """Copy what is in the tables now."""
        for part in PARTS:
            self.session.run(
                f"CREATE OR REPLACE TABLE {self._kept(state, part)} AS "
                f"SELECT * FROM {self.names.table}_{part}"
            )

    def restore(self, state: str) -> None:
        """Have in the tables what was kept. Uploads stay in the stage, which has no names of it."""
        with self.session.transaction():
            for part in PARTS:
                self.session.run(f"DELETE FROM {self.names.table}_{part}")
                self.session.run(
                    f"INSERT INTO {self.names.table}_{part} SELECT * FROM {self._kept(state, part)}"
                )

    def _kept(self, state: str, part: str) -> str:
        return f"{self.names.table}_KEPT_{state}_{part}"

    def left(self) -> Counter[str]:
        """How many rows each version has in each table, by names that every workspace has.

        How often a version was staged is another matter: counted once. Asserts that each pointer
        names a commit of its version, and that there is one lock, which is ahead of all entries.
        """
        found = Counter[str]()
        for as_of, version, rows in self.session.run(
            f"SELECT AS_OF, VERSION, COUNT(*) FROM {self.names.rows} GROUP BY AS_OF, VERSION"
        ):
            found[f"{as_of} {version} rows"] = int(rows)
        for as_of, version, kind, entries in self.session.run(
            "SELECT AS_OF, VERSION, KIND, COUNT(*) "
            f"FROM {self.names.history} GROUP BY AS_OF, VERSION, KIND"
        ):
            found[f"{as_of} {version} {kind}"] = 1 if kind == STAGED else int(entries)
        pointers = self.session.run(f"SELECT AS_OF, VERSION, N FROM {self.names.pointer}")
        commits = self.session.run(
            f"SELECT AS_OF, VERSION, N FROM {self.names.history} WHERE KIND = ?",
            (COMMITTED,),
        )
        for pointer in pointers:
            assert commits.count(pointer) == 1, (pointer, commits)
            found[f"{pointer[0]} {pointer[1]} pointer"] += 1
        numbers = self.session.run(f"SELECT N FROM {self.names.history}")
        locks = self.session.run(f"SELECT N FROM {self.names.lock}")
        assert len(locks) == 1, locks
        assert len(set(numbers)) == len(numbers), numbers
        assert max(numbers, default=(0,)) <= locks[0], (numbers, locks)
        return found

    def uploads(self) -> set[str]:
        """The folders of the stage that still hold a file."""
        names = (name for name, *_ in self.session.run(f"LIST @{self.names.stage}"))
        return {name.partition("/")[2].rpartition("/")[0] for name in names}
