"""The code that executors run, as a zip: they need the locked requirements and nothing of ours."""

from __future__ import annotations

import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from include.settings import PROJECT
from include.spark.rendering import is_connect

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PACKAGES = ("include", "tasks")
# The same code is the same zip: no times of files in it.
_EPOCH = (1980, 1, 1, 0, 0, 0)

_kept: list[tempfile.TemporaryDirectory[str]] = []  # deleted when this process ends


@cache
def code_zip() -> Path:
    """A zip of include/ and tasks/ as they were when this was first called; gone with this process.

    One a process: Spark takes a file of one name only once, from one place. A driver that runs from
    such a zip itself ships that one.
    """
    if PROJECT.is_file():
        return PROJECT
    folder = tempfile.TemporaryDirectory(prefix="daybreak-")
    _kept.append(folder)
    file = Path(folder.name, "daybreak.zip")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _sources():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    return file


def ship_code(spark: SparkSession, master: str) -> None:
    """Give the executors of this session the code."""
    if is_connect(master):
        spark.addArtifacts(str(code_zip()), pyfile=True)
    else:
        spark.sparkContext.addPyFile(str(code_zip()))


def _sources() -> list[tuple[str, bytes]]:
    files = [
        file
        for package in PACKAGES
        for file in (PROJECT / package).rglob("*")
        if file.suffix in {".py", ".c", ".h"} and "pipelines" not in file.parts
    ]
    return [(file.relative_to(PROJECT).as_posix(), file.read_bytes()) for file in sorted(files)]
