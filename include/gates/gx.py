"""Great Expectations, imported without what it would try of Spark."""

from __future__ import annotations

import sys
from functools import cache

from include.imports import large_import
from include.settings import silence_telemetry


@cache
def import_great_expectations() -> None:
    """Import the library; called before anything is taken from it.

    It imports pyspark.sql.connect to see if Spark is there, and that module (pyspark 4.3, where
    grpcio-status is missing) ends the process with exit code 0 when the main module has no file: in
    `python -c`, in spawned workers and under pytest-xdist. A gate that ends so would look passed.
    """
    silence_telemetry()
    name = "pyspark.sql.connect" if "pyspark" in sys.modules else "pyspark"
    blocked = name not in sys.modules
    if blocked:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        with large_import("great_expectations"):
            import great_expectations  # noqa: F401
    finally:
        if blocked:
            del sys.modules[name]
