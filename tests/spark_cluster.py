"""A real standalone Spark cluster for tests: one master, two workers, processes on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.engine_config import SparkEngine
from include.spark.rendering import rendered
from include.spark.session import spark_session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Daemons that do next to nothing need no optimising compiler and no parallel collector.
LIGHT_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
START_SECONDS = 300.0


@dataclass
class Cluster:
    """`master` is what applications connect to; `folder` holds the daemons' logs and work."""

    folder: Path
    port: int
    web_port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def master(self) -> str:
        return f"spark://127.0.0.1:{self.port}"

    @property
    def conf(self) -> dict[str, str]:
        """What an application needs here: this interpreter's packages and little memory."""
        return {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.executor.memory": "512m",
            "spark.cores.max": "2",
            "spark.executor.cores": "1",
            "spark.executor.extraJavaOptions": LIGHT_JVM,
            "spark.driver.extraJavaOptions": LIGHT_JVM,
        }

    def state(self) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.web_port}/json/"
        with urllib.request.urlopen(url, timeout=30) as answer:
            said: dict[str, Any] = json.load(answer)
        return said

    def executors(self) -> list[int]:
        """The process ids of the executors that run, of whatever application."""
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                line = (folder / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue  # It ended meanwhile.
            if "CoarseGrainedExecutorBackend" in line and str(self.folder) in _directory(folder):
                found.append(int(folder.name))
        return sorted(found)

    def kill_an_executor(self) -> int:
        """kill -9 of one executor; its process id."""
        process = self.executors()[0]
        os.kill(process, signal.SIGKILL)
        return process


@contextmanager
def spark_cluster(folder: Path, worker_options: str = "") -> Iterator[Cluster]:
    """A cluster with two workers of one core each; everything is ended afterwards."""
    import pyspark

    home = Path(pyspark.__file__).parent
    cluster = Cluster(folder, _free_port(), _free_port())
    environment = dict(
        os.environ,
        SPARK_HOME=str(home),
        SPARK_LOCAL_IP="127.0.0.1",
        SPARK_DAEMON_MEMORY="192m",
        SPARK_DAEMON_JAVA_OPTS=LIGHT_JVM,
        SPARK_WORKER_OPTS=worker_options,
        PYSPARK_PYTHON=sys.executable,
    )

    def start(name: str, *arguments: str) -> None:
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", *arguments],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        cluster.processes.append(process)

    own = ["--host", "127.0.0.1", "--webui-port"]
    try:
        start("master.Master", *own, str(cluster.web_port), "--port", str(cluster.port))
        for number in range(2):
            start(
                "worker.Worker",
                *own,
                "0",
                "--cores",
                "1",
                "--memory",
                "1g",
                "--work-dir",
                str(folder / f"worker-{number}"),
                cluster.master,
            )
        _await_workers(cluster)
        yield cluster
    finally:
        for process in cluster.processes:
            process.terminate()
        for process in cluster.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def connect_server(folder: Path) -> Iterator[SparkEngine]:
    """A Spark Connect server on loopback, with two cores; the engine section for it."""
    import pyspark

    home, port = Path(pyspark.__file__).parent, _free_port()
    conf = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "768m",
        "spark.driver.extraJavaOptions": LIGHT_JVM,
        "spark.ui.enabled": "false",
        "spark.log.level": "WARN",
        "spark.sql.warehouse.dir": (folder / "tables").as_uri(),
    }
    log = folder / "connect.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                str(home / "bin" / "spark-submit"),
                *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer"),
                # As a cluster does, and Spark's own local master does not.
                *("--master", "local[2,4]"),
                *(word for name, value in conf.items() for word in ("--conf", f"{name}={value}")),
            ],
            cwd=folder,
            env=os.environ | {"SPARK_HOME": str(home), "PYSPARK_PYTHON": sys.executable},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.3)
        yield SparkEngine(kind="spark", master=f"sc://127.0.0.1:{port}")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _await_workers(cluster: Cluster) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if cluster.state()["aliveworkers"] == 2:
                return
        except OSError:
            pass  # The master's page is not up yet.
        if time.monotonic() > deadline or any(p.poll() is not None for p in cluster.processes):
            logs = [file.read_text()[-2000:] for file in cluster.folder.glob("*.log")]
            raise AssertionError("the cluster did not start:\n" + "\n".join(logs))
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _directory(folder: Path) -> str:
    try:
        return str((folder / "cwd").readlink())
    except OSError:
        return ""


@contextmanager
def kept_session(config: SparkEngine) -> Iterator[SparkSession]:
    """A session that engines of this configuration share, and that a test may look into."""
    settings = rendered(config.master, config.conf, config.gpu)
    with spark_session(config.master, settings, "daybreak tests") as spark:
        yield spark


def on_cluster(cluster: Cluster, **more: Any) -> SparkEngine:
    """The engine section for a cluster of ours."""
    conf = cluster.conf | more.pop("conf", {})
    packaging = {"python": sys.executable}
    return SparkEngine.model_validate(
        {"kind": "spark", "master": cluster.master, "conf": conf, "packaging": packaging} | more
    )


def on_this_machine(**more: Any) -> SparkEngine:
    conf = {"spark.driver.extraJavaOptions": LIGHT_JVM, "spark.driver.memory": "512m"}
    return SparkEngine.model_validate(
        {"kind": "spark", "master": "local[2]", "conf": conf | more.pop("conf", {})} | more
    )
