"""Worker processes of our own, each on the other end of a pipe."""

from __future__ import annotations

import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any


def spawn(
    context: SpawnContext, name: str, work: Callable[..., None], *arguments: Any
) -> tuple[SpawnProcess, Connection]:
    """Start `work(pipe, *arguments)` in a process named `name`; it, and our end of the pipe."""
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *arguments), name=name)
    # Ctrl-C reaches a process that is still starting, which would tell of it in a traceback.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()  # so that our end says when the process is gone
    return process, ours
