"""A version that the audit holds, in a whole Airflow: a person answers there, or in a shell."""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

import daybreak
from daybreak.airflow_api import AirflowApi
from daybreak.local_airflow import LOGIN, LocalAirflow
from include.settings import AirflowServer
from include.workspace import run_id_of
from tests.inbox import Inbox
from tests.world import NAME, ROWS, World, copy_world

pytestmark = pytest.mark.e2e

BEFORE = dt.date(2026, 2, 1)
REJECTED, APPROVED, IN_A_SHELL = (BEFORE + dt.timedelta(days=n) for n in (1, 2, 3))
ASK = "approval.ask"


class Deployment:
    """The running Airflow with one pipeline, whose versions are held where scores moved."""

    def __init__(self, airflow: LocalAirflow, world: World, inbox: Inbox) -> None:
        self.airflow, self.world, self.inbox = airflow, world, inbox
        server = AirflowServer(airflow.address, LOGIN, airflow.password, None)
        self.call = AirflowApi(server)._call

    def trigger(self, **conf: Any) -> str:
        made = self.call("POST", f"dags/{NAME}/dagRuns", {"logical_date": None, "conf": conf})
        return str(made["dag_run_id"])

    def tasks(self, run: str) -> dict[str, dict[str, Any]]:
        found = self.call("GET", f"{self.path(run)}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in found}

    def states(self, run: str) -> dict[str, str]:
        return {name: task["state"] for name, task in self.tasks(run).items()}

    def asked(self, run: str) -> dict[str, Any]:
        """The question of a run, once it waits for its answer."""

        def waits() -> bool:
            states = self.states(run)
            assert states["verdict"] not in ("success", "failed"), (states, self.report(run))
            return states[ASK] == "deferred"

        eventually(waits, self.tail)
        detail: dict[str, Any] = self.call(
            "GET", f"{self.path(run)}/taskInstances/{ASK}/-1/hitlDetails"
        )
        return detail

    def answer(self, run: str, option: str, reason: str) -> None:
        self.call(
            "PATCH",
            f"{self.path(run)}/taskInstances/{ASK}/-1/hitlDetails",
            {"chosen_options": [option], "params_input": {"reason": reason}},
        )

    def ended(self, run: str) -> str:
        done = ("success", "failed")
        return str(
            eventually(
                lambda: (state := self.call("GET", self.path(run))["state"]) in done and state,
                self.tail,
            )
        )

    def path(self, run: str) -> str:
        return f"dags/{NAME}/dagRuns/{quote(run, safe='')}"

    def shell(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "daybreak", *arguments],
            env=os.environ | self.world.env,
            capture_output=True,
            text=True,
        )

    def report(self, run: str) -> dict[str, Any]:
        folder = self.world.home / "workspace" / NAME / "runs" / run_id_of("airflow", run)
        found: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
        return found

    def tail(self) -> str:
        return self.airflow.log_tail("scheduler", 40)


def eventually(look: Callable[[], Any], explain: Callable[[], str], seconds: float = 300) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"nothing came in {seconds:.0f} s\n{explain()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def deployment(
    built_world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    base = tmp_path_factory.mktemp("approvals")
    world = copy_world(built_world, base / "world")
    world.configure({"schedule": {"cron": None, "deadline": None}, "drift": {"trailing": 0}})
    for day in (REJECTED, APPROVED):
        world.execute(f"UPDATE accounts SET visits = 0 WHERE event_date = '{day}'")
    with Inbox() as inbox, pytest.MonkeyPatch.context() as patch:
        airflow = LocalAirflow(
            base / "airflow",
            free_port(),
            overrides=world.env
            | {
                "DAYBREAK_NOTIFY": inbox.url,
                "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "false",
            },
        )
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in world.env.items():
            patch.setenv(name, value)
        with airflow:
            found = Deployment(airflow, world, inbox)
            done = found.shell("run", NAME, "--date", str(BEFORE), "--json")
            assert done.returncode == 0, done.stderr
            api = AirflowApi(AirflowServer(airflow.address, LOGIN, airflow.password, None))
            eventually(lambda: api.dag(NAME), found.tail)
            yield found


def test_a_version_that_a_person_rejects_in_airflow_is_not_published(
    deployment: Deployment,
) -> None:
    run = deployment.trigger(partition_date=str(REJECTED))
    asked = deployment.asked(run)
    assert asked["subject"] == f"Publish the predictions of {NAME} for {REJECTED}?"
    for said in ("PSI", "score_shift", f"{ROWS:,} in", "daybreak approve", "/report.html"):
        assert said in asked["body"]
    assert asked["options"] == ["Approve", "Reject"]
    # People were told before anybody answered, and of how to.
    message = deployment.inbox.wait(60, title="held, waits for a person")
    assert message is not None
    assert f"daybreak approve {NAME} --date {REJECTED}" in message["message"]
    assert deployment.report(run)["state"] == "held"
    deployment.answer(run, "Reject", "the source lost its visits")
    assert deployment.ended(run) == "failed"
    states = deployment.states(run)
    assert (states["publish"], states[ASK]) == ("skipped", "success")
    assert states["approval.publish_approved"] == "failed"
    assert (states["drift"], states["announce"]) == ("upstream_failed", "upstream_failed")
    content = deployment.report(run)
    assert content["state"] == "failed"
    assert "rejected by admin" in content["problem"]["found"]
    assert "the source lost its visits" in content["problem"]["found"]
    status = deployment.shell("status", NAME, "--offline", "--json", "--from", str(REJECTED))
    (state, *_) = json.loads(status.stdout)["partitions"]
    assert (state["state"], "rejected by" in state["reasons"][0]) == ("failed", True)


def test_a_version_that_a_person_approves_in_airflow_is_published_and_the_run_green(
    deployment: Deployment,
) -> None:
    run = deployment.trigger(partition_date=str(APPROVED))
    deployment.asked(run)
    deployment.answer(run, "Approve", "a strike: nobody visits")
    assert deployment.ended(run) == "success", deployment.states(run)
    states = deployment.states(run)
    assert states.pop("publish") == "skipped"
    assert set(states.values()) == {"success"}
    assert daybreak.read(NAME, APPROVED).num_rows == ROWS
    content = deployment.report(run)
    assert content["state"] == "published"
    assert "approved by admin" in content["publish"]["note"]
    assert content["drift"] is not None
    versions = deployment.shell("versions", NAME, "--date", str(APPROVED), "--json")
    (version,) = json.loads(versions.stdout)["versions"]
    assert version["approval"]["reason"] == "a strike: nobody visits"
    events = deployment.call("GET", "assets/events")["asset_events"]
    assert [event["source_run_id"] for event in events] == [run]


def test_an_answer_in_a_shell_is_noticed_by_the_task_that_waits(deployment: Deployment) -> None:
    run = deployment.trigger(partition_date=str(IN_A_SHELL))
    deployment.asked(run)
    done = deployment.shell(
        *("approve", NAME, "--date", str(IN_A_SHELL), "--by", "ann", "--reason", "over again"),
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == "published"
    assert deployment.ended(run) == "success", deployment.states(run)
    assert deployment.states(run)["approval.publish_approved"] == "success"
    assert "approved by ann" in deployment.report(run)["publish"]["note"]
    detail = deployment.call("GET", f"{deployment.path(run)}/taskInstances/{ASK}/-1/hitlDetails")
    assert detail["response_received"] and detail["chosen_options"] == ["Approve"]
    again = deployment.shell("approve", NAME, "--date", str(IN_A_SHELL), "--by", "bob", "--json")
    assert again.returncode == 0, again.stderr
    printed = json.loads(again.stdout)
    assert (printed["outcome"], printed["answer"]["by"]) == ("unchanged", "ann")
