"""Whole runs on Spark: from Airflow by spark-submit, and from the command line as a driver.

A long proof, on a real cluster of one master and two workers; the engine's promises for every part
are in contract/test_engines.py.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from include.engines.spark import Spark
from include.receipts import receipts
from include.scoring import load_job
from include.snapshots import manifest_at
from include.stores import open_store
from include.workspace import Workspace
from tests.spark_cluster import Cluster, on_cluster, spark_cluster
from tests.world import NAME, ROWS, World, copy_world

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif("DAYBREAK_LONG_TESTS" not in os.environ, reason="long: make test-all"),
]

PROJECT = Path(__file__).resolve().parent.parent
DATE = dt.date(2026, 2, 1)
WHO = ["run_id", "scored_at"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with spark_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


def on_spark(world: World, cluster: Cluster) -> None:
    file = world.folder / "pipeline.yaml"
    content = yaml.safe_load(file.read_text("utf-8"))
    content["engine"] = on_cluster(cluster).model_dump(mode="json", exclude_defaults=True)
    file.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")


def start(world: World, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=PROJECT,
        env=os.environ | world.env,
        input=stdin,
        capture_output=True,
        text=True,
    )


def published(world: World) -> Any:
    workspace = Workspace(world.workspace, NAME)
    table = open_store(world.pipeline().config.predictions, workspace.predictions())
    current = table.current(DATE)
    assert current is not None
    return current.version, table.read(DATE).drop_columns(WHO)


def test_airflow_submits_the_application_as_a_task_and_publishes_the_same_rows(
    built_world: World, cluster: Cluster, tmp_path: Path
) -> None:
    here, there = (copy_world(built_world, tmp_path / name) for name in ("here", "there"))
    alone = start(here, "-m", "daybreak", "run", NAME, "--date", str(DATE))
    assert alone.returncode == 0, alone.stderr
    on_spark(there, cluster)
    run = {
        "name": "spark",
        "dag": NAME,
        "conf": {"partition_date": str(DATE)},
        "env": there.env,
        "connections": {},
    }
    home = tmp_path / "airflow"
    home.mkdir()
    done = start(
        there, "-m", "tests.run_dags", stdin=json.dumps({"home": str(home), "runs": [run]})
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads((home / "runs.json").read_text("utf-8"))["spark"]
    states = {name: task["state"] for name, task in outcome["tasks"].items()}
    assert outcome["state"] == "success", f"{states}\n{done.stdout[-5000:]}"
    assert {states[name] for name in ("spark.prepare", "spark.application", "score")} == {"success"}
    (version, rows), (expected_version, expected) = published(there), published(here)
    assert version == expected_version
    assert rows.num_rows == ROWS
    assert rows.equals(expected)
    job = next(Path(there.home).rglob("job.json"))
    assert len(receipts(load_job(job.as_uri()))) == 3
    assert cluster.state()["completedapps"], "the parts were scored on the cluster"


def test_the_driver_goes_on_from_the_jobs_uri_and_tells_its_pace(
    built_world: World, cluster: Cluster, tmp_path: Path
) -> None:
    world = copy_world(built_world, tmp_path / "world")
    assert start(world, "-m", "daybreak", "run", NAME, "--date", str(DATE)).returncode == 0
    job = load_job(next(Path(world.home).rglob("job.json")).as_uri())
    lost = receipts(job)[0]
    before = Path(lost.uri.removeprefix("file://")).read_bytes()
    Path(job.receipt_uri(lost.part).removeprefix("file://")).unlink()
    section = on_cluster(cluster).model_dump_json(exclude_defaults=True)
    done = start(world, "-m", "tasks", "score", job.uri, "--engine", section)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["part"] for line in said if "part" in line] == [lost.part]
    assert Path(lost.uri.removeprefix("file://")).read_bytes() == before


def test_an_executor_that_is_killed_costs_its_unfinished_parts_only(
    built_world: World, cluster: Cluster, tmp_path: Path
) -> None:
    world = copy_world(built_world, tmp_path / "world")
    world.configure({"snapshot": {"part_rows": 5}})
    assert start(world, "-m", "daybreak", "run", NAME, "--date", str(DATE)).returncode == 0
    job = load_job(next(Path(world.home).rglob("job.json")).as_uri())
    finished = receipts(job)
    before = {receipt.part: receipt.digest for receipt in finished}
    for receipt in finished:
        Path(job.receipt_uri(receipt.part).removeprefix("file://")).unlink()
    given, kept = [], {}
    for receipt in Spark(on_cluster(cluster)).score(job, manifest_at(job.snapshot_uri).parts):
        given.append(receipt)
        if len(given) == 1:
            cluster.kill_an_executor()
            kept = {r.part: Path(job.receipt_uri(r.part)[7:]).stat().st_mtime_ns
                    for r in receipts(job)}  # fmt: skip
    assert {receipt.part: receipt.digest for receipt in given} == before
    assert len(given) == len(before) == ROWS // 5
    now = {part: Path(job.receipt_uri(part)[7:]).stat().st_mtime_ns for part in kept}
    assert now == kept
