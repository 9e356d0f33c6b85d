"""Pods outlive the parts of a real Airflow that wait for them, and are found again.

A scheduler, a triggerer and a cluster for minutes: one of the long proofs, `make test-all`.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from daybreak.airflow_api import AirflowApi
from daybreak.local_airflow import LOGIN, LocalAirflow
from include.pipeline import load_pipeline
from include.settings import settings
from include.stores import open_store
from include.workspace import Workspace
from tests.pod_cluster import PodCluster, running_cluster
from tests.pod_hooks import FIRST, airflow_environment, hook, pod_pipelines, write_hooks
from tests.world import ROWS, World, copy_world

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.e2e,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        not os.environ.get("DAYBREAK_LONG_TESTS"), reason="one of the long proofs: make test-all"
    ),
]

PATIENCE_SECONDS = 900


@dataclass
class Deployment:
    """A running Airflow, the cluster that it uses, and a world of pipelines."""

    airflow: LocalAirflow
    api: AirflowApi
    cluster: PodCluster
    world: World

    def trigger(self, name: str) -> Run:
        self.api._call("PATCH", f"dags/{name}", {"is_paused": False})
        conf = {"partition_date": self.world.day.isoformat()}
        body = {"logical_date": None, "conf": conf}
        made = self.api._call("POST", f"dags/{name}/dagRuns", body)
        return Run(self, name, made["dag_run_id"])

    def pods(self, run: Run) -> dict[str, Any]:
        found = self.cluster.client().list_namespaced_pod(
            "default", label_selector=f"daybreak/pipeline={run.dag}"
        )
        return {pod.metadata.name: pod for pod in found.items}


@dataclass
class Run:
    deployment: Deployment
    dag: str
    id: str

    @property
    def state(self) -> str:
        found = self.deployment.api._call("GET", f"dags/{self.dag}/dagRuns/{self.id}")
        return str(found["state"])

    def finished(self) -> str:
        wait_for(lambda: self.state in ("success", "failed"), self.tell)
        return self.state

    def tasks(self) -> dict[str, dict[str, Any]]:
        """By id, with the index of a mapped one: `pods.pod[0]`."""
        found = self.deployment.api._call(
            "GET", f"dags/{self.dag}/dagRuns/{self.id}/taskInstances?limit=100"
        )
        return {
            each["task_id"] + (f"[{each['map_index']}]" if each["map_index"] >= 0 else ""): each
            for each in found["task_instances"]
        }

    def tell(self) -> str:
        return str({name: task["state"] for name, task in self.tasks().items()})

    def log(self, task: str, map_index: int, attempt: int) -> str:
        folder = self.deployment.airflow.home / "logs" / f"dag_id={self.dag}"
        names = (f"task_id={task}", f"map_index={map_index}", f"attempt={attempt}.log")
        files = sorted(folder.joinpath(f"run_id={self.id}", *names[:2]).glob(f"{names[2]}*"))
        return "\n".join(file.read_text("utf-8", "replace") for file in files)

    def rows(self) -> int:
        world = self.deployment.world
        config = load_pipeline(world.pipelines / self.dag).config
        table = open_store(config.predictions, Workspace(world.workspace, self.dag).predictions())
        return int(table.read(world.day).num_rows)

    def running_pod(self) -> str:
        """The name of the run's pod that waits, once it runs."""

        def waiting() -> list[str]:
            return [
                name
                for name, pod in self.deployment.pods(self).items()
                if pod.status.phase == "Running" and FIRST.split()[1] in pod.spec.containers[0].args
            ]

        wait_for(lambda: bool(waiting()), self.tell)
        return waiting()[0]


def wait_for(holds: Callable[[], bool], tell: Callable[[], str] = str) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < until, tell()
        time.sleep(0.5)


PIPELINES: dict[str, dict[str, Any]] = {"triggerer": {}, "worker": {"deferrable": False}}


@pytest.fixture(scope="module")
def deployment(built_world: World, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    # Not below pytest's own folder: a second session closes that to others, PostgreSQL among them.
    with (
        running_cluster(request.config) as cluster,
        tempfile.TemporaryDirectory(prefix="daybreak-airflow-") as folder,
    ):
        world = copy_world(built_world, cluster.shared / "world")
        pod_pipelines(world, cluster, PIPELINES)
        overrides = airflow_environment(world, cluster) | {
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        }
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        home = Path(folder)
        with (
            LocalAirflow(home, port=port, overrides=overrides) as airflow,
            pytest.MonkeyPatch.context() as patch,
        ):
            known = {
                "DAYBREAK_AIRFLOW_URL": airflow.address,
                "DAYBREAK_AIRFLOW_USER": LOGIN,
                "DAYBREAK_AIRFLOW_PASSWORD": airflow.password,
            }
            for name, value in {**world.env, **known}.items():
                patch.setenv(name, value)
            api = AirflowApi(settings().airflow)
            wait_for(lambda: api.dag(list(PIPELINES)[-1]) is not None)
            yield Deployment(airflow, api, cluster, world)


def test_a_triggerer_that_is_killed_loses_no_pod(deployment: Deployment) -> None:
    until = deployment.cluster.shared / "triggerer"
    write_hooks(deployment.cluster, [hook("wait", "triggerer", FIRST, until=str(until))])
    run = deployment.trigger("triggerer")
    name = run.running_pod()
    wait_for(lambda: run.tasks()["pods.pod[0]"]["state"] == "deferred", run.tell)
    process = deployment.airflow.processes["triggerer"]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deployment.airflow.launch("triggerer")
    assert name in deployment.pods(run)
    until.touch()
    assert run.finished() == "success", run.tell()
    assert run.tasks()["pods.pod[0]"]["try_number"] == 1
    assert run.rows() == ROWS


def test_a_worker_that_is_killed_loses_no_pod(deployment: Deployment) -> None:
    until = deployment.cluster.shared / "worker"
    write_hooks(deployment.cluster, [hook("wait", "worker", FIRST, until=str(until))])
    run = deployment.trigger("worker")
    name = run.running_pod()
    pid = run.tasks()["pods.pod[0]"]["pid"]
    killed = psutil.Process(pid)
    supervisor = killed.parent()
    for process in filter(None, (supervisor, killed)):
        process.kill()
    wait_for(lambda: run.tasks()["pods.pod[0]"]["try_number"] == 2, run.tell)
    assert name in deployment.pods(run)
    until.touch()
    assert run.finished() == "success", run.tell()
    log = run.log("pods.pod", 0, 2)
    assert f"Reusing existing pod '{name}'" in log or name in log
    assert run.rows() == ROWS
