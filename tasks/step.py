"""What every step has around it: its record, one log line, and the place in its errors."""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from include import storage
from include.errors import DaybreakError
from include.run import Run, StepRecord, Value
from include.settings import silence_telemetry
from include.workspace import Workspace

log = logging.getLogger("daybreak")

# What of a step's result stands in its log line, where the result has it.
COUNTS = ("rows", "rows_in", "scored", "quarantined", "version", "verdict", "state")


class Recorder:
    """Takes the value that the step returns, for the record."""

    result: Value | None = None


@contextmanager
def recorded(
    step: str, workspace: Workspace, run_id: str, partition: str = ""
) -> Iterator[Recorder]:
    """Run a step's body; write `steps/<step>.json` however it ends.

    The report is made from these records, so it needs nothing from a step that failed. An error of
    ours leaves with the pipeline and the partition in it.
    """
    silence_telemetry()
    started_at, clock = dt.datetime.now(dt.UTC), time.monotonic()
    recorder = Recorder()

    def record(outcome: str, error: dict[str, str] | None) -> None:
        seconds = round(time.monotonic() - clock, 3)
        value = recorder.result.model_dump(mode="json") if recorder.result is not None else None
        entry = StepRecord.model_validate(
            {
                "step": step,
                "outcome": outcome,
                "started_at": started_at,
                "seconds": seconds,
                "result": value,
                "error": error,
            }
        )
        storage.write(workspace.step(run_id, step), entry.model_dump_json(indent=2).encode())
        line: dict[str, object] = {
            "step": step,
            "pipeline": workspace.pipeline,
            "partition": partition,
        }
        line |= {name: value[name] for name in COUNTS if value and name in value}
        line |= {"outcome": outcome, "seconds": seconds, "run_id": run_id}
        log.info(json.dumps(line))

    try:
        yield recorder
    except DaybreakError as error:
        error.located(workspace.pipeline, partition)
        record("failed", error.fields())
        raise
    except Exception as error:
        record("failed", {"error": type(error).__name__, "found": str(error)})
        raise
    except BaseException as stop:  # Ctrl-C, SIGTERM, an orchestrator's own way to say so
        name = type(stop).__name__
        found = f"the step was stopped ({name}{f': {stop}' if str(stop) else ''})"
        again = "run it again: what is finished stays, and it goes on from there"
        record("failed", {"error": name, "found": found, "do": again})
        raise
    record("success", None)


@contextmanager
def step_of(run: Run, step: str) -> Iterator[Recorder]:
    """`recorded`, for the steps that have a Run."""
    workspace = Workspace(run.workspace, run.pipeline)
    with recorded(step, workspace, run.run_id, str(run.partition)) as recorder:
        yield recorder
