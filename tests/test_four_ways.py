"""One run on every engine: the same version and bytes, and what one began another finishes.

Through the steps, as a run takes them; part by part the same is promised of every engine in
contract/test_engines.py. The four ways are this machine, Spark on it, a Spark cluster, and pods on
a Kubernetes cluster; the last two take minutes and are for the long tests.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from include import storage
from include.receipts import receipts
from include.run import Scored
from include.scoring import ScoringJob, load_job
from include.settings import PROJECT
from include.snapshots import manifest_at
from tests.pod_cluster import running_cluster
from tests.spark_cluster import kept_session, on_cluster, on_this_machine, spark_cluster
from tests.world import ROWS, World, copy_world

PATIENCE_SECONDS = 600.0
PARTS = 6
LOCAL = {"kind": "local", "workers": 1}
LONG = pytest.mark.skipif(
    "DAYBREAK_LONG_TESTS" not in os.environ, reason="one of the long proofs: make test-all"
)
ENGINES = [
    pytest.param("spark", id="Spark on this machine"),
    pytest.param("spark cluster", id="a Spark cluster", marks=LONG),
    pytest.param("pods", id="pods", marks=[LONG, pytest.mark.cluster]),
]

pytestmark = pytest.mark.timeout(1200)


@dataclass
class Night:
    """A run of six parts that was scored here once, and may be scored elsewhere: `engine`."""

    world: World
    engine: dict[str, Any]
    first: Scored
    expected: dict[int, bytes]

    @classmethod
    def of(cls, world: World, engine: dict[str, Any]) -> Night:
        world.configure({"snapshot": {"part_rows": ROWS // PARTS}})
        night = cls(world, engine, Scored.model_construct(), {})
        night.first = night.score(LOCAL)
        night.expected = night.written()
        assert len(night.expected) == PARTS
        return night

    def score(self, engine: dict[str, Any]) -> Scored:
        """The steps up to `score`, of a run on this engine."""
        from tasks.extract import extract
        from tasks.gate import gate
        from tasks.plan import plan
        from tasks.score import score

        file = self.world.folder / "pipeline.yaml"
        content = yaml.safe_load(file.read_text("utf-8")) | {"engine": engine}
        file.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
        run = plan(self.world.request(run=str(engine["kind"])))
        snapshot = extract(run)
        return score(run, snapshot, gate(run, snapshot))

    @property
    def job(self) -> ScoringJob:
        """There is one, whichever engines scored it."""
        (file,) = Path(self.world.home).rglob("job.json")
        return load_job(file.as_uri())

    def written(self) -> dict[int, bytes]:
        job = self.job
        return {receipt.part: storage.read(receipt.uri) for receipt in receipts(job)}

    def forget(self, but: tuple[int, ...] = ()) -> None:
        """No part counts as scored any more, and no file is left, but of these."""
        job = self.job
        kept = {receipt: storage.read(job.receipt_uri(receipt.part))
                for receipt in receipts(job)}  # fmt: skip
        records = (entry.uri for entry in storage.entries(job.receipts_uri))
        storage.delete([uri for uri in records if uri != job.uri])
        for receipt, content in kept.items():
            if receipt.part in but:
                storage.write(job.receipt_uri(receipt.part), content)
            else:
                storage.delete([receipt.uri])

    def driver(self, *options: str) -> subprocess.Popen[str]:
        """`python -m tasks score JOB_URI --engine …`, as a process of its own."""
        section = json.dumps(self.engine)
        return subprocess.Popen(
            [sys.executable, "-m", "tasks", "score", self.job.uri, "--engine", section, *options],
            cwd=self.world.home,
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module", params=ENGINES)
def night(
    request: pytest.FixtureRequest, built_world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Night]:
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("night")
        if request.param == "pods":
            cluster = stack.enter_context(running_cluster(request.config))
            folder, engine = cluster.shared, cluster.engine()
        elif request.param == "spark cluster":
            found = on_cluster(stack.enter_context(spark_cluster(folder)))
            engine = found.model_dump(mode="json", exclude_defaults=True)
        else:
            here = on_this_machine()
            stack.enter_context(kept_session(here))
            engine = here.model_dump(mode="json", exclude_defaults=True)
        world = copy_world(built_world, folder / "world")
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in world.env.items():
            patch.setenv(name, value)
        if request.param == "pods":
            patch.setenv("KUBECONFIG", str(cluster.kubeconfig))
        yield Night.of(world, engine)


def test_one_run_is_the_same_version_and_the_same_bytes_on_every_engine(night: Night) -> None:
    night.forget()
    assert night.written() == {}
    scored = night.score(night.engine)
    assert (scored.version, scored.reused_parts) == (night.first.version, 0)
    assert scored.rows_in == night.first.rows_in == ROWS
    assert night.written() == night.expected


def test_what_this_machine_began_another_engine_finishes(night: Night) -> None:
    if len(night.written()) < PARTS:
        night.score(LOCAL)
    night.forget(but=(0, 2, 3))
    scored = night.score(night.engine)
    assert (scored.version, scored.reused_parts) == (night.first.version, 3)
    assert night.written() == night.expected


def test_what_another_engine_began_this_machine_finishes(night: Night) -> None:
    """Stopped by SIGTERM in the middle, in the very process that a scheduler would start."""
    night.forget()
    path = storage.local_path(manifest_at(night.job.snapshot_uri).parts[4].uri)
    assert path is not None
    whole = path.rename(path.with_suffix(".whole"))
    os.mkfifo(path, 0o666)  # who reads it waits, for as long as nobody writes
    driver = night.driver()
    try:
        started: list[psutil.Process] = []
        # A pod has one worker, which gets no further; Spark's other tasks go on.
        finished = {0, 1, 2, 3} if night.engine["kind"] == "kubernetes" else {0, 1, 2, 3, 5}
        wait_for(lambda: finished <= night.written().keys(), driver, night)
        started = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGTERM)
        said = driver.communicate(timeout=PATIENCE_SECONDS)[0]
    finally:
        driver.kill()
        driver.wait()
        path.unlink()
        whole.rename(path)
    assert driver.returncode == 75, said
    _, alive = psutil.wait_procs(started, timeout=PATIENCE_SECONDS)
    assert not alive
    # Spark's own default is a folder for tables wherever a process happens to be.
    assert not (night.world.home / "spark-warehouse").exists()
    assert 4 not in night.written()
    scored = night.score(LOCAL)
    assert (scored.version, scored.reused_parts) == (night.first.version, len(finished))
    assert night.written() == night.expected


def wait_for(holds: Callable[[], bool], driver: subprocess.Popen[str], night: Night) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < until, sorted(night.written())
        time.sleep(0.3)
