"""One whole Airflow for all the tests of this folder, and what they ask of it.

PostgreSQL, every component and an MLflow server as child processes, over a small real world of
pipelines. A start costs most of a minute, so that the tests share one, each with a pipeline of its
own.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from typer.testing import CliRunner, Result

from daybreak.airflow_api import AirflowApi
from daybreak.cli import app
from daybreak.local_airflow import LOGIN, LocalAirflow
from include.errors import TransientError
from include.settings import AirflowServer
from include.workspace import run_id_of
from tests.inbox import Inbox
from tests.world import NAME, World

PATIENCE_SECONDS = 600.0
ENDED = ("success", "failed")

# A scheduler that died is noticed, and its tasks are taken over, within a minute instead of five.
SOON_TAKEN_OVER = {
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "5",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
}

# Most promises are not about the gate, and Great Expectations takes seconds to import.
NO_SUITE = "expectations: []\n"

Found = TypeVar("Found")


@dataclass(frozen=True)
class Answer:
    """What a server answered to one request."""

    status: int
    headers: dict[str, str]
    body: bytes


class Deployment:
    """The running Airflow, its world, and what people were told."""

    def __init__(self, airflow: LocalAirflow, world: World, inbox: Inbox) -> None:
        self.airflow, self.world, self.inbox = airflow, world, inbox
        self.api = AirflowApi(AirflowServer(airflow.address, LOGIN, airflow.password, None))
        self.call = self.api._call
        self._orphans: list[int] = []

    @property
    def env(self) -> dict[str, str]:
        """What a shell needs to work on the same world, and with this Airflow."""
        return self.world.env | {
            "DAYBREAK_AIRFLOW_URL": self.airflow.address,
            "DAYBREAK_AIRFLOW_USER": LOGIN,
            "DAYBREAK_AIRFLOW_PASSWORD": self.airflow.password,
        }

    def add(
        self, name: str, changes: dict[str, Any], *, suite: str = NO_SUITE, paused: bool = False
    ) -> None:
        """A pipeline like the world's own but for `changes` and its suite; its DAG is there."""
        write_pipeline(self.world, name, changes, suite)
        # Airflow looks at a file now and then, or when it is asked to.
        known = self.api.dag(NAME)
        assert known is not None
        self.call("PUT", f"parseDagFile/{known['file_token']}")
        self.until(lambda: self.api.dag(name), f"the DAG {name}")
        self.pause(name, paused)

    def pause(self, name: str, paused: bool = True) -> None:
        self.call("PATCH", f"dags/{name}", {"is_paused": paused})

    def trigger(self, name: str, **conf: Any) -> DagRun:
        made = self.call("POST", f"dags/{name}/dagRuns", {"logical_date": None, "conf": conf})
        return DagRun(self, name, str(made["dag_run_id"]))

    def runs(self, name: str, kind: str | None = None) -> list[DagRun]:
        """The runs of a DAG, or those of one kind, the oldest first."""
        found = self.call("GET", f"dags/{name}/dagRuns?limit=100&order_by=run_after")["dag_runs"]
        return [
            DagRun(self, name, run["dag_run_id"])
            for run in found
            if kind is None or run["run_type"] == kind
        ]

    def fetch(self, url: str, *, token: str | None = None, cookie: str | None = None) -> Answer:
        """A page of this server, or of any other by its whole address."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if cookie:
            headers["Cookie"] = cookie
        address = url if "://" in url else self.airflow.address + url
        request = urllib.request.Request(address, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read())

    @property
    def token(self) -> str:
        return self.api._token or self.api._log_in()

    def shell(self, *arguments: str) -> Result:
        """`daybreak …`, run to its end in this process, where its libraries are loaded."""
        unset = dict.fromkeys(("MLFLOW_TRACKING_URI", "DAYBREAK_AIRFLOW_TOKEN"))
        return CliRunner().invoke(app, arguments, env={**self.env, **unset, "COLUMNS": "100"})

    def start_shell(self, *arguments: str) -> subprocess.Popen[str]:
        """`daybreak …` beside what the test does meanwhile."""
        return subprocess.Popen(
            [sys.executable, "-m", "daybreak", *arguments],
            env=os.environ | self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def restart_scheduler(self, *, with_its_tasks: bool) -> None:
        """Kill the scheduler, alone or with the tasks that it runs, and start it again."""
        scheduler = self.airflow.processes["scheduler"]
        if with_its_tasks:
            end_group(scheduler.pid)
        else:
            scheduler.kill()
            self._orphans.append(scheduler.pid)
        scheduler.wait()
        self.airflow.launch("scheduler")

    def end_orphans(self) -> None:
        """End the workers whose scheduler was killed, which Airflow never does."""
        for group in self._orphans:
            end_group(group)

    def until(
        self, look: Callable[[], Found], what: str, seconds: float = PATIENCE_SECONDS
    ) -> Found:
        """Wait until `look` finds something, and return it; fail with Airflow's own words."""
        end = time.monotonic() + seconds
        while True:
            try:
                if found := look():
                    return found
            except TransientError as error:
                said = str(error)
            else:
                said = ""
            if time.monotonic() > end:
                raise AssertionError(
                    f"in {seconds:.0f} s there was never {what}. {said}\n"
                    f"health: {self.airflow.health()}; ended: {self.airflow.dead()}\n"
                    f"{self.airflow.log_tail('scheduler', 40)}"
                )
            time.sleep(1)


@dataclass(frozen=True)
class DagRun:
    """One run of a DAG, as Airflow's API shows it."""

    deployment: Deployment
    dag: str
    id: str

    @property
    def path(self) -> str:
        return f"dags/{self.dag}/dagRuns/{quote(self.id, safe='')}"

    @property
    def page(self) -> str:
        return f"/{self.path.replace('dagRuns', 'runs')}"

    @property
    def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = self.deployment.call("GET", self.path)
        return found

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        found = self.deployment.call("GET", f"{self.path}/taskInstances?limit=100")
        return {task["task_id"]: task for task in found["task_instances"]}

    @property
    def states(self) -> dict[str, str]:
        return {name: task["state"] for name, task in self.tasks.items()}

    def ended(self) -> str:
        """The state of the run once it has ended."""

        def state() -> str | None:
            found = self.shown["state"]
            return str(found) if found in ENDED else None

        return self.deployment.until(state, f"an end of {self.dag} {self.id}") or ""

    def wait_for(self, task: str, *states: str) -> str:
        """The state of a task once it is one of `states`; fails if the run ends before."""

        def state() -> str | None:
            found = self.states
            if found.get(task) in states:
                return found[task]
            assert self.shown["state"] not in ENDED, (found, self.records)
            return None

        return self.deployment.until(state, f"{task} of {self.dag} in {states}") or ""

    @property
    def links(self) -> dict[str, str | None]:
        """The links of the run's tasks, by task and name: `report/Report`."""
        found = {}
        for task in self.tasks:
            links = self.deployment.call("GET", f"{self.path}/taskInstances/{task}/links")
            for name, url in links["extra_links"].items():
                found[f"{task}/{name}"] = url
        return found

    @property
    def records(self) -> Path:
        """The run's folder in the workspace."""
        home = self.deployment.world.home
        return home / "workspace" / self.dag / "runs" / run_id_of("airflow", self.id)

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.records / "report.json").read_text("utf-8"))
        return found

    @property
    def as_of(self) -> dt.date:
        """The partition that the run was for."""
        planned = json.loads((self.records / "run.json").read_text("utf-8"))
        return dt.date.fromisoformat(planned["partition"]["end"]) - dt.timedelta(days=1)


@contextmanager
def deployed(world: World, home: Path) -> Iterator[Deployment]:
    """A healthy Airflow that knows the world's pipelines, all of them paused."""
    with ExitStack() as stack:
        inbox = stack.enter_context(Inbox())
        registry = stack.enter_context(mlflow_server(world.registry, home / "mlflow.log"))
        served = replace(world, registry=registry)
        airflow = LocalAirflow(
            home,
            free_port(),
            overrides=served.env
            | SOON_TAKEN_OVER
            | {
                "DAYBREAK_NOTIFY": inbox.url,
                # A file that a test changes is parsed when the test asks for it.
                "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
            },
        )
        stack.enter_context(airflow)
        found = Deployment(airflow, served, inbox)
        found.until(lambda: _answers(registry), f"an MLflow at {registry}")
        found.until(lambda: found.api.dag(NAME), f"the DAG {NAME}")
        stack.callback(found.end_orphans)
        yield found


@contextmanager
def mlflow_server(database: str, log: Path) -> Iterator[str]:
    """A tracking server over the world's registry; its address. It may not answer yet."""
    log.parent.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database),
                *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            ],
            env=os.environ
            | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        end_group(server.pid)
        server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5):
            return True
    except OSError:
        return False


def write_pipeline(world: World, name: str, changes: dict[str, Any], suite: str) -> None:
    """The folder of a pipeline, all at once: Airflow may look at any moment."""
    draft = world.pipelines / f"_{name}"
    shutil.copytree(world.folder, draft)
    (draft / "suite.yaml").write_text(suite, "utf-8")
    replace(world, name=draft.name).configure(changes)
    draft.rename(world.pipelines / name)


def end_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
