"""Logs of pods as lines of the step's own log, while the pods run."""

from __future__ import annotations

import datetime as dt
import logging
import re
import threading
import time
from typing import TYPE_CHECKING

from include.engines.kubernetes.pod import CONTAINER

if TYPE_CHECKING:
    from include.engines.kubernetes.cluster import Cluster

log = logging.getLogger("daybreak")

_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")

# How long after a pod's end the last of its lines are waited for.
LAST_LINES_SECONDS = 10.0


class Follower:
    """Follows one pod's log in a thread of its own; reconnects where the stream breaks.

    A log is for people: that it cannot be read is said, and fails nothing.
    """

    def __init__(self, cluster: Cluster, pod: str) -> None:
        self.cluster, self.pod = cluster, pod
        self._over = threading.Event()
        self._last = b""
        self._thread = threading.Thread(target=self._follow, name=f"log of {pod}", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """The pod is over: let the rest of its log come, for a moment."""
        self._over.set()
        self._thread.join(LAST_LINES_SECONDS)

    def _follow(self) -> None:
        problem = ""
        while True:
            last_try = self._over.is_set()
            try:
                for line in self.cluster.log(self.pod, CONTAINER, self._since_seconds()):
                    self._say(line)
                problem = ""
            except Exception as error:  # noqa: BLE001 - whatever a broken stream may raise
                problem = str(getattr(error, "reason", None) or error)
            if last_try:
                break
            self._over.wait(2.0)
        if problem:
            log.warning("%s: the rest of its log cannot be read: %s", self.pod, problem)

    def _say(self, line: bytes) -> None:
        stamp, _, text = line.partition(b" ")
        if not _STAMP.fullmatch(stamp):
            return  # Not the container's own, but the node's word that it is gone.
        seconds, _, fraction = stamp.rstrip(b"Z").partition(b".")
        moment = seconds + b"." + fraction.ljust(9, b"0")
        # A stream that was taken up again repeats what was said just before it broke.
        if moment > self._last:
            self._last = moment
            log.info("%s: %s", self.pod, text.decode("utf-8", "replace"))

    def _since_seconds(self) -> int | None:
        if not self._last:
            return None
        last = dt.datetime.fromisoformat(self._last[:19].decode() + "+00:00")
        # With room for clocks that differ.
        return max(1, int(time.time() - last.timestamp()) + 60)
