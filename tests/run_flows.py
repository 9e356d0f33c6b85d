"""Runs the Prefect flow one time after another: `python -m tests.run_flows < plan.json`.

The plan is {"home", "runs": [{"name", "parameters", "env"}]}, with "retry_seconds" where a fault
takes its time to pass, and "typed" in a run by `python -m flows.scoring`; the outcomes go to
<home>/runs.json.
One process for many runs, because Prefect's server takes longer to start than a run takes.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from include.settings import silence_telemetry

silence_telemetry()

from prefect.client.orchestration import get_client  # noqa: E402
from prefect.client.schemas.filters import (  # noqa: E402
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, TaskRun  # noqa: E402
from prefect.logging.handlers import APILogWorker  # noqa: E402
from prefect.testing.utilities import prefect_test_harness  # noqa: E402

from flows import scoring  # noqa: E402

STEPS = ("plan", "extract", "gate", "score", "publish", "drift", "report")


def main() -> None:
    plan = json.load(sys.stdin)
    for step in STEPS:
        getattr(scoring, step).retry_delay_seconds = [
            plan.get("retry_seconds", 0.1)
        ] * scoring.RETRIES
    with prefect_test_harness(server_startup_timeout=180):
        outcomes = {run["name"]: outcome(run) for run in plan["runs"]}
    (Path(plan["home"]) / "runs.json").write_text(json.dumps(outcomes), "utf-8")


def outcome(run: dict[str, Any]) -> dict[str, Any]:
    for name in list(os.environ):
        if name.startswith(("DAYBREAK_", "AIRFLOW_CONN_")):
            del os.environ[name]
    os.environ |= run["env"]
    if run.get("typed"):
        given, said = run["parameters"], io.StringIO()
        with redirect_stderr(said):
            code = scoring.main([given["pipeline"], "--date", given["partition_date"]])
        return {"code": code, "said": said.getvalue()}
    state = scoring.scoring(**run["parameters"], return_state=True)
    assert state.state_details.flow_run_id is not None
    with get_client(sync_client=True) as client:
        flow_run: FlowRun = client.read_flow_run(state.state_details.flow_run_id)
    assert flow_run.expected_start_time is not None
    return {
        "run_id": str(flow_run.id),
        "name": flow_run.name,
        "state": state.type.value.lower(),
        "state_name": state.name,
        "message": state.message,
        "error": str(state.result(raise_on_failure=False)) if state.is_failed() else "",
        "scheduled_at": flow_run.expected_start_time.isoformat(),
        "tasks": {
            task.name.rpartition("-")[0]: {
                "state": task.state_type and task.state_type.value.lower(),
                "tries": task.run_count,
            }
            for task in tasks_of(flow_run)
        },
        "logs": logs_of(flow_run),
    }


def tasks_of(flow_run: FlowRun) -> list[TaskRun]:
    """The flow run's task runs; the server learns of their ends a little after the flow's."""
    this = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
    until = time.monotonic() + 60
    while True:
        with get_client(sync_client=True) as client:
            tasks = client.read_task_runs(flow_run_filter=this)
        if all(task.state and task.state.is_final() for task in tasks):
            return tasks
        if time.monotonic() > until:
            raise TimeoutError(f"task runs without an end: {[task.name for task in tasks]}")
        time.sleep(0.2)


def logs_of(flow_run: FlowRun) -> list[str]:
    APILogWorker.drain_all(timeout=30)
    logs = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run.id]))
    with get_client(sync_client=True) as client:
        answer = client.request("POST", "/logs/filter", json={"logs": logs.model_dump(mode="json")})
    return [entry["message"] for entry in answer.json() if entry["name"] == "daybreak"]


if __name__ == "__main__":
    main()
