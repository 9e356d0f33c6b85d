"""What an error of Snowflake's connector means: try again, or mend something first."""

from __future__ import annotations

import re
from collections.abc import Sequence

from include.errors import DaybreakError, PermanentError, TransientError

# Classes of SQLSTATE that pass: a lost connection, a transaction rolled back by the server, no
# resources, an object in use, and an intervention: 57 is a statement that was cancelled, timed out
# or waited for a lock in vain, and a warehouse that is suspended (or was never named).
_PASSING_CLASSES = ("08", "40", "53", "55", "57")
# Login codes that pass: an account or a user that is locked for minutes, a session that ran out.
_PASSING_LOGINS = (390101, 390110, 390111, 390112, 390113, 390114, 390115)
_REFUSED_LOGINS = range(390000, 396000)
# The connector's own codes for what never left this machine or was never a network's fault.
_MISUSE = range(251001, 251100)
_PASSING_MISUSE = (251011, 251012, 251016)  # timeouts
_HTTP = range(290000, 290600)
_QUERY_ID = re.compile(r"^\d{6} \(\w+\): (?:[0-9a-f]{8}-[0-9a-f-]{27}: )?")
_MASK = "***"


def translated(
    error: Exception, what: str, *, where: str = "", do: str = "", secrets: Sequence[str] = ()
) -> Exception:
    """The connector's error as one of our two kinds; `what` failed. Others stay as they are.

    The message has the server's words in one line, without what stands in `secrets`.
    """
    from snowflake.connector.errors import Error

    if isinstance(error, DaybreakError) or not isinstance(error, Error):
        return error
    found = f"{what}: {_words(error, secrets)}"
    if passes(error):
        return TransientError(
            found, where=where, do="see that Snowflake and its warehouse are up, and run it again"
        )
    return PermanentError(found, where=where, do=do)


def passes(error: Exception) -> bool:
    """Whether the same statement may succeed later, with nothing changed."""
    from snowflake.connector import errors

    number = int(getattr(error, "errno", None) or 0)
    state = str(getattr(error, "sqlstate", None) or "")
    if number in _REFUSED_LOGINS:
        return number in _PASSING_LOGINS
    if number in _MISUSE:
        return number in _PASSING_MISUSE
    if isinstance(error, errors.ForbiddenError | errors.BadRequest | errors.MethodNotAllowed):
        return False
    if number in _HTTP:
        status = number - _HTTP.start
        return status >= 500 or status in (408, 425, 429)
    if isinstance(error, errors.ProgrammingError | errors.NotSupportedError | errors.DataError):
        return state[:2] in _PASSING_CLASSES
    return True  # the connector's other errors are about reaching the server


def lost(error: Exception) -> bool:
    """Whether the session may be gone with it: anything but the server's answer to a statement."""
    from snowflake.connector.errors import ProgrammingError

    number = int(getattr(error, "errno", None) or 0)
    return not isinstance(error, ProgrammingError) or number in _REFUSED_LOGINS


def unsupported(error: Exception, statement: str) -> bool:
    """Whether the server says that it does not know this kind of statement at all."""
    cause = error.__cause__
    number, state = getattr(cause, "errno", None), getattr(cause, "sqlstate", None)
    if state == "0A000" or number in (2, 9999):
        return True
    verb = re.escape(statement.split()[0])
    text = str(cause)
    return (
        number == 1003
        and re.search(rf"(?:unexpected|at or near).{{0,3}}{verb}\b", text) is not None
    )


def _words(error: Exception, secrets: Sequence[str]) -> str:
    text = _QUERY_ID.sub("", str(error)).removeprefix("SQL compilation error:")
    kept = [line.strip() for line in text.splitlines() if line.strip(" ^")]
    said = " · ".join(kept[:4]) or type(error).__name__
    for secret in secrets:
        said = said.replace(secret, _MASK)
    return said
