"""Imports of large libraries: MLflow, Great Expectations and Evidently are seconds each."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def large_import(library: str) -> Iterator[None]:
    """Import `library` without the collector, which would walk again and again over what stays.

    That walking is a sixth of the time of such an import.
    """
    if library in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
