"""Commands as processes of their own, started in milliseconds: `python -m tests.faults.nursery`.

It imports what `daybreak` imports, and then does nothing but fork: each line of its input is a
command, which a new process runs through `daybreak.cli.main`, as the installed script does. What
the imports of every command would take (six seconds of processor time) is spent once. The parent
calls no library and has no thread of its own, so that its children start as a new process would.

In:  {"id", "argv", "env", "out"} and what is to happen to it, one a line:
     "kill_at" a point, see points.py, or "kill_after" seconds; "trace", a file for its points
     "act_at" a point: damage.py's function "act" is called there with "arguments"
     "clock", seconds by which its clock is wrong
     "journal", a file for what it forces to the disk, see power.py
     "call": "module:function", "arguments": a function of the tests instead of a command
Out: {"id", "pid"} when it started, {"id", "status", "cpu"} when it ended
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

_OURS = ("DAYBREAK_", "AIRFLOW_CONN_", "AWS_", "MLFLOW_TRACKING_URI")


def preload() -> None:
    from include.gates.gx import import_great_expectations
    from include.settings import silence_telemetry

    silence_telemetry()
    for module in (
        "pyarrow.parquet", "pyarrow.dataset", "pandas", "lightgbm", "duckdb", "deltalake",
        "obstore", "scipy.stats", "threadpoolctl", "jinja2", "rich.live", "rich.table",
        "mlflow", "mlflow.lightgbm", "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.store.model_registry.sqlalchemy_store", "alembic.config", "sqlglot",
        "snowflake.connector",
    ):  # fmt: skip
        import_module(module)
    import_great_expectations()
    for module in (
        *(f"tasks.{step}" for step in ("plan", "extract", "gate", "score", "publish", "drift")),
        *("tasks.report", "tasks.upkeep", "daybreak.cli", "daybreak.run", "daybreak.progress"),
        *("daybreak.summary", "daybreak.expire", "daybreak.rollback", "daybreak.why"),
        *("include.gates.validation", "include.gates.suite", "include.gates.quarantine"),
        *("include.scorers.lightgbm", "include.engines.local", "include.stores.delta"),
        *("include.warehouses.duckdb", "include.drift.numbers", "include.stores.snowflake"),
        *(
            "tests.staged_versions",
            "tests.faults.points",
            "tests.faults.publishers",
            "tests.faults.power",
            "include.drift.references",
        ),
    ):
        import_module(module)


def main() -> None:
    preload()
    gc.freeze()
    said = os.fdopen(os.dup(1), "w", buffering=1)
    waiting = selectors.DefaultSelector()
    waiting.register(0, selectors.EVENT_READ, None)
    due: dict[int, float] = {}
    running: dict[int, str] = {}
    text = b""
    said.write(json.dumps({"id": "", "ready": True}) + "\n")
    while True:
        now = time.monotonic()
        for pid in [pid for pid, at in due.items() if at <= now]:
            os.kill(pid, signal.SIGKILL)
            del due[pid]
        patience = min(due.values(), default=now + 60) - now
        for key, _ in waiting.select(max(patience, 0)):
            if key.data is None:
                chunk = os.read(0, 1 << 16)
                if not chunk:
                    for pid in running:
                        os.kill(pid, signal.SIGKILL)
                    return
                *lines, text = (text + chunk).split(b"\n")
                for line in lines:
                    job = json.loads(line)
                    pid = _born(job)
                    running[pid] = job["id"]
                    if job.get("kill_after") is not None:
                        due[pid] = time.monotonic() + job["kill_after"]
                    waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                    said.write(json.dumps({"id": job["id"], "pid": pid}) + "\n")
            else:
                _, status, used = os.wait4(key.data, 0)
                due.pop(key.data, None)
                waiting.unregister(key.fd)
                os.close(key.fd)
                said.write(
                    json.dumps(
                        {
                            "id": running.pop(key.data),
                            "status": os.waitstatus_to_exitcode(status),
                            "cpu": used.ru_utime + used.ru_stime,
                        }
                    )
                    + "\n"
                )


def _born(job: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        code = _live(job)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - this process ends here, whatever it was
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _live(job: dict[str, Any]) -> int:
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(os.open(f"{job['out']}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(os.open(f"{job['out']}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        del os.environ[name]
    os.environ.update(job.get("env", {}))
    if job.get("clock"):
        from tests.faults.points import shift_clock

        shift_clock(job["clock"])
    if job.get("journal"):
        from tests.faults.power import record

        record(Path(job["journal"]))
    if job.get("kill_at") or job.get("trace") or job.get("act_at"):
        _mark_points(job)
    if "call" in job:
        module, _, function = job["call"].partition(":")
        getattr(import_module(module), function)(**job["arguments"])
        return 0
    from daybreak.cli import main as daybreak

    sys.argv = ["daybreak", *job["argv"]]
    daybreak()
    return 0


def _mark_points(job: dict[str, Any]) -> None:
    from tests.faults import damage
    from tests.faults.points import install

    def act() -> None:
        getattr(damage, job["act"])(**job["arguments"])

    install(
        job["argv"][0],
        job["env"]["DAYBREAK_WORKSPACE"],
        kill_at=job.get("kill_at"),
        trace=job.get("trace"),
        act_at=job.get("act_at"),
        act=act,
    )


if __name__ == "__main__":
    main()
