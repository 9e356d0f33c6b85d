"""A whole Airflow: the deadline that passes, the asset that others wait for, the report's page."""

from __future__ import annotations

import datetime as dt
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from daybreak.local_airflow import LocalAirflow
from tests.inbox import Inbox
from tests.world import NAME, World, copy_world

pytestmark = pytest.mark.e2e

PUNCTUAL, FOLLOWER = "punctual", "follower"
TRIES = 3  # a busy machine may take a folder in only after the minute that was meant
SOON = dt.timedelta(seconds=90)


class Deployment:
    """The running Airflow, its API, and what people were told."""

    def __init__(self, airflow: LocalAirflow, world: World, inbox: Inbox) -> None:
        self.airflow, self.world, self.inbox = airflow, world, inbox
        self.token = self.call("/auth/token", {"username": "admin", "password": airflow.password})[
            "access_token"
        ]

    def call(self, path: str, body: dict[str, Any] | None = None, method: str = "") -> Any:
        answer = self.request(path, body, method, token=getattr(self, "token", ""))
        return json.load(answer)

    def request(
        self,
        path: str,
        body: dict[str, Any] | None = None,
        method: str = "",
        *,
        token: str = "",
        cookie: str = "",
    ) -> Any:
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if cookie:
            headers["Cookie"] = cookie
        request = urllib.request.Request(
            self.airflow.address + path,
            data=None if body is None else json.dumps(body).encode(),
            headers=headers,
            method=method or ("GET" if body is None else "POST"),
        )
        return urllib.request.urlopen(request, timeout=120)

    def status(self, path: str, *, token: str = "") -> int:
        try:
            return int(self.request(path, token=token).status)
        except urllib.error.HTTPError as error:
            return error.code

    def runs(self, dag: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call(f"/api/v2/dags/{dag}/dagRuns")["dag_runs"]
        return found

    def run(self, dag: str, conf: dict[str, Any]) -> dict[str, Any]:
        """Trigger a run and wait for its end."""
        made = self.call(f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})
        path = f"/api/v2/dags/{dag}/dagRuns/{made['dag_run_id']}"
        ended: dict[str, Any] = eventually(
            lambda: (run := self.call(path))["state"] in ("success", "failed") and run
        )
        return ended


def eventually(look: Callable[[], Any], seconds: float = 240) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(1)
    raise AssertionError(f"nothing came in {seconds:.0f} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def deployment(
    built_world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    base = tmp_path_factory.mktemp("alarms")
    world = copy_world(built_world, base / "world")
    world.configure({"schedule": {"cron": None, "deadline": None}})
    add(world, FOLLOWER, {"assets": [f"daybreak/{NAME}"], "cron": "0 5 1 1 *"})
    be_due(world, dt.datetime.now(dt.UTC) + SOON)
    with Inbox() as inbox:
        airflow = LocalAirflow(
            base / "airflow",
            free_port(),
            overrides=world.env
            | {
                "DAYBREAK_NOTIFY": inbox.url,
                "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "false",
                "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "15",
            },
        )
        with airflow:
            found = Deployment(airflow, world, inbox)
            eventually(lambda: found.status(f"/api/v2/dags/{NAME}", token=found.token) == 200)
            yield found


def add(world: World, name: str, schedule: dict[str, Any]) -> None:
    """A pipeline like the world's own with another schedule, and no model: it fails to plan."""
    folder = world.pipelines / name
    folder.mkdir(exist_ok=True)
    for file in ("features.sql", "suite.yaml"):
        (folder / file).write_text((world.folder / file).read_text("utf-8"), "utf-8")
    content = yaml.safe_load((world.folder / "pipeline.yaml").read_text("utf-8"))
    content["schedule"] = {"start_date": dt.date(2026, 1, 1), **schedule}
    content["model"]["name"] = "no-such-model"
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")


def be_due(world: World, due: dt.datetime) -> None:
    """A pipeline that runs every minute, and whose runs until then are due at `due`."""
    add(world, PUNCTUAL, {"cron": "* * * * *", "timezone": "UTC", "deadline": f"{due:%H:%M:%S}"})


def test_a_deadline_that_passes_is_told_with_the_step_that_runs(deployment: Deployment) -> None:
    for _ in range(TRIES):
        alarm = deployment.inbox.wait(SOON.total_seconds() + 20, title="late, not published by")
        if alarm:
            break
        be_due(deployment.world, dt.datetime.now(dt.UTC) + SOON)
    assert alarm is not None
    deployment.call(f"/api/v2/dags/{PUNCTUAL}", {"is_paused": True}, "PATCH")
    title, *_ = alarm["title"].partition(":")
    assert title.split()[0] == PUNCTUAL
    said = dict(line.split(": ", 1) for line in alarm["message"].splitlines())
    assert "is running" in said["Where"] or "failed" in said["Where"] or "not" in said["Where"]
    assert f"/dags/{PUNCTUAL}/runs/scheduled__" in said["Run"]
    assert said["Readers"] == "nothing of this table is known to be published"


def test_a_new_version_starts_the_pipelines_that_wait_for_it_once(deployment: Deployment) -> None:
    date = {"partition_date": str(deployment.world.day)}
    first = deployment.run(NAME, date)
    assert first["state"] == "success"
    again = deployment.run(NAME, date)
    assert again["state"] == "success"
    events = deployment.call("/api/v2/assets/events")["asset_events"]
    assert [event["source_run_id"] for event in events] == [first["dag_run_id"]]
    extra = events[0]["extra"]
    assert extra["as_of"] == str(deployment.world.day)
    assert extra["version"].startswith("v")
    assert (extra["outcome"], extra["rows"], extra["model"]) == ("published", 300, "tiny-churn")


def test_a_pipeline_waits_for_its_assets_and_the_cron_stands_in(deployment: Deployment) -> None:
    kinds = eventually(
        lambda: (
            (found := {run["run_type"] for run in deployment.runs(FOLLOWER)})
            >= {"asset_triggered", "scheduled"}
            and found
        )
    )
    assert kinds == {"asset_triggered", "scheduled"}


def test_a_report_opens_in_airflow_for_who_may_see_the_run(deployment: Deployment) -> None:
    run = next(run for run in deployment.runs(NAME) if run["state"] == "success")
    page = f"/daybreak/{NAME}/{run['dag_run_id']}/report.html"
    assert deployment.status(page) == 401
    assert deployment.status(page, token="not.a.token") in (401, 403)
    answer = deployment.request(page, token=deployment.token)
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert b"Daybreak run report" in answer.read()
    with_cookie = deployment.request(page, cookie=f"_token={deployment.token}")
    assert with_cookie.status == 200
    for other in (
        f"/daybreak/{NAME}/{run['dag_run_id']}/run.json",
        f"/daybreak/{NAME}/no-such-run/report.html",
        f"/daybreak/..%2F{NAME}/{run['dag_run_id']}/report.html",
        f"/daybreak/%2E%2E/{run['dag_run_id']}/report.html",
    ):
        assert deployment.status(other, token=deployment.token) == 404
    plugins = deployment.call("/api/v2/plugins")["plugins"]
    views = [view["name"] for plugin in plugins for view in plugin["external_views"]]
    assert "Report" in views


def test_no_service_url_stands_in_any_log(deployment: Deployment) -> None:
    logs = deployment.airflow.home / "logs"
    where = f"127.0.0.1:{deployment.inbox.port}"
    told = [
        file
        for file in logs.rglob("*.log")
        if where in Path(file).read_text("utf-8", errors="replace")
    ]
    assert told == []
