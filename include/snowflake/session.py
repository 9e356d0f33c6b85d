"""One session of Snowflake: opened when it is first needed, opened again where it was lost."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.connections import Connection
from include.errors import PermanentError, TransientError
from include.snowflake.credentials import login_of
from include.snowflake.faults import lost, translated, unsupported

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("daybreak")


@dataclass(frozen=True)
class Field:
    """A column of a result; `kind` is Snowflake's name of its type, such as FIXED or TEXT."""

    name: str
    kind: str
    precision: int | None
    scale: int | None


class Session:
    """Runs statements for one connection; threads take turns.

    Values are bound by the server, each `?` of a statement to one of them. Every error of the
    connector leaves as a PermanentError or a TransientError; where it says that the server could
    not be reached or knows the session no more, the next statement opens another one.
    """

    def __init__(self, connection: Connection, query_tag: str) -> None:
        self._login = login_of(connection, query_tag)
        self._turn = threading.RLock()
        self._open: Any = None

    def __repr__(self) -> str:
        return f"Session({self._login.connection_id!r})"

    def run(
        self, sql: str, values: Sequence[Any] = (), *, do: str = "", long: bool = False
    ) -> list[tuple[Any, ...]]:
        """Execute one statement; its rows. A `long` one may take the statement timeout."""
        with self._turn, self._cursor(sql, values, do=do, long=long) as cursor:
            return [tuple(row) for row in cursor.fetchall()]

    def changed(self, sql: str, values: Sequence[Any] = (), *, long: bool = False) -> int:
        """Execute one INSERT, UPDATE or DELETE; the number of rows that it changed."""
        with self._turn, self._cursor(sql, values, long=long) as cursor:
            return int(cursor.rowcount or 0)

    def run_if_supported(self, sql: str, *, do: str = "") -> bool:
        """Execute a statement that not every server has; False, and a warning, where it has not."""
        try:
            self.run(sql, do=do)
        except PermanentError as error:
            if not unsupported(error, sql):
                raise
            log.warning("This server does not support %s: left out.", " ".join(sql.split()[:3]))
            return False
        return True

    def describe(
        self, sql: str, values: Sequence[Any] = (), *, where: str = "", do: str = ""
    ) -> list[Field]:
        """The columns that a query would give; it is compiled and not run."""
        with self._turn, self._guarded(where, do):
            cursor = self._connected().cursor()
            try:
                return _fields(cursor.describe(sql, list(values)))
            finally:
                cursor.close()

    @contextlib.contextmanager
    def arrow(
        self, sql: str, values: Sequence[Any] = (), *, where: str = ""
    ) -> Iterator[tuple[list[Field], Iterator[pa.Table]]]:
        """Run a query; its columns, and its rows in tables as they arrive.

        Timestamps are of microseconds; other types may differ from one table to the next.
        """
        with self._cursor(sql, values, where=where, long=True) as cursor:
            batches = cursor.fetch_arrow_batches(force_microsecond_precision=True)
            yield _fields(cursor.description), self._arriving(batches, where)

    def put(self, content: bytes, stage: str, name: str) -> None:
        """Upload one file below `stage`, such as `@parts/a`; its bytes as they are."""
        sql = f"PUT 'file://{name}' {stage} AUTO_COMPRESS = FALSE"
        with self._turn, self._guarded(""):
            cursor = self._connected().cursor()
            try:
                cursor.execute(sql, file_stream=io.BytesIO(content))
                status = [row[6] for row in cursor.fetchall()]
            finally:
                cursor.close()
        if status != ["UPLOADED"]:
            raise TransientError(
                f"Snowflake did not take {name} into {stage}: {status}",
                do="see that the stage is there and that this machine reaches its storage",
            )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; other threads wait. Raises what the body raised, after a rollback."""
        with self._turn:
            self.run("BEGIN")
            try:
                yield
                self.run("COMMIT")
            except BaseException:
                self._roll_back()
                raise

    def close(self) -> None:
        """End the session; the next statement opens another one."""
        with self._turn:
            lost, self._open = self._open, None
            if lost is not None:
                with contextlib.suppress(Exception):  # it may be gone already
                    lost.close(retry=False)

    def _connected(self) -> Any:
        import snowflake.connector

        if self._open is None:
            try:
                self._open = snowflake.connector.connect(**self._login.arguments)
            except snowflake.connector.errors.Error as error:
                # Without the cause: a login's traceback holds what it logged in with.
                raise translated(
                    error,
                    f"Snowflake refused the connection {self._login.connection_id!r}",
                    do="correct the connection's account and credentials",
                    secrets=self._login.secrets,
                ) from None
        return self._open

    @contextlib.contextmanager
    def _cursor(
        self, sql: str, values: Sequence[Any], *, where: str = "", do: str = "", long: bool = False
    ) -> Iterator[Any]:
        # The connector has one time for how long a statement may run and for how long it is tried
        # again while the server fails; without one it takes its network timeout.
        timeout = self._login.statement_timeout_seconds if long else None
        with self._guarded(where, do):
            cursor = self._connected().cursor()
            try:
                cursor.execute(sql, list(values) or None, timeout=timeout)
                yield cursor
            finally:
                cursor.close()

    @contextlib.contextmanager
    def _guarded(self, where: str, do: str = "") -> Iterator[None]:
        try:
            yield
        except Exception as error:
            ours = translated(
                error,
                "Snowflake refused the statement",
                where=where,
                do=do,
                secrets=self._login.secrets,
            )
            if isinstance(ours, TransientError) and lost(error):
                self.close()
            if ours is error:
                raise
            raise ours from error

    def _arriving(self, batches: Iterator[pa.Table], where: str) -> Iterator[pa.Table]:
        with self._guarded(where):
            yield from batches

    def _roll_back(self) -> None:
        try:
            if self._open is not None:
                self.run("ROLLBACK")
        except (PermanentError, TransientError):
            log.warning("A transaction of %r could not be rolled back: its session ends.", self)
            self.close()


def _fields(description: Sequence[Any]) -> list[Field]:
    from snowflake.connector.constants import FIELD_ID_TO_NAME

    return [
        Field(one.name, FIELD_ID_TO_NAME[one.type_code], one.precision, one.scale)
        for one in description
    ]
