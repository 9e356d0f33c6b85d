"""A real Kubernetes cluster for the tests marked `cluster`, and a folder that its nodes see.

Which one, in this order: `--kubeconfig FILE`; KUBECONFIG; one that the script DAYBREAK_TEST_CLUSTER
starts (`up --detach`, `down`, `env`). A cluster of the first two kinds must see two things:

- DAYBREAK_TEST_IMAGE, an image of Dockerfile.scoring. Without it, `localhost/python:3.11` runs this
  checkout and this environment's packages from the node's own disk.
- DAYBREAK_TEST_SHARED, a folder that is at the same path here and on the node.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

PROJECT = Path(__file__).resolve().parent.parent
DEFAULT_SCRIPT = "../shared/kubernetes/cluster"


@dataclass(frozen=True)
class PodCluster:
    """`kubeconfig` is the account that pipelines have, `admin` one that may do more or None."""

    kubeconfig: Path
    admin: Path | None
    shared: Path

    def engine(self, **changes: Any) -> dict[str, Any]:
        """An engine section for pods of this cluster."""
        image = os.environ.get("DAYBREAK_TEST_IMAGE")
        volumes = [
            {"mount_path": str(self.shared), "host_path": str(self.shared), "read_only": False}
        ]
        code: dict[str, Any] = {}
        if image is None:
            code = {"env": {"PYTHONPATH": "/code:/site"}}
            volumes += [
                {"mount_path": "/code", "host_path": str(PROJECT)},
                {"mount_path": "/site", "host_path": sysconfig.get_path("purelib")},
            ]
        section = {
            "kind": "kubernetes",
            "image": image or "localhost/python:3.11",
            "pull_policy": "IfNotPresent",
            "pods": 2,
            "resources": {
                "requests": {"cpu": "100m", "memory": "300Mi"},
                "limits": {"memory": "700Mi"},
            },
            "grace_seconds": 10,
            "volumes": volumes,
            **code,
        }
        return section | changes

    def client(self, *, admin: bool = False) -> Any:
        from kubernetes import client, config

        settings = client.Configuration()
        file = self.admin if admin else self.kubeconfig
        config.load_kube_config(str(file), client_configuration=settings)
        return client.CoreV1Api(client.ApiClient(settings))


@contextmanager
def running_cluster(config: pytest.Config) -> Iterator[PodCluster]:
    """Skips with the reason where there is no cluster and none can be started."""
    with _shared_folder() as shared:
        named = config.getoption("--kubeconfig") or os.environ.get("KUBECONFIG")
        if named:
            admin = os.environ.get("ADMIN_KUBECONFIG")
            yield PodCluster(Path(named), Path(admin) if admin else None, shared)
            return
        with _started(_script()) as home:
            yield PodCluster(home / "airflow.kubeconfig", home / "admin.kubeconfig", shared)


def _script() -> Path:
    script = (PROJECT / (os.environ.get("DAYBREAK_TEST_CLUSTER") or DEFAULT_SCRIPT)).resolve()
    if not script.is_file():
        pytest.skip("no --kubeconfig, no KUBECONFIG, and no script DAYBREAK_TEST_CLUSTER")
    if os.geteuid() != 0:
        pytest.skip("a cluster of its own takes root; name one by --kubeconfig")
    if "DAYBREAK_TEST_IMAGE" not in os.environ and sys.version_info[:2] != (3, 11):
        pytest.skip("the image localhost/python:3.11 does not fit this Python: DAYBREAK_TEST_IMAGE")
    return script


@contextmanager
def _shared_folder() -> Iterator[Path]:
    """A folder that pods may write to, which run as another user; and so may be its content."""
    before = os.umask(0)
    base = os.environ.get("DAYBREAK_TEST_SHARED")
    folder = Path(tempfile.mkdtemp(prefix="daybreak-pods-", dir=base))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        os.umask(before)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _started(script: Path) -> Iterator[Path]:
    """Start the cluster, and stop it; what it fetched and built stays for the next time."""
    home = Path(os.environ.get("CLUSTER_HOME") or Path(tempfile.gettempdir(), "daybreak-cluster"))
    with FileLock(f"{home}.lock"), socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        environment = os.environ | {"CLUSTER_HOME": str(home), "CLUSTER_PORT": port}

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [str(script), *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=480,
            )

        run("down")  # of a session that was killed
        try:
            try:
                started = run("up", "--detach")
            except subprocess.TimeoutExpired as error:
                pytest.skip(f"the cluster does not start here in {error.timeout:.0f} s")
            if started.returncode != 0:
                pytest.skip(f"the cluster does not start here: {started.stderr[-600:]}")
            yield home
        finally:
            run("down")
