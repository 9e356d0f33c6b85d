"""Whose a deletion is: of two at once, one goes on and the other stops."""

from __future__ import annotations

import time
from collections.abc import Callable

ASK_AGAIN_SECONDS = 0.2


class Ours:
    """Whether a deletion is still ours to carry out.

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
