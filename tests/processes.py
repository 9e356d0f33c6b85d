"""Processes of tests that are forked from one that has imported everything, and done nothing else.

A spawned process pays seconds of processor time for its imports; these start in milliseconds. They
live in the environment in which they are started, as spawned ones do.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "pytest",
        "pyarrow.parquet",
        "pyarrow.dataset",
        "deltalake",
        "obstore",
        "snowflake.connector",
        "include.stores.delta",
        "include.stores.snowflake",
        "include.retention",
        "tests.staged_versions",
        "tests.fakesnow_account",
    ]
)

Barrier, Event, Queue = _context.Barrier, _context.Event, _context.Queue


def Process(target: Callable[..., None], args: Sequence[Any] = ()) -> Any:
    """As multiprocessing's: a process that is not started yet."""
    return _context.Process(target=_here, args=(dict(os.environ), target, tuple(args)))


def _here(environment: dict[str, str], target: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(*args)
