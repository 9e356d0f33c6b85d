"""Whole DAG runs by Airflow's own task runner, with pods on a real cluster that fail and succeed.

All of them in one process, which takes minutes: one of the long proofs, `make test-all`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from include import storage
from include.pipeline import load_pipeline
from include.stores import open_store
from include.workspace import Workspace, run_id_of
from tests.inbox import Inbox
from tests.pod_cluster import PROJECT, PodCluster, running_cluster
from tests.pod_hooks import (
    FIRST,
    SECOND,
    airflow_environment,
    hook,
    hooks_file,
    pod_pipelines,
    write_hooks,
)
from tests.test_poison_run import Churn, register
from tests.world import ROWS, World, copy_world

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.e2e,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        not os.environ.get("DAYBREAK_LONG_TESTS"), reason="one of the long proofs: make test-all"
    ),
]

SECTIONS: dict[str, dict[str, Any]] = {
    "deferred": {},
    "sync": {"deferrable": False},
    "one_fails": {},
    "memory": {},
    "evicted": {"ephemeral_storage": "32Mi"},
    "deleted": {},
    "no_image": {"image": "localhost/none:9"},
    "poisoned": {},
}
# The model of this alias raises on one row, and none may be left out.
POISONED = {"model": {"alias": "picky"}, "gate": {"max_quarantined_share": 0}}


@dataclass
class Outcome:
    world: World
    cluster: PodCluster
    pipeline: str
    run_id: str
    seconds: float
    state: str
    tasks: dict[str, dict[str, Any]]
    log: Path
    messages: list[dict[str, Any]]

    @property
    def states(self) -> tuple[str, ...]:
        return tuple(self.tasks[n]["state"] for n in ("pods.pod[0]", "pods.pod[1]", "score"))

    def tries(self, pod: int) -> int:
        return int(self.tasks[f"pods.pod[{pod}]"]["tries"])

    @property
    def report(self) -> dict[str, Any]:
        folder = Workspace(self.world.workspace, self.pipeline).run(
            run_id_of("airflow", self.run_id)
        )
        return dict(json.loads(storage.read(storage.join(folder, "report.json"))))

    @property
    def rows(self) -> int:
        config = load_pipeline(self.world.pipelines / self.pipeline).config
        place = Workspace(self.world.workspace, self.pipeline).predictions()
        return int(open_store(config.predictions, place).read(self.world.day).num_rows)


@pytest.fixture(scope="module")
def outcomes(
    built_world: World, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Outcome]]:
    with running_cluster(request.config) as cluster, Inbox() as inbox:
        shared = cluster.shared
        world = copy_world(built_world, shared / "world")
        pod_pipelines(world, cluster, SECTIONS, {"poisoned": POISONED})
        register(world, Churn((poison(world)["balance"],)), alias="picky")
        write_hooks(cluster, [])
        released = shared / "released"
        hooks = {
            "one fails": [hook("fail", "one_fails", SECOND)],
            "memory": [hook("memory", "memory", FIRST, **{"not": ["--batch-rows"]})],
            "evicted": [hook("disk", "evicted", FIRST, once=str(shared / "filled"))],
            "deleted": [hook("wait", "deleted", FIRST, until=str(released))],
        }
        names = {
            "deferred": "deferred",
            "deferred again": "deferred",
            "sync": "sync",
            "one fails": "one_fails",
            "one fails, mended": "one_fails",
            "memory": "memory",
            "evicted": "evicted",
            "deleted": "deleted",
            "no image": "no_image",
            "poisoned": "poisoned",
        }
        home = tmp_path_factory.mktemp("airflow")
        plan = {
            "home": str(home),
            "env": airflow_environment(world, cluster) | {"DAYBREAK_NOTIFY": inbox.url},
            "runs": [
                {
                    "name": name,
                    "dag": pipeline,
                    "conf": {"partition_date": world.day.isoformat()},
                    "hooks": hooks.get(name, []),
                    "hooks_file": str(hooks_file(cluster)),
                }
                for name, pipeline in names.items()
            ],
        }
        over = threading.Event()
        deleter = threading.Thread(target=delete_when_it_runs, args=(cluster, released, over))
        deleter.start()
        log = home / "runs.log"
        try:
            with log.open("w") as output:
                done = subprocess.run(
                    [sys.executable, "-m", "tests.run_pods"],
                    input=json.dumps(plan),
                    cwd=PROJECT,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
        finally:
            over.set()
            deleter.join()
        assert done.returncode == 0, log.read_text()[-4000:]
        found = json.loads((home / "runs.json").read_text("utf-8"))
        print({name: run["seconds"] for name, run in found.items()})
        # Deleted pods have their time to end.
        until = time.monotonic() + 180
        while left := pods_of(cluster):
            assert time.monotonic() < until, left
            time.sleep(0.5)
        yield {
            name: Outcome(world, cluster, pipeline, **found[name], log=log, messages=inbox.messages)
            for name, pipeline in names.items()
        }


def poison(world: World) -> dict[str, Any]:
    """A row that a pod has among others, with the part that it is in; balances are unique."""
    rows = world.execute(
        "SELECT account_id, channel, balance, count(*) OVER (PARTITION BY balance) "
        f"FROM accounts WHERE event_date = '{world.day}' ORDER BY account_id, channel"
    )
    at = next(at for at in range(210, ROWS) if rows[at][2] is not None and rows[at][3] == 1)
    account, channel, balance, _ = rows[at]
    return {"part": at // 50, "key": f"account_id={account}, channel={channel}", "balance": balance}


def pods_of(cluster: PodCluster) -> list[str]:
    found = cluster.client().list_namespaced_pod("default", label_selector="daybreak/job").items
    return [pod.metadata.name for pod in found]


def delete_when_it_runs(cluster: PodCluster, released: Path, over: threading.Event) -> None:
    """Delete the pod that waits, once it runs; the ones after it do not wait any more."""
    while not over.is_set():
        pods = cluster.client().list_namespaced_pod(
            "default", label_selector="daybreak/pipeline=deleted"
        )
        for pod in pods.items:
            if pod.status.phase == "Running" and "0-2" in pod.spec.containers[0].args:
                released.touch()
                cluster.client().delete_namespaced_pod(
                    pod.metadata.name, "default", grace_period_seconds=0
                )
                return
        time.sleep(0.3)


@pytest.mark.parametrize("name", ["deferred", "sync"])
def test_each_pod_is_a_task_and_the_run_publishes_what_they_scored(
    outcomes: dict[str, Outcome], name: str
) -> None:
    run = outcomes[name]
    assert run.state == "success" and run.states == ("success",) * 3
    titles = [run.tasks[f"pods.pod[{index}]"]["title"] for index in (0, 1)]
    assert titles == ["parts 0-2", "parts 3-5"]
    assert run.rows == ROWS
    assert run.report["state"] == "published"


def test_the_same_date_again_starts_no_pod(outcomes: dict[str, Outcome]) -> None:
    run = outcomes["deferred again"]
    assert run.state == "success" and run.report["state"] == "unchanged"
    assert [name for name in run.tasks if name.startswith("pods.pod")] == ["pods.pod[0]"]
    assert run.tasks["pods.pod[0]"]["title"] == "parts none"


def test_one_pod_that_fails_fails_the_run_in_its_words_and_at_once(
    outcomes: dict[str, Outcome],
) -> None:
    run = outcomes["one fails"]
    assert run.state == "failed" and run.states == ("success", "failed", "failed")
    assert run.tries(1) == 1
    assert "the hook says no" in json.dumps(run.report)
    assert run.report["state"] == "failed"


def test_what_a_pod_failed_on_reaches_airflows_log_the_report_and_whoever_is_told(
    outcomes: dict[str, Outcome],
) -> None:
    run = outcomes["poisoned"]
    assert run.state == "failed" and run.states == ("success", "failed", "failed")
    assert run.tries(1) == 1
    row = poison(run.world)
    (told,) = [each for each in run.messages if each["title"].startswith("poisoned ")]
    log = run.log.read_text("utf-8", "replace")
    for place, text in {
        "the log of the pod's task": "\n".join(
            line for line in log.splitlines() if "AirflowFailException" in line
        ),
        "the pod's own log": "\n".join(line for line in log.splitlines() if '"state"' in line),
        "the report": json.dumps(run.report),
        "the message": told["message"],
    }.items():
        said = " ".join(text.split())
        for words in (
            f"part {row['part']}",
            row["key"],
            f"a balance of {row['balance']:.6f} is not in my table",
        ):
            assert words in said, (place, said[-3000:])


def test_what_the_other_pods_finished_is_not_scored_again(outcomes: dict[str, Outcome]) -> None:
    run = outcomes["one fails, mended"]
    assert run.state == "success" and run.rows == ROWS
    titles = [task["title"] for name, task in run.tasks.items() if name.startswith("pods.pod")]
    assert sorted(titles) == ["parts 3-4", "parts 5"]


def test_a_pod_killed_for_memory_is_repeated_with_smaller_batches(
    outcomes: dict[str, Outcome],
) -> None:
    run = outcomes["memory"]
    assert run.state == "success" and run.states == ("success",) * 3
    assert run.tries(0) == 2 and run.rows == ROWS


@pytest.mark.parametrize("name", ["evicted", "deleted"])
def test_a_pod_that_is_lost_is_repeated(outcomes: dict[str, Outcome], name: str) -> None:
    run = outcomes[name]
    assert run.state == "success" and run.states == ("success",) * 3
    assert run.tries(0) == 2 and run.rows == ROWS


def test_an_image_that_is_not_there_fails_at_once_in_the_words_of_the_cluster(
    outcomes: dict[str, Outcome],
) -> None:
    run = outcomes["no image"]
    assert run.state == "failed" and run.states == ("failed",) * 3
    assert run.tries(0) == run.tries(1) == 1
    assert "localhost/none:9" in json.dumps(run.report)
