"""Runs DAGs whose parts are scored by pods, one after another in one Airflow process.

`python -m tests.run_pods < plan.json`: the plan is {"home", "env", "runs": [{"name", "dag", "conf",
"hooks", "hooks_file"}]}; the outcomes go to <home>/runs.json. Tasks run here and triggers too.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import dags.local as local


def main() -> None:
    os.umask(0)  # Pods run as another user and write beside what is written here.
    plan = json.load(sys.stdin)
    os.environ |= plan["env"]
    home = Path(plan["home"])
    local.RETRY_DELAY *= 0.05
    local.configure(home, verbose=True)
    outcomes = {}
    for run in plan["runs"]:
        Path(run["hooks_file"]).write_text(json.dumps(run["hooks"]))
        began = time.monotonic()
        finished = local.run_once(local.find(run["dag"]), run["conf"])
        outcomes[run["name"]] = {
            "seconds": round(time.monotonic() - began, 1),
            "run_id": finished.run_id,
            "state": finished.state,
            "tasks": {
                task.task_id + (f"[{task.map_index}]" if task.map_index >= 0 else ""): {
                    "state": task.state,
                    "tries": task.try_number,
                    "title": task.rendered_map_index,
                }
                for task in finished.get_task_instances()
            },
        }
        (home / "runs.json").write_text(json.dumps(outcomes), "utf-8")


if __name__ == "__main__":
    main()
