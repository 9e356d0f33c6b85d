"""The kubernetes engine on a real cluster: what becomes of parts, whatever becomes of pods."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from include import storage
from include.engine_config import EngineConfig, KubernetesEngine
from include.engines.kubernetes.crew import Kubernetes
from include.engines.kubernetes.pod import JOB_LABEL, job_label
from include.engines.local import Local
from include.errors import CorruptData, PermanentError, TransientError
from include.run import GateResult, Part, Receipt, SnapshotManifest
from include.scoring import ScoringJob, receipts
from include.snapshots import manifest_at
from tests.pod_cluster import PROJECT, PodCluster, running_cluster
from tests.world import World, copy_world

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = pytest.mark.skipif(
    not os.environ.get("DAYBREAK_LONG_TESTS"), reason="one of the long proofs: make test-all"
)
PARTS = 6
PATIENCE_SECONDS = 300


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[PodCluster]:
    with running_cluster(request.config) as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(found.kubeconfig))
        yield found


@dataclass
class Work:
    """A job with a snapshot of its own, whose parts a test may damage, and its engine."""

    cluster: PodCluster
    job: ScoringJob
    manifest: SnapshotManifest

    @property
    def parts(self) -> list[Part]:
        return list(self.manifest.parts)

    def engine(self, **changes: Any) -> Kubernetes:
        config = TypeAdapter(EngineConfig).validate_python(self.cluster.engine(**changes))
        assert isinstance(config, KubernetesEngine)
        return Kubernetes(config, poll_seconds=0.3)

    def file(self, part: int) -> Path:
        path = storage.local_path(self.parts[part].uri)
        assert path is not None
        return path

    def pods(self) -> dict[str, Any]:
        found = self.cluster.client().list_namespaced_pod(
            "default", label_selector=f"{JOB_LABEL}={job_label(self.job.uri)}"
        )
        return {pod.metadata.name: pod for pod in found.items}

    def running(self, driver: subprocess.Popen[str] | None = None) -> dict[str, Any]:
        """The pods, once all of them run; `driver` is who makes them, where it is a process."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            if driver is not None and driver.poll() is not None:
                raise AssertionError(driver.communicate()[0])
            pods = self.pods()
            if pods and all(pod.status.phase == "Running" for pod in pods.values()):
                return pods
            assert time.monotonic() < until, {n: p.status.phase for n, p in pods.items()}
            time.sleep(0.3)

    def gone(self) -> None:
        """Wait until the cluster has none of the pods any more."""
        wait_for(lambda: not self.pods(), lambda: {n: p.status for n, p in self.pods().items()})

    def finished(self, parts: int) -> None:
        """Wait until so many parts have receipts."""

        def found() -> list[int]:
            return [receipt.part for receipt in receipts(self.job)]

        wait_for(lambda: len(found()) == parts, lambda: (found(), self.pods()))

    def scored(self) -> dict[int, bytes]:
        return {one.part: storage.read(one.uri) for one in receipts(self.job)}


@pytest.fixture(scope="module")
def planned(built_world: World, cluster: PodCluster) -> Iterator[ScoringJob]:
    """A job on a snapshot of six parts, in the folder that pods see."""
    from include.pipeline import planned_pipeline
    from tasks.extract import extract
    from tasks.plan import plan
    from tasks.score import opened

    world = copy_world(built_world, cluster.shared / "world")
    world.configure({"snapshot": {"part_rows": 50}, "key": ["account_id", "channel"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in world.env.items():
            patch.setenv(name, value)
        run = plan(world.request())
        snapshot = extract(run)
        passed = GateResult(
            passed=True, rows=snapshot.rows, quarantined=0, quarantine_uri=None, checks=()
        )
        yield opened(run, planned_pipeline(run).config, snapshot, passed)[0]


@pytest.fixture
def work(cluster: PodCluster, planned: ScoringJob, request: pytest.FixtureRequest) -> Work:
    folder = cluster.shared / f"work-{len(list(cluster.shared.iterdir()))}"
    (folder / "parts").mkdir(parents=True)
    manifest = manifest_at(planned.snapshot_uri)
    parts = []
    for part in manifest.parts:
        source = storage.local_path(part.uri)
        assert source is not None
        copy = shutil.copyfile(source, folder / "parts" / source.name)
        parts.append(part.model_copy(update={"uri": copy.as_uri()}))
    assert len(parts) == PARTS
    manifest = manifest.model_copy(update={"parts": tuple(parts)})
    places = {
        "parts_uri": (folder / "scored").as_uri(),
        "receipts_uri": (folder / "receipts").as_uri(),
        "snapshot_uri": (folder / "snapshot.json").as_uri(),
    }
    job = planned.model_copy(update=places)
    storage.write(job.snapshot_uri, manifest.model_dump_json().encode())
    storage.write(job.uri, job.model_dump_json().encode())
    return Work(cluster, job, manifest)


@pytest.fixture(scope="module")
def expected(planned: ScoringJob, cluster: PodCluster) -> dict[int, bytes]:
    """The bytes that the local engine writes for the same job."""
    folder = cluster.shared / "local"
    places = {name: (folder / name).as_uri() for name in ("parts_uri", "receipts_uri")}
    job = planned.model_copy(update=places)
    done = Local(workers=1).score(job, manifest_at(planned.snapshot_uri).parts)
    return {receipt.part: storage.read(receipt.uri) for receipt in done}


class Blocked:
    """A part that cannot be read until it is released: a pipe in the place of its file."""

    def __init__(self, work: Work, part: int) -> None:
        self.path = work.file(part)
        self.content = self.path.read_bytes()
        self.path.unlink()
        os.mkfifo(self.path, 0o666)

    def release(self) -> None:
        aside = self.path.with_suffix(".whole")
        aside.write_bytes(self.content)
        aside.replace(self.path)


def driver(work: Work, **changes: Any) -> subprocess.Popen[str]:
    """The engine in a process of its own, which may be killed."""
    script = (
        "import json, os, sys\n"
        "os.umask(0)\n"
        "from pydantic import TypeAdapter\n"
        "from include.engine_config import EngineConfig\n"
        "from include.engines import open_engine\n"
        "from include.scoring import load_job\n"
        "from include.snapshots import manifest_at\n"
        "job = load_job(sys.argv[1])\n"
        "config = TypeAdapter(EngineConfig).validate_python(json.loads(sys.argv[2]))\n"
        "parts = manifest_at(job.snapshot_uri).parts\n"
        "print([r.part for r in open_engine(config).score(job, parts)])\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, work.job.uri, json.dumps(work.cluster.engine(**changes))],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def in_background(start: Callable[[], list[Receipt]]) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1).submit(start)


def test_pods_write_the_bytes_of_the_local_engine_and_are_gone_afterwards(
    work: Work, expected: dict[int, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "daybreak")
    given = list(work.engine().score(work.job, work.parts))
    assert sorted(receipt.part for receipt in given) == list(range(PARTS))
    assert receipts(work.job) == sorted(given, key=lambda receipt: receipt.part)
    assert work.scored() == expected
    work.gone()
    # What the pods said stands in the step's own log.
    for text in ("scores the parts 0-2", "scores the parts 3-5", '"state": "done"'):
        assert text in caplog.text


def test_a_pod_that_fails_tells_the_part_and_what_is_finished_stays(
    work: Work, expected: dict[int, bytes]
) -> None:
    damaged = work.file(4)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + b"?")
    with pytest.raises(CorruptData, match="part 4") as error:
        list(work.engine(pods=1).score(work.job, work.parts))
    assert error.value.do
    work.gone()
    before = {receipt.part: receipt for receipt in receipts(work.job)}
    assert 4 not in before and set(before) >= {0, 1, 2, 3}

    # Mended, only the missing parts are scored: here, by another engine.
    damaged.write_bytes(whole)
    rest = [part for part in work.parts if part.index not in before]
    given = list(Local(workers=1).score(work.job, rest))
    after = {receipt.part: receipt for receipt in receipts(work.job)}
    assert after == before | {receipt.part: receipt for receipt in given}
    assert work.scored() == expected


@LONG
def test_too_little_memory_is_tried_once_more_in_smaller_batches_and_told_with_the_numbers(
    work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "daybreak")
    little = {"requests": {"memory": "40Mi"}}
    with pytest.raises(PermanentError) as error:
        list(work.engine(pods=1, resources=little).score(work.job, work.parts))
    said = str(error.value)
    assert "parts 0-5 was killed for memory at its limit of 40Mi" in said
    assert "up to 50 rows" in said and "batches of 6 rows" in said
    assert "raise engine.resources.limits.memory" in said.lower()
    assert caplog.text.count("scores the parts 0-5") == 2
    work.gone()


def test_a_pod_that_is_deleted_is_followed_by_one_for_the_missing_parts(
    work: Work, expected: dict[int, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "daybreak")
    blocked = Blocked(work, 4)
    done = in_background(lambda: list(work.engine(pods=1).score(work.job, work.parts)))
    (name,) = work.running()
    work.finished(4)
    blocked.release()
    work.cluster.client().delete_namespaced_pod(name, "default", grace_period_seconds=1)
    given = done.result(PATIENCE_SECONDS)
    assert sorted(receipt.part for receipt in given) == list(range(PARTS))
    assert work.scored() == expected
    assert "scores the parts 4-5" in caplog.text
    work.gone()


def test_pods_of_a_driver_that_was_killed_are_taken_over(
    work: Work, expected: dict[int, bytes]
) -> None:
    blocked = Blocked(work, 1)
    first = driver(work, pods=1)
    try:
        before = work.running(first)
        work.finished(1)
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert before.keys() == work.pods().keys()

    done = in_background(lambda: list(work.engine(pods=1).score(work.job, work.parts)))
    # A part that is there once more lets the pod go on: the pipe's reader gets its content.
    blocked.path.write_bytes(blocked.content)
    blocked.release()
    given = done.result(PATIENCE_SECONDS)
    assert sorted(receipt.part for receipt in given) == list(range(PARTS))
    assert work.scored() == expected
    work.gone()


@LONG
def test_a_driver_that_is_asked_to_stop_leaves_no_pod_and_what_is_finished(work: Work) -> None:
    Blocked(work, 1)
    first = driver(work, pods=1)
    try:
        work.running(first)
        work.finished(1)
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=PATIENCE_SECONDS)
    finally:
        first.kill()
    work.gone()
    assert [receipt.part for receipt in receipts(work.job)] == [0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"image": "localhost/none:9"}, "image", id="no such image"),
        pytest.param(
            {"node_selector": {"disk": "none-such"}, "schedule_seconds": 5},
            "node",
            id="no such node",
            marks=LONG,
        ),
        pytest.param(
            {"secret_env": {"TOKEN": {"secret": "none-such", "key": "k"}}},
            "none-such",
            id="no such secret",
            marks=LONG,
        ),
        pytest.param(
            {"priority_class": "none-such"}, "none-such", id="no such priority", marks=LONG
        ),
        pytest.param(
            {"gpu": {"count": 99}, "schedule_seconds": 5},
            "nvidia.com/gpu",
            id="no such GPU",
            marks=LONG,
        ),
    ],
)
def test_a_pod_that_cannot_start_fails_at_once_in_the_words_of_the_cluster(
    work: Work, changes: dict[str, Any], words: str
) -> None:
    began = time.monotonic()
    with pytest.raises(PermanentError, match=words):
        list(work.engine(pods=1, **changes).score(work.job, work.parts))
    work.gone()
    # Long before a pod's time to start is up.
    assert time.monotonic() - began < KubernetesEngine(kind="kubernetes", image="x").startup_seconds


def test_check_says_whether_this_account_may_make_pods_there(work: Work) -> None:
    from daybreak.check_pods import pod_problems

    assert list(pod_problems(work.engine().config)) == []
    (problem,) = pod_problems(work.engine(namespace="kube-system").config)
    assert "kube-system" in problem.found and "create pods" in problem.found
    (problem,) = pod_problems(work.engine(connection="no_such_connection").config)
    assert "no_such_connection" in problem.found


def wait_for(holds: Callable[[], bool], seen: Callable[[], Any] = str) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < until, seen()
        time.sleep(0.2)


# ---- the long proofs --------------------------------------------------------------------------


@LONG
def test_a_full_quota_fails_at_once_in_the_words_of_the_cluster(work: Work) -> None:
    if work.cluster.admin is None:
        pytest.skip("takes an account that may make a quota: ADMIN_KUBECONFIG")
    admin = work.cluster.client(admin=True)
    from kubernetes import client

    quota = client.V1ResourceQuota(
        metadata=client.V1ObjectMeta(name="none-left"),
        spec=client.V1ResourceQuotaSpec(hard={"pods": "0"}),
    )
    admin.create_namespaced_resource_quota("default", quota)
    try:
        wait_for(
            lambda: bool(admin.read_namespaced_resource_quota("none-left", "default").status.hard)
        )
        with pytest.raises(PermanentError, match="exceeded quota: none-left") as error:
            list(work.engine().score(work.job, work.parts))
        assert "raise the quota" in error.value.do
    finally:
        admin.delete_namespaced_resource_quota("none-left", "default")


@LONG
def test_an_evicted_pod_is_followed_by_others_and_told_where_each_of_them_is(work: Work) -> None:
    """A model that fills the disk is evicted each time; that ends, with the cluster's words."""
    filler = (
        "import pathlib, time; pathlib.Path('/tmp/full').write_bytes(bytes(64 << 20)); "
        "time.sleep(600)"
    )
    (work.cluster.shared / "sitecustomize").mkdir(exist_ok=True)
    (work.cluster.shared / "sitecustomize" / "sitecustomize.py").write_text(filler)
    section = work.cluster.engine()
    env = section["env"] | {
        "PYTHONPATH": f"{work.cluster.shared}/sitecustomize:{section['env']['PYTHONPATH']}"
    }
    with pytest.raises(TransientError, match="(?i)ephemeral|emptydir"):
        list(
            work.engine(pods=1, env=env, ephemeral_storage="16Mi", retries=1).score(
                work.job, work.parts
            )
        )
    work.gone()


@LONG
def test_a_gpu_is_asked_for_and_given(work: Work, expected: dict[int, bytes]) -> None:
    """On a node that says it has one, behind a taint."""
    if work.cluster.admin is None or os.environ.get("KUBECONFIG_IS_FOREIGN"):
        pytest.skip("takes an account that may change a node: ADMIN_KUBECONFIG")
    admin = work.cluster.client(admin=True)
    (node,) = admin.list_node().items
    name = node.metadata.name
    patch = {"status": {"capacity": {"nvidia.com/gpu": "1"}}}
    admin.patch_node_status(name, patch)
    taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    admin.patch_node(name, {"spec": {"taints": [taint]}, "metadata": {"labels": {"gpu": "yes"}}})
    try:
        wait_for(lambda: "nvidia.com/gpu" in (admin.read_node(name).status.allocatable or {}))
        engine = work.engine(
            pods=1,
            gpu={"count": 1},
            tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            node_selector={"gpu": "yes"},
        )
        list(engine.score(work.job, work.parts))
        assert work.scored() == expected
    finally:
        admin.patch_node(name, {"spec": {"taints": None}, "metadata": {"labels": {"gpu": None}}})
