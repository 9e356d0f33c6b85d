"""Great Expectations loads in every kind of process that a gate may run in."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys

import pytest

from include.settings import PROJECT

PROGRAM = "from include.gates.suite_errors import kinds; print(len(kinds()))"


def count(answers: multiprocessing.Queue[int]) -> None:
    from include.gates.suite_errors import kinds

    answers.put(len(kinds()))


def test_it_loads_in_a_process_whose_main_module_has_no_file():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 40


def test_it_loads_in_a_spawned_worker():
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    worker = context.Process(target=count, args=(answers,))
    worker.start()
    assert answers.get(timeout=120) > 40
    worker.join()


@pytest.mark.parametrize("first", ["pyspark", "include.gates.gx"])
def test_spark_can_be_imported_before_and_after_it(first):
    program = f"import {first}; {PROGRAM}; import pyspark; print(pyspark.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[1].startswith("4.")
