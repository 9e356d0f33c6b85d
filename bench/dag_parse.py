"""How long Airflow takes to parse dags/scoring.py for many pipelines.

    python bench/dag_parse.py [--pipelines 50 500] [--rounds 7]

Generates that many pipeline folders, then times, in one process that has parsed once before:
`warm`, the file again in the same process; `fork`, the file in a forked child that has imported
Airflow and nothing of Daybreak, as the DAG processor does for each parse; `worker`, the file as the
worker of one task parses it, for that task's DAG alone. Medians of the seconds on the clock and, in
brackets, of CPU seconds, which a busy machine does not stretch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent

PIPELINE_YAML = """\
description: Pipeline {number} of the parse benchmark
owner: team-{number}
tags: [bench, churn]
schedule:
  cron: "{minute} 2 * * *"
  timezone: Europe/Berlin
  deadline: "08:00"
partition: {{grain: day, lag: 1}}
warehouse: {{kind: duckdb, connection: bench}}
key: [customer_id]
model: {{name: churn, alias: production, output: probability}}
gate:
  min_rows: 1000
  max_rows: 2000000
  max_quarantined_share: 0.01
  freshness: {{column: updated_at, max_age_hours: 36}}
predictions:
  score_column: churn_probability
  pass_through: [region, segment]
"""
FEATURES = [f"feature_{number}" for number in range(30)]
SUITE_YAML = "expectations:\n" + "".join(
    f"  - type: expect_column_values_to_be_between\n"
    f"    kwargs: {{column: {name}, min_value: 0, max_value: 100}}\n"
    f"    severity: warning\n"
    for name in FEATURES[:15]
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pipelines", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        measure(arguments.child, arguments.rounds)
        return
    print(f"{'pipelines':>9} {'warm s':>15} {'fork s':>15} {'worker s':>15}")
    for count in arguments.pipelines:
        with tempfile.TemporaryDirectory() as folder:
            generate(Path(folder) / "pipelines", count)
            line = run_child(Path(folder), "warm,worker", arguments.rounds)
            line |= run_child(Path(folder), "fork", arguments.rounds)
        medians = [line[kind] for kind in ("warm", "fork", "worker")]
        shown = [f"{wall:.3f} ({cpu:.3f})" for wall, cpu in medians]
        print(f"{count:>9} " + " ".join(f"{text:>15}" for text in shown))


def generate(root: Path, count: int) -> None:
    for number in range(count):
        folder = root / f"pipeline_{number:04}"
        folder.mkdir(parents=True)
        yaml = PIPELINE_YAML.format(number=number, minute=number % 60)
        columns = ", ".join(["customer_id", "region", "segment", "updated_at", *FEATURES])
        (folder / "pipeline.yaml").write_text(yaml)
        (folder / "features.sql").write_text(f"SELECT {columns} FROM customers\nWHERE day = $as_of")
        (folder / "suite.yaml").write_text(SUITE_YAML)


def run_child(folder: Path, what: str, rounds: int) -> dict[str, Any]:
    """A fresh interpreter for each kind, so that none profits from what another imported."""
    environment = os.environ | {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "DAYBREAK_PIPELINES": str(folder / "pipelines"),
        "DAYBREAK_HOME": str(folder / "home"),
        "PYTHONPATH": str(PROJECT),
    }
    command = [sys.executable, __file__, "--child", what, "--rounds", str(rounds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure(what: str, rounds: int) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk.definitions._internal.dag_parsing_context import (
        _airflow_parsing_context_manager,
    )

    root = Path(os.environ["DAYBREAK_PIPELINES"])
    names = sorted(folder.name for folder in root.iterdir())

    def parse(only: str | None = None) -> None:
        context = (
            _airflow_parsing_context_manager(dag_id=only, task_id="plan") if only else nullcontext()
        )
        bag: Any = DagBag(dag_folder=os.devnull, collect_dags=False)
        with context:
            found = bag.process_file(str(PROJECT / "dags" / "scoring.py"), only_if_updated=False)
        expected = [only] if only else names
        if bag.import_errors or sorted(dag.dag_id for dag in found) != expected:
            raise SystemExit(f"the parse went wrong: {bag.import_errors or len(found)}")

    seconds: dict[str, tuple[float, float]] = {}
    for kind in what.split(","):
        only = names[len(names) // 2] if kind == "worker" else None
        if kind == "fork":
            rounds_of = [forked(parse) for _ in range(rounds)]
        else:
            parse(only)
            rounds_of = [timed(partial(parse, only)) for _ in range(rounds)]
        walls, cpus = zip(*rounds_of, strict=True)
        seconds[kind] = statistics.median(walls), statistics.median(cpus)
    print(json.dumps(seconds))


def timed(action: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock and of CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def forked(action: Callable[[], None]) -> tuple[float, float]:
    """The same, of a child process."""
    wall = time.perf_counter()
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException as error:  # noqa: BLE001
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    if status != 0:
        raise SystemExit("the forked parse failed")
    return time.perf_counter() - wall, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
