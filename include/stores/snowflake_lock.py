"""The lock that every writer of a table takes: the one row of <table>_LOCK, and its number."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import TypeVar

from include.errors import CorruptData, TransientError
from include.snowflake.session import Session
from include.stores.snowflake_tables import Names

# Snowflake makes a writer wait for the lock; what is tried again is what it gave up, and a session
# that was lost. A transaction of a client that died is ended by Snowflake after five minutes where
# it blocks another one: this is longer.
WRITE_SECONDS = 600.0
LONGEST_WAIT_SECONDS = 1.0

Result = TypeVar("Result")


class BeingDeleted(TransientError):
    """Retention is at work on this very version."""


class Lock:
    """Transactions of one table, one after the other."""

    def __init__(self, session: Session, names: Names) -> None:
        self._session, self._names = session, names

    def write(
        self,
        what: str,
        body: Callable[[int], Result],
        prepare: Callable[[], None] = lambda: None,
    ) -> Result:
        """Run `body` with the lock's new number, in a transaction; again where that may help.

        `prepare` runs before the lock is taken. Both run again after a TransientError, so `body`
        must know what an attempt has done whose commit was made and not confirmed.
        """
        started = time.monotonic()
        for attempt in itertools.count():
            try:
                prepare()
                with self._session.transaction():
                    return body(self._raise_counter())
            except BeingDeleted:
                raise
            except TransientError as error:
                spent = time.monotonic() - started
                if spent > WRITE_SECONDS:
                    raise TransientError(
                        f"Snowflake could not {what}, {attempt + 1} times in {spent:.0f} s: "
                        f"{error.found}",
                        where=self._names.table,
                        do="see that Snowflake is up; where a transaction of a dead run holds the "
                        f"lock of {self._names.lock}, SHOW TRANSACTIONS IN ACCOUNT names it and "
                        "SELECT SYSTEM$ABORT_TRANSACTION(its id) ends it",
                    ) from error
                # Ten minutes are many attempts: more than a float has powers of two.
                wait = min(LONGEST_WAIT_SECONDS, 0.05 * 2 ** min(attempt, 10))
                time.sleep(random.uniform(0, wait))  # noqa: S311
        raise AssertionError("unreachable")

    def _raise_counter(self) -> int:
        """Take the lock until the transaction ends; the new number."""
        lock = self._names.lock
        rows = self._session.changed(f"UPDATE {lock} SET N = N + 1")  # noqa: S608
        if rows != 1:
            raise CorruptData(
                f"{lock} has {rows} rows and not one, so that it is no lock",
                do="let `daybreak init` of this pipeline make its row, or delete all but the one "
                "with the highest N",
            )
        ((number,),) = self._session.run(f"SELECT N FROM {lock}")  # noqa: S608
        return int(number)
