"""JSON over HTTP, as an orchestrator's REST API speaks it: its errors as our two kinds."""

from __future__ import annotations

import datetime as dt
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from include.errors import PermanentError, TransientError

TIMEOUT_SECONDS = 60
ATTEMPTS = 6
FIRST_WAIT_SECONDS = 1.0  # doubled with each attempt: a restart of the server has 31 s to pass

T = TypeVar("T")


class NotFound(PermanentError):
    """404."""


class Conflict(PermanentError):
    """409."""


class Unauthorized(PermanentError):
    """401."""


class Forbidden(PermanentError):
    """403."""


@dataclass(frozen=True)
class Rest:
    """An API at `url`. `name` is what should answer there; the others say what to do.

    `absent`: nothing answers. `address`: something else does. `login`: it refuses this user.
    """

    name: str
    url: str
    absent: str
    address: str
    login: str
    pause: Callable[[float], None] = time.sleep

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The answer's JSON, None where it is empty; `path` begins with a slash.

        Raises TransientError where there is no whole answer, or the server says that it cannot
        answer now, and PermanentError for an answer that is final, with what the server said.
        """
        sent, data = {"Accept": "application/json", **(headers or {})}, None
        if body is not None:
            data, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            request = urllib.request.Request(  # noqa: S310 - the address is the user's own setting
                self.url + path, data, sent, method=method
            )
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
                content = answer.read()
        except urllib.error.HTTPError as error:
            raise self._refusal(error, method, path) from None
        except (ValueError, http.client.InvalidURL) as error:
            raise PermanentError(
                f"{self.url!r} is no address of a server: {error}", do=self.address
            ) from None
        except (OSError, http.client.HTTPException) as error:
            # HTTPException: an answer that breaks off, or is none of HTTP.
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise TransientError(
                f"no {self.name} answers at {self.url}: {reason}", do=self.absent
            ) from None
        try:
            return json.loads(content or b"null")
        except ValueError as error:
            raise PermanentError(
                f"{self.url} answers {method} {path} with something that is not JSON",
                do=self.address,
            ) from error

    def patiently(self, call: Callable[[], T]) -> T:
        """`call`, repeated for half a minute while it raises TransientError, and then that error.

        For what may be done twice: the server may have done it before its answer was lost.
        """
        wait = FIRST_WAIT_SECONDS
        for _ in range(ATTEMPTS - 1):
            try:
                return call()
            except TransientError:
                self.pause(wait)
                wait *= 2
        return call()

    def _refusal(self, error: urllib.error.HTTPError, method: str, path: str) -> Exception:
        """An HTTP error as one of our kinds, with what the server said."""
        found = f"{self.name} answered {error.code} to {method} {path.partition('?')[0]}: " + (
            _said(error) or str(error.reason)
        )
        if error.code in (401, 403):
            refused = Unauthorized if error.code == 401 else Forbidden
            return refused(found, where=self.url, do=self.login)
        if error.code in (404, 409):
            return (NotFound if error.code == 404 else Conflict)(found, where=self.url)
        if error.code in (408, 429, 500, 502, 503, 504):
            return TransientError(found, where=self.url, do="see the server's log")
        return PermanentError(found, where=self.url)


def instant(text: str | None) -> dt.datetime | None:
    """A time as these APIs write it."""
    return dt.datetime.fromisoformat(text) if text else None


def _said(error: urllib.error.HTTPError) -> str:
    """What the body of an HTTP error says, in one line."""
    try:
        text = error.read().decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException):  # the code alone says it
        return ""
    try:
        content = json.loads(text)
        said = content.get("detail") or content.get("exception_detail") or text
    except (ValueError, AttributeError):
        said = text
    return " ".join(str(said).split())[:400]
