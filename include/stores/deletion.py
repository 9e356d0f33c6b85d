"""What every deletion of versions asks, still due and still under way, and a reader beside it."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from include.errors import PermanentError
from include.stores import Version

if TYPE_CHECKING:
    import pyarrow as pa

ASK_AGAIN_SECONDS = 0.2


def was_current_since(at: dt.datetime, version: str, listed: Sequence[Version]) -> bool:
    """Whether readers had a version, of those of its date, at that time or later.

    Whoever chose it for deletion at that time did not know: it is as young as when it was left.
    """
    return any(
        (one.superseded_at or one.committed_at) >= at for one in listed if one.version == version
    )


class UnderWay:
    """Whether a deletion is still under way: of two at once, the slower one stops.

    `ask` says so by what is stored. It is asked at first, and again once a moment has passed.
    """

    def __init__(self, ask: Callable[[], bool]) -> None:
        self._ask, self._until = ask, 0.0

    def __call__(self) -> bool:
        now = time.monotonic()  # of before the answer, after which this may sleep
        if now < self._until:
            return True
        under_way = self._ask()
        self._until = now + ASK_AGAIN_SECONDS if under_way else 0.0
        return under_way


def read_beside_deletions(look: Callable[[], tuple[object, Callable[[], pa.Table]]]) -> pa.Table:
    """The rows of a date's current version, whichever that is by the time at which it is read.

    `look` gives what readers have now, None for nothing, and how to read that. Where its files
    went meanwhile, since another version took its place and retention keeps none but the current
    one, that other one is read. Raises what reading raised where nothing else took its place.
    """
    tried: list[object] = []
    current, read = look()
    while True:
        try:
            return read()
        except (FileNotFoundError, PermanentError):
            tried.append(current)
            current, read = look()
            if None in tried or current in tried:
                raise
