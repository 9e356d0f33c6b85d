"""The PostgreSQL of a local Airflow ends with it, also after an unclean end; a death is noticed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from daybreak.local_postgres import LocalPostgres
from include.settings import PROJECT
from tests.airflow_processes import processes_of, require_nothing_left

ANOTHER_PROCESS = """
import sys, time
from pathlib import Path
from daybreak.local_postgres import LocalPostgres
LocalPostgres(Path(sys.argv[1]), print).start("airflow", 120)
print("started", flush=True)
time.sleep(600)
"""


def another_process(data: Path) -> subprocess.Popen[str]:
    """One that has started the PostgreSQL of this folder, and uses it."""
    other = subprocess.Popen(
        [sys.executable, "-c", ANOTHER_PROCESS, str(data)],
        cwd=PROJECT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout is not None and other.stdout.readline() == "started\n"
    return other


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def left(tmp_path: Path, said: list[str]) -> Iterator[LocalPostgres]:
    """A PostgreSQL that was left running by a start which was killed."""
    with another_process(tmp_path / "postgres") as killed:
        killed.kill()
    postgres = LocalPostgres(tmp_path / "postgres", said.append)
    try:
        yield postgres
    finally:
        postgres.stop()
    require_nothing_left(tmp_path)


def test_after_an_unclean_end_the_next_stop_ends_it(left: LocalPostgres) -> None:
    assert processes_of(left.data), "the kill left it running"
    left.start("airflow", 120)
    left.stop()
    require_nothing_left(left.data)


def test_one_that_dies_is_noticed_and_its_log_is_there(left: LocalPostgres) -> None:
    left.start("airflow", 120)
    assert not left.died()
    psutil.Process(int((left.data / "postmaster.pid").read_text().split()[0])).kill()
    until = time.monotonic() + 60
    while not left.died():
        assert time.monotonic() < until, "nobody noticed"
        time.sleep(0.1)
    assert "database system is ready" in left.log.read_text("utf-8")


def test_one_that_another_process_uses_is_left_to_it(left: LocalPostgres, said: list[str]) -> None:
    with another_process(left.data) as other:
        left.start("airflow", 120)
        left.stop()
        assert said[-1] == f"PostgreSQL goes on: process {other.pid} uses it too"
        assert processes_of(left.data)
        other.kill()
