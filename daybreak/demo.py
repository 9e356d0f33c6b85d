"""`daybreak demo`: real flights, a real model, and the pipeline's own DAG run by Airflow."""

from __future__ import annotations

import datetime as dt
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from daybreak.progress import Progress, progress_on
from daybreak.run import STEPS
from daybreak.summary import print_summary, shown
from include import storage
from include.errors import PermanentError
from include.run import (
    DriftResult,
    GateResult,
    Published,
    Report,
    Run,
    Scored,
    Snapshot,
    StepRecord,
    Value,
)
from include.settings import PROJECT, settings, silence_telemetry
from include.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

PIPELINE = "flight_delay"
DATE = dt.date(2013, 10, 1)
LOOK_SECONDS = 0.3

_RESULTS: dict[str, type[Value]] = {
    "plan": Run,
    "extract": Snapshot,
    "gate": GateResult,
    "score": Scored,
    "publish": Published,
    "drift": DriftResult,
    "report": Report,
}


def run_demo(console: Console, verbose: bool = False) -> int:
    """Prepare, run the DAG once for DATE, show what it did; 0 where its version is published."""
    silence_telemetry()
    console.rule("[bold]1[/]  Data, warehouse, models", align="left")
    # The demo trains with what Daybreak offers to training code, so it stands above this package;
    # this command alone reaches back to it.
    importlib.import_module("demo.prepare").prepare(console)
    console.print()
    console.rule(f"[bold]2[/]  The DAG {PIPELINE} in Airflow, for {DATE}", align="left")
    workspace = Workspace(settings().workspace, PIPELINE)
    log = settings().home / "logs" / "demo-airflow.log"
    code, report = _run_dag(console, workspace, log, verbose)
    if report is None:
        raise PermanentError(
            f"Airflow ended with {code} before the run had a report",
            where=str(log),
            do="read the end of that log",
        )
    print_summary(console, report)
    console.print()
    if code != 0 or report.state not in ("published", "unchanged"):
        console.print(f"The DAG run failed. Airflow's log: {shown(log.as_uri())}", style="bold red")
        return 1
    _what_next(console)
    return 0


def _run_dag(
    console: Console, workspace: Workspace, log: Path, verbose: bool
) -> tuple[int, Report | None]:
    """Run the DAG in a process of its own, and show each step as its record appears."""
    before = _runs(workspace)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "dags.local", PIPELINE, "--date", DATE.isoformat()]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [*command, "--verbose"] if verbose else command,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to pass on
        )
    try:
        run_id = _first_sign(console, process, workspace, before)
        if run_id is None:
            return process.wait(), None
        with progress_on(console) as progress:
            report = _follow(progress, process, workspace, run_id)
        return process.wait(), report
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _first_sign(
    console: Console, process: subprocess.Popen[bytes], workspace: Workspace, before: set[str]
) -> str | None:
    """The id of the new run once its first step began; None where Airflow ended without one."""
    started = time.monotonic()
    with console.status("Starting Airflow …"):
        while True:
            ended = process.poll() is not None
            new = _runs(workspace) - before
            if new:
                console.print(f"  Airflow is up after {time.monotonic() - started:.1f} s.")
                return new.pop()
            if ended:
                return None
            time.sleep(LOOK_SECONDS)


def _follow(
    progress: Progress, process: subprocess.Popen[bytes], workspace: Workspace, run_id: str
) -> Report | None:
    """Tell `progress` of every step's record; the report, where the run got one."""
    told: set[str] = set()
    running = ""
    while True:
        ended = process.poll() is not None  # asked first, so that the last look sees everything
        over = ended or _record(workspace, run_id, "report") is not None
        for step in STEPS:
            if step in told:
                continue
            record = _record(workspace, run_id, step)
            if record is not None and record.outcome == "success":
                result = _RESULTS[step].model_validate(record.result)
                progress.finished(step, record.seconds, result)
                told.add(step)
            elif not over:  # it runs, or Airflow may be about to try it again
                if running != step:
                    running = step
                    progress.started(step)
                break
            elif record is not None:
                said = (record.error or {}).get("found", "")
                progress.failed(step, record.seconds, PermanentError(said))
                told.add(step)
        if ended:
            break
        time.sleep(LOOK_SECONDS)
    record = _record(workspace, run_id, "report")
    return Report.model_validate(record.result) if record and record.result else None


def _record(workspace: Workspace, run_id: str, step: str) -> StepRecord | None:
    try:
        return StepRecord.model_validate_json(storage.read(workspace.step(run_id, step)))
    except FileNotFoundError:
        return None


def _runs(workspace: Workspace) -> set[str]:
    """The ids of Airflow's runs in the workspace."""
    runs = workspace.at("runs")
    ids = {entry.uri.removeprefix(f"{runs}/").split("/")[0] for entry in storage.entries(runs)}
    return {run_id for run_id in ids if run_id.startswith("airflow-")}


def _what_next(console: Console) -> None:
    console.print("[bold]Next[/]")
    for what, command in (
        ("open the report", f"daybreak report {PIPELINE} --open"),
        ("the other pipeline, a month", "daybreak run customer_churn --date 1998-03-31"),
        ("the same date again: unchanged", f"daybreak run {PIPELINE} --date {DATE}"),
        ("every folder, checked", "daybreak check"),
        ("what readers have", f"daybreak versions {PIPELINE} --date {DATE}"),
    ):
        console.print(f"  {what:<32}[cyan]{command}[/]", soft_wrap=True, highlight=False)
