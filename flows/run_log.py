"""The log lines of the steps in the log that Prefect shows of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.logging.handlers import APILogHandler


@contextmanager
def daybreak_logged() -> Iterator[None]:
    """Send what is logged below `daybreak` to the run's log in Prefect."""
    log, handler = logging.getLogger("daybreak"), APILogHandler()
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
