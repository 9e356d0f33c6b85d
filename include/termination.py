"""What SIGTERM does to a process of ours: it ends at once, and leaves nothing half written.

Files appear whole or not at all, so a process may be ended anywhere; what is left to say is the
reason and the exit code, and to end the processes that it started.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# sysexits.h's EX_TEMPFAIL: the same command may be run again, and goes on where this one stopped.
RESUMABLE = 75

# What unwinding may take before the process ends without it.
GRACE_SECONDS = 5.0


class Terminated(SystemExit):
    """SIGTERM arrived. No `Exception`: nothing takes it for a failure of what was under way."""

    def __init__(self) -> None:
        super().__init__(RESUMABLE)

    def __str__(self) -> str:
        return "stopped by SIGTERM"


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within the block, SIGTERM raises Terminated, and the process ends soon after.

    Also where the main thread is in a library's code and hears nothing: then without unwinding,
    after GRACE_SECONDS. In a thread that is not the main one it does nothing: signals are not its
    business.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    heard, tell = os.pipe()
    os.set_blocking(tell, False)
    before = signal.signal(signal.SIGTERM, terminate)
    told_before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    backstop = threading.Thread(target=_backstop, args=(heard,), name="sigterm", daemon=True)
    backstop.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(told_before)
        if signal.getsignal(signal.SIGTERM) is terminate:
            signal.signal(signal.SIGTERM, before)
            os.close(tell)  # ends the backstop


def _backstop(heard: int) -> None:
    """Wait for SIGTERM, at which the kernel wakes this thread too, and then for the main one."""
    while number := os.read(heard, 1):
        if number[0] == signal.SIGTERM:
            time.sleep(GRACE_SECONDS)
            leave()
    os.close(heard)


def leave(code: int = RESUMABLE) -> None:
    """End this process and its own now: threads that are still scoring are not waited for."""
    for child in multiprocessing.active_children():
        child.kill()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # Whoever read it is gone; there is nobody left to tell.
    os._exit(code)
