"""`daybreak demo` follows a run of another process by what that run leaves in the workspace."""

from __future__ import annotations

import io
import os
import subprocess
import sys

from rich.console import Console

from daybreak.demo import _follow
from daybreak.progress import Progress
from include.settings import PROJECT
from include.workspace import Workspace
from tests.world import World

STEPS = ["plan", "extract", "gate", "score", "publish", "drift", "report"]

RUN = """
from daybreak.progress import Progress
from daybreak.run import run_steps
from include.run import Invocation, Request
from rich.console import Console
invocation = Invocation(orchestrator="airflow", id="manual")
run_steps(Request(pipeline="tiny", invocation=invocation, partition_date="2026-02-05"),
          Progress(Console(stderr=True)))
"""


class Told(Progress):
    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.events: list[tuple[str, str]] = []

    def started(self, step: str) -> None:
        self.events.append(("started", step))

    def _line(self, state: str, step: str, seconds: float, text: str) -> None:
        assert seconds >= 0
        self.events.append((state, step))


def follow(tiny: World) -> tuple[Told, str | None]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=PROJECT, env=dict(os.environ), stderr=subprocess.PIPE
    )
    told = Told()
    try:
        report = _follow(told, process, Workspace(tiny.workspace, "tiny"), "airflow-manual")
    finally:
        process.communicate(timeout=60)
    return told, report and report.state


def test_each_step_is_told_once_in_order_when_its_record_appears(tiny):
    told, state = follow(tiny)
    assert state == "published"
    assert [step for event, step in told.events if event == "done"] == STEPS
    started = [step for event, step in told.events if event == "started"]
    assert len(started) == len(set(started)) and "plan" in started


def test_a_step_that_failed_is_told_and_those_behind_it_are_not(tiny):
    tiny.configure({"gate": {"min_rows": 5000}})
    told, state = follow(tiny)
    assert state == "failed"
    assert [event for event in told.events if event[0] != "started"] == [
        ("done", "plan"),
        ("done", "extract"),
        ("failed", "gate"),
        ("done", "report"),
    ]
