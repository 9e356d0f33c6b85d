"""A DuckDB file as a warehouse: opened read-only, with patience for a writer that is at work."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.connections import Connection
from include.errors import PermanentError, TransientError

if TYPE_CHECKING:
    import datetime as dt

    import pyarrow as pa

# While one process writes a DuckDB file no other can open it. A load is over in seconds, so wait
# that long here; a longer one is the orchestrator's retry.
OPEN_ATTEMPTS = 6
FIRST_WAIT_SECONDS = 0.25
BATCH_ROWS = 50_000


class DuckDBWarehouse:
    """Reads one DuckDB file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = _open(path)
        # Timestamps with a zone arrive in UTC on every machine, whatever its own zone.
        self._connection.execute("SET TimeZone = 'UTC'")

    def read(
        self, sql: str, params: Mapping[str, dt.date], order_by: Sequence[str]
    ) -> pa.RecordBatchReader:
        import duckdb

        query = sql.strip().rstrip(";").rstrip()
        try:
            bound = self._bound(query, params)
            columns = [
                row[0] for row in self._connection.execute(f"DESCRIBE {query}", bound).fetchall()
            ]
            twice = sorted({name for name in columns if columns.count(name) > 1})
            if twice:
                # DuckDB would rename the second one of a subquery without a word.
                raise PermanentError(
                    f"the query selects {', '.join(twice)} more than once",
                    where="features.sql",
                    do="give each column its own name",
                )
            absent = [name for name in order_by if name not in columns]
            if absent:
                raise PermanentError(
                    f"the query does not select {absent}, of the key",
                    do=f"add {absent} to its SELECT list, which has {columns}",
                    where="features.sql",
                )
            # The query stays on its own lines, so that an error's line is features.sql's line.
            # What is formatted here are names that the configuration's schema has checked.
            ordered = ", ".join(f'"{name}"' for name in order_by)
            text = f"SELECT * FROM ({query}\n) ORDER BY {ordered}"  # noqa: S608
            # `sql`, not `execute`: the latter holds a second copy of the rows (measured with 2M
            # rows of 22 columns: 1,130 MB against 800).
            return self._connection.sql(text, params=bound).to_arrow_reader(BATCH_ROWS)
        except (duckdb.IOException, duckdb.ConnectionException, duckdb.InterruptException) as error:
            raise TransientError(
                f"DuckDB could not read {self._path}: {_first_lines(error)}",
                do="see that the file is whole and not being replaced",
            ) from error
        except duckdb.Error as error:
            raise PermanentError(
                f"DuckDB refused the query: {_first_lines(error)}",
                where="features.sql",
                do="correct the query, or load what it reads into the warehouse",
            ) from error

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> DuckDBWarehouse:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _bound(self, query: str, params: Mapping[str, dt.date]) -> dict[str, dt.date]:
        """Those of `params` that the query names; DuckDB refuses a value too many."""
        statements = self._connection.extract_statements(query)
        if len(statements) != 1:
            raise PermanentError(
                f"the query holds {len(statements)} statements",
                where="features.sql",
                do="keep one SELECT",
            )
        named = set(statements[0].named_parameters)
        unknown = sorted(named - set(params))
        if unknown:
            raise PermanentError(
                f"the query asks for ${', $'.join(unknown)}",
                where="features.sql",
                do=f"use only ${', $'.join(params)}",
            )
        return {name: value for name, value in params.items() if name in named}


def connect(connection: Connection) -> DuckDBWarehouse:
    return DuckDBWarehouse(connection.path())


def _open(path: Path) -> Any:
    import duckdb

    if not path.exists():
        raise PermanentError(
            f"there is no DuckDB file {path}", do="correct the connection's host, or load it"
        )
    wait = FIRST_WAIT_SECONDS
    for attempt in range(1, OPEN_ATTEMPTS + 1):
        try:
            return duckdb.connect(str(path), read_only=True)
        except duckdb.IOException as error:
            if "lock" not in str(error):
                raise PermanentError(
                    f"{path} is no DuckDB file that can be opened: {_first_lines(error)}",
                    do="correct the connection's host, or load it again",
                ) from error
            if attempt == OPEN_ATTEMPTS:
                raise TransientError(
                    f"{path} is locked by a process that writes it: {_first_lines(error)}",
                    do="wait until that load is over; DuckDB lets nobody read meanwhile",
                ) from error
            time.sleep(wait * random.uniform(0.75, 1.25))  # noqa: S311 - jitter, no secret
            wait *= 2
    raise AssertionError("unreachable")


def _first_lines(error: Exception) -> str:
    """The error without its drawing of the query and its links, in one line."""
    text = str(error).split(" See also ")[0]
    kept = [line.strip() for line in text.splitlines() if line.strip(" ^")]
    return " · ".join(kept[:4])
