"""What an orchestrator adds to a run, and how long a backfill takes.

    make demo && python bench/orchestration.py [--days 30] [--parallel 1 2 4] [--via local airflow]
                                               [--rounds 5] [--skip backfill|overhead]

Runs the demo's `flight_delay` for days of October 2013, in a fresh workspace for each measurement.

Overhead: the seven steps of one day `warm` in a process that has run another day before, as the
command `daybreak run` in a process of its own, and as a run of the DAG in a real Airflow
(LocalExecutor on PostgreSQL), from its start to its end. Backfill: `daybreak backfill` over
`--days` days, `--via local` and `--via airflow`, for each `--parallel`.

Seconds on the clock, medians where there are rounds, and the processor's seconds of every process
that takes part: those hold on a machine that has other work, the clock's do not. Airflow's include
what its own processes use meanwhile, and so does the row `Airflow at rest`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from daybreak.airflow_api import AirflowApi  # noqa: E402
from daybreak.local_airflow import LOGIN, LocalAirflow  # noqa: E402
from include.settings import AirflowServer, settings, silence_telemetry  # noqa: E402

PIPELINE = "flight_delay"
FIRST = dt.date(2013, 10, 1)
REST_SECONDS = 20
WAYS = ("local", "airflow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--parallel", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--via", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip", choices=["backfill", "overhead"])
    parser.add_argument("--warm", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.warm:
        print(json.dumps(warm_runs(arguments.warm)))
        return
    home = settings().home
    if not (home / "mlflow.db").exists():
        raise SystemExit(f"there is no demo in {home}: run `make demo` first")
    if arguments.skip != "overhead":
        overhead(arguments.rounds)
    if arguments.skip != "backfill":
        backfills(arguments.days, arguments.parallel, arguments.via)


@dataclass(frozen=True)
class Took:
    """Seconds on the clock, and of the processor."""

    wall: float
    cpu: float


def overhead(rounds: int) -> None:
    with fresh_workspace() as environment:
        done = subprocess.run(
            [sys.executable, __file__, "--warm", str(rounds)],
            env=environment, check=True, capture_output=True, text=True,
        )  # fmt: skip
        warm = [Took(*each) for each in json.loads(done.stdout.splitlines()[-1])]
    command = []
    for number in range(rounds):
        with fresh_workspace() as environment:
            command.append(timed(environment, "run", PIPELINE, "--date", str(day(number))))
    with fresh_workspace() as environment, airflow(environment) as api:
        started, used = time.perf_counter(), cpu_below()
        time.sleep(REST_SECONDS)
        rest = (cpu_below() - used) / (time.perf_counter() - started)
        dag = [dag_run(api, day(number)) for number in range(rounds)]
    direct = statistics.median(each.wall for each in warm)
    print(f"one day of {PIPELINE}, seven steps, medians of {rounds}")
    for name, runs in (("warm process", warm), ("daybreak run", command), ("Airflow", dag)):
        wall, cpu = (
            statistics.median(getattr(each, it) for each in runs) for it in ("wall", "cpu")
        )
        print(
            f"  {name:<14} {wall:7.1f} s   {wall - direct:+7.1f} s   {wall / direct:5.1f} ×   "
            f"CPU {cpu:6.1f} s"
        )
    print(f"  Airflow at rest: {rest:.2f} CPU s a second")


def warm_runs(rounds: int) -> list[tuple[float, float]]:
    """The seconds of runs in this process, the first of which pays the imports and is left out."""
    from rich.console import Console

    from daybreak.progress import progress_on
    from daybreak.run import new_request, run_steps

    silence_telemetry()
    seconds = []
    for number in range(rounds + 1):
        request = new_request(PIPELINE, dt.datetime.now(dt.UTC), day(number))
        started, used = time.perf_counter(), time.process_time()
        with progress_on(Console(stderr=True), plain=True) as progress:
            outcome = run_steps(request, progress)
        seconds.append((time.perf_counter() - started, time.process_time() - used))
        if outcome.error is not None:
            raise outcome.error
    return seconds[1:]


def dag_run(api: AirflowApi, date: dt.date) -> Took:
    """A manual run, from its start to its end, as Airflow has them."""
    body = {"logical_date": None, "conf": {"partition_date": str(date)}}
    used = cpu_below()
    run_id = api._call("POST", f"dags/{PIPELINE}/dagRuns", body)["dag_run_id"]
    while True:
        found = api._call("GET", f"dags/{PIPELINE}/dagRuns/{run_id}")
        if found["state"] == "failed":
            raise SystemExit(f"run {run_id} failed")
        if found["state"] == "success":
            begun, ended = (dt.datetime.fromisoformat(found[k]) for k in ("start_date", "end_date"))
            return Took((ended - begun).total_seconds(), cpu_below() - used)
        time.sleep(0.2)


def cpu_below() -> float:
    """CPU seconds of every process that this one started, and of those that have ended since."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def backfills(days: int, parallel: list[int], ways: list[str]) -> None:
    print(f"backfill of {days} days of {PIPELINE}: seconds on the clock, and of the processor")
    print(f"  {'via':<8} {'parallel':>8} {'clock':>8} {'CPU':>8}")
    for way in ways:
        for at_once in parallel:
            took = backfill(way, at_once, day(days - 1))
            print(f"  {way:<8} {at_once:>8} {took.wall:>8.0f} {took.cpu:>8.0f}", flush=True)


def backfill(way: str, at_once: int, last: dt.date) -> Took:
    command = ["backfill", PIPELINE, "--from", str(FIRST), "--to", str(last), "--via", way]
    command += ["--parallel", str(at_once)]
    with fresh_workspace() as environment:
        if way == "local":
            return timed(environment, *command)
        with airflow(environment):
            used = cpu_below()
            took = timed(environment, *command)
            return Took(took.wall, took.cpu + cpu_below() - used)


def day(number: int) -> dt.date:
    return FIRST + dt.timedelta(days=number)


def timed(environment: dict[str, str], *arguments: str) -> Took:
    """A command from its start to its end, with the processes that it starts and waits for."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "daybreak", *arguments],
        cwd=PROJECT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"daybreak {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(time.perf_counter() - started, cpu)


@contextmanager
def fresh_workspace() -> Iterator[dict[str, str]]:
    """The demo's warehouse and registry, and a workspace of its own."""
    with tempfile.TemporaryDirectory(prefix="daybreak-bench-") as folder:
        yield {
            **os.environ,
            "DAYBREAK_HOME": str(settings().home),
            "DAYBREAK_WORKSPACE": f"{folder}/workspace",
            "DAYBREAK_CACHE": f"{folder}/cache",
        }


@contextmanager
def airflow(environment: dict[str, str]) -> Iterator[AirflowApi]:
    """A whole Airflow that runs the pipeline; `environment` gets its address and login."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {name: value for name, value in environment.items() if name.startswith("DAYBREAK_")}
    home = Path(environment["DAYBREAK_WORKSPACE"]).parent / "airflow"
    with LocalAirflow(home, port=port, overrides=own) as server:
        environment |= {
            "DAYBREAK_AIRFLOW_URL": server.address,
            "DAYBREAK_AIRFLOW_USER": LOGIN,
            "DAYBREAK_AIRFLOW_PASSWORD": server.password,
        }
        api = AirflowApi(AirflowServer(server.address, LOGIN, server.password, None))
        while api.dag(PIPELINE) is None:
            time.sleep(0.5)
        api._call("PATCH", f"dags/{PIPELINE}", {"is_paused": False})
        # Unpausing starts the run of the last tick, for which the demo has no data.
        settle(api)
        yield api


def settle(api: AirflowApi) -> None:
    time.sleep(5)
    while True:
        runs = api._call("GET", f"dags/{PIPELINE}/dagRuns")["dag_runs"]
        if all(run["state"] in ("failed", "success") for run in runs):
            return
        time.sleep(0.5)


if __name__ == "__main__":
    main()
