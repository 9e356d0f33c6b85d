"""What every deletion of versions asks: is it still due, and is it still ours to carry out."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence

from include.stores import Version

ASK_AGAIN_SECONDS = 0.2


def was_current_since(at: dt.datetime, version: str, listed: Sequence[Version]) -> bool:
    """Whether readers had a version, of those of its date, at that time or later.

    Whoever chose it for deletion at that time did not know: it is as young as when it was left.
    """
    return any(
        (one.superseded_at or one.committed_at) >= at for one in listed if one.version == version
    )


class Ours:
    """Whether a deletion is still ours to carry out: of two at once, one goes on, the other stops.

    `ask` says so by what is stored. It is asked again once a moment has passed, so that a process
    that slept deletes nothing before it has asked.
    """

    def __init__(self, ask: Callable[[], bool]) -> None:
        self._ask, self._until = ask, 0.0

    def __call__(self) -> bool:
        if time.monotonic() < self._until:
            return True
        ours = self._ask()
        self._until = time.monotonic() + ASK_AGAIN_SECONDS
        return ours
