"""Which processes a local Airflow has, and that none is left of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

PATIENCE_SECONDS = 180


def processes_of(home: Path) -> list[str]:
    """Those that have anything to do with this Airflow's home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and str(home) in " ".join(
                [*process.cmdline(), process.environ().get("AIRFLOW_HOME", "")]
            ):
                found.append(f"{process.pid}: {' '.join(process.cmdline())}")
        except psutil.Error:
            continue
    return found


def require_nothing_left(home: Path) -> None:
    """Wait for the last of them to end."""
    until = time.monotonic() + PATIENCE_SECONDS
    while left := processes_of(home):
        assert time.monotonic() < until, f"still there after {PATIENCE_SECONDS} s: {left}"
        time.sleep(0.5)
