"""Makes a pod do what a test wants: fail, wait, or take too much memory or disk.

The pods' Python imports `sitecustomize` before anything else, and it looks whether its own command
line is meant. So what is tested is a real pod that really fails.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.pod_cluster import PodCluster
from tests.world import World

# Six parts of fifty rows, in two groups.
FIRST, SECOND = "--parts 0-2", "--parts 3-5"

_SITE = """\
import json, os, pathlib, sys, time
for hook in json.loads(pathlib.Path({file!r}).read_text()):
    told = " ".join(sys.orig_argv)
    once = hook.get("once")
    if all(word in told for word in hook["of"]) and not any(w in told for w in hook["not"]):
        if once and os.path.exists(once):
            continue
        if once:
            pathlib.Path(once).touch()
        if hook["do"] == "fail":
            print("ValueError: the hook says no", file=sys.stderr, flush=True)
            os._exit(1)
        if hook["do"] == "memory":
            taken = b"x" * (1 << 30)
        if hook["do"] == "disk":
            pathlib.Path("/tmp/full").write_bytes(bytes(96 << 20))
            time.sleep(600)
        while hook["do"] == "wait" and not os.path.exists(hook["until"]):
            time.sleep(0.2)
"""


def hook(do: str, pipeline: str, parts: str, **more: Any) -> dict[str, Any]:
    """`do` it in the pod of `pipeline` that has `parts`; `once` and `until` are files."""
    return {"do": do, "of": [f"/{pipeline}/", parts], "not": [], **more}


def write_hooks(cluster: PodCluster, hooks: list[dict[str, Any]]) -> None:
    file = hooks_file(cluster)
    aside = file.with_suffix(".part")
    aside.write_text(json.dumps(hooks))
    aside.replace(file)


def hooks_file(cluster: PodCluster) -> Path:
    return cluster.shared / "hooks.json"


def pod_pipelines(
    world: World,
    cluster: PodCluster,
    sections: dict[str, dict[str, Any]],
    others: dict[str, dict[str, Any]] | None = None,
) -> None:
    """A pipeline like `tiny` for each of `sections`, scored by pods that look for hooks.

    `sections` changes its engine, and `others` the rest of it.
    """
    site = cluster.shared / "hook" / "sitecustomize.py"
    site.parent.mkdir()
    site.write_text(_SITE.format(file=str(hooks_file(cluster))))
    write_hooks(cluster, [])
    for name, changes in sections.items():
        folder = shutil.copytree(world.folder, world.pipelines / name)
        section = cluster.engine(**{"retries": 2, **changes})
        paths = [str(site.parent), section.get("env", {}).get("PYTHONPATH", "/app")]
        section["env"] = {"PYTHONPATH": ":".join(paths)}
        content = yaml.safe_load((folder / "pipeline.yaml").read_text())
        content |= {"engine": section, "snapshot": {"part_rows": 50}, "schedule": {}}
        for key, value in (others or {}).get(name, {}).items():
            content[key] = content[key] | value
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def airflow_environment(world: World, cluster: PodCluster) -> dict[str, str]:
    """Both ways to the cluster at once, the connection's and KUBECONFIG: the first counts."""
    extra = {"kube_config_path": str(cluster.kubeconfig), "namespace": "default"}
    connection = json.dumps({"conn_type": "kubernetes", "extra": extra})
    return world.env | {
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": connection,
        "KUBECONFIG": str(cluster.kubeconfig),
    }
