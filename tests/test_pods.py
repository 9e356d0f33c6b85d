"""The pods of the kubernetes engine, without a cluster: what they are, and what they run."""

from __future__ import annotations

import ast
import datetime as dt
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from include import part_ranges, storage
from include.engine_config import EngineConfig, KubernetesEngine
from include.engines.kubernetes.cluster import kubeconfig_content, open_cluster
from include.engines.kubernetes.fate import fate_of
from include.engines.kubernetes.groups import grouped
from include.engines.kubernetes.pod import (
    COMMAND,
    CONTAINER,
    arguments,
    manifest,
    name_base,
    pod_name,
    pod_of,
    with_little_memory,
)
from include.engines.local import Local
from include.errors import BadConfig
from include.pod_config import amount
from include.run import GateResult, Part
from include.scoring import ScoringJob, receipts
from include.snapshots import manifest_at
from tests.world import World

LONG = bool(os.environ.get("DAYBREAK_LONG_TESTS"))
PROJECT = Path(__file__).resolve().parent.parent

FULL = {
    "kind": "kubernetes",
    "image": "registry.example.com/scoring@sha256:0123",
    "pull_policy": "IfNotPresent",
    "pull_secrets": ["registry"],
    "namespace": "scoring",
    "pods": 3,
    "resources": {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"memory": "6Gi"}},
    "gpu": {"count": 2},
    "ephemeral_storage": "8Gi",
    "node_selector": {"cloud.google.com/gke-spot": "true"},
    "tolerations": [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "spot", "value": "yes", "effect": "NoExecute", "toleration_seconds": 60},
    ],
    "priority_class": "batch-low",
    "service_account": "scoring",
    "env": {"AWS_REGION": "eu-central-1", "LEVEL": 3},
    "env_from_secrets": ["storage"],
    "secret_env": {"TOKEN": {"secret": "tokens", "key": "scoring"}},
    "volumes": [
        {"mount_path": "/models", "claim": "models"},
        {"mount_path": "/ca", "secret": "ca"},
        {"mount_path": "/conf", "config_map": "conf", "sub_path": "a.yaml"},
        {"mount_path": "/data", "host_path": "/srv/data", "read_only": False},
    ],
    "labels": {"team": "growth"},
    "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
}


def engine(**section: Any) -> KubernetesEngine:
    given = {"kind": "kubernetes", "image": "scoring:1", **section}
    config = TypeAdapter(EngineConfig).validate_python(given)
    assert isinstance(config, KubernetesEngine)
    return config


@pytest.fixture
def job(tiny: World) -> ScoringJob:
    """A job in storage, of three parts, none of them scored."""
    from include.pipeline import planned_pipeline
    from tasks.extract import extract
    from tasks.plan import plan
    from tasks.score import opened

    run = plan(tiny.request())
    snapshot = extract(run)
    passed = GateResult(
        passed=True, rows=snapshot.rows, quarantined=0, quarantine_uri=None, checks=()
    )
    return opened(run, planned_pipeline(run).config, snapshot, passed)[0]


def rendered(job: ScoringJob, config: KubernetesEngine) -> dict[str, Any]:
    args = arguments(config, job.uri, "0-2")
    pod = pod_of(config, job, args, name=pod_name(job), namespace=config.namespace or "default")
    return manifest(pod)


@pytest.mark.parametrize("section", [{}, FULL], ids=["of defaults", "of every key"])
def test_a_pod_is_valid_for_the_kubernetes_of_today_and_of_years_ago(
    job: ScoringJob, section: dict[str, Any]
) -> None:
    import kubernetes_validate

    assert set(FULL) >= set(KubernetesEngine.model_fields) - {
        *("connection", "user", "group", "schedule_seconds", "startup_seconds"),
        *("active_deadline_seconds", "grace_seconds", "retries", "deferrable"),
    }
    for release in kubernetes_validate.utils.all_versions()[:: 1 if LONG else -3]:
        kubernetes_validate.validate(rendered(job, engine(**section)), release, strict=True)


def test_airflow_makes_the_pod_that_is_made_without_it(
    job: ScoringJob, tiny: World, tmp_path: Path
) -> None:
    file = tiny.folder / "pipeline.yaml"
    content = yaml.safe_load(file.read_text()) | {"engine": FULL}
    file.write_text(yaml.safe_dump(content))
    config = engine(**FULL)
    args = arguments(config, job.uri, "0-2")
    template = manifest(pod_of(config, job, (), name=name_base(job), namespace="scoring"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.render_pod"],
        input=json.dumps({"folder": str(tiny.folder), "template": template, "arguments": args}),
        env=os.environ | {"AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    alone = rendered(job, config)

    def without_nothing(value: Any) -> Any:
        """Airflow writes empty lists and blocks where there is nothing to say."""
        if isinstance(value, dict):
            inner = {key: without_nothing(item) for key, item in value.items()}
            return {key: item for key, item in inner.items() if item not in ({}, [], False)}
        return [without_nothing(item) for item in value] if isinstance(value, list) else value

    assert without_nothing(made["spec"]) == without_nothing(alone["spec"])
    assert made["spec"]["automountServiceAccountToken"] is False
    assert made["metadata"]["labels"].items() >= alone["metadata"]["labels"].items()
    assert made["metadata"]["name"].startswith(name_base(job))


def kubeconfig(folder: Path, name: str) -> Path:
    """A configuration of one cluster, called `name` throughout."""
    file = folder / f"{name}.yaml"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}.example:6443"}}],
        "users": [{"name": name, "user": {"token": "none"}}],
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": name, "namespace": f"of-{name}"}}
        ],
    }
    file.write_text(yaml.safe_dump(content))
    return file


def test_kubeconfig_counts_as_it_is_when_the_cluster_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kubernetes.config  # noqa: F401 - it reads KUBECONFIG here, and never again

    monkeypatch.delenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", raising=False)
    for name in ("one", "two"):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, name)))
        cluster = open_cluster(engine())
        assert cluster.api.api_client.configuration.host == f"https://{name}.example:6443"
        assert cluster.namespace == f"of-{name}"
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none.yaml"))
    with pytest.raises(BadConfig, match=r"cluster can be reached: .*none\.yaml"):
        open_cluster(engine())


def test_several_files_of_kubeconfig_reach_airflows_triggerer_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(kubeconfig(tmp_path, name)) for name in ("one", "two")]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join([*files, str(tmp_path / "none.yaml")]))
    content = kubeconfig_content()
    assert content is not None
    for kind in ("clusters", "contexts", "users"):
        assert [named["name"] for named in content[kind]] == ["one", "two"]
    json.dumps(content)  # it goes through Airflow's database
    monkeypatch.delenv("KUBECONFIG")
    assert kubeconfig_content() is None


@pytest.mark.parametrize("section", [{}, FULL], ids=["of defaults", "of every key"])
def test_a_pod_has_no_more_rights_than_it_needs(job: ScoringJob, section: dict[str, Any]) -> None:
    spec = rendered(job, engine(**section))["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] == 4 * 3600
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "hostNetwork" not in spec and "hostPID" not in spec
    (container,) = spec["containers"]
    assert container["name"] == CONTAINER
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
    }
    writable = [m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")]
    assert writable == ["/tmp", *(["/data"] if section else [])]
    limits, requests = container["resources"]["limits"], container["resources"]["requests"]
    assert limits["ephemeral-storage"] == requests["ephemeral-storage"]
    assert "memory" in limits
    tmp = next(volume for volume in spec["volumes"] if volume["name"] == "tmp")
    assert tmp["emptyDir"]["sizeLimit"] == limits["ephemeral-storage"]


def test_a_pod_is_what_the_section_says(job: ScoringJob) -> None:
    pod = rendered(job, engine(**FULL))
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    gpus = {kind: container["resources"][kind]["nvidia.com/gpu"] for kind in ("requests", "limits")}
    assert gpus == {"requests": "2", "limits": "2"}
    assert container["resources"]["requests"]["cpu"] == "2"
    assert container["resources"]["limits"]["memory"] == "6Gi"
    assert container["args"][container["args"].index("--workers") + 1] == "2"
    assert spec["nodeSelector"] == FULL["node_selector"]
    assert [each["key"] for each in spec["tolerations"]] == ["nvidia.com/gpu", "spot"]
    assert spec["tolerations"][1]["tolerationSeconds"] == 60
    assert spec["priorityClassName"] == "batch-low"
    assert spec["serviceAccountName"] == "scoring"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert container["envFrom"] == [{"secretRef": {"name": "storage"}}]
    env = {each["name"]: each for each in container["env"]}
    assert env["LEVEL"]["value"] == "3"
    assert env["TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "tokens", "key": "scoring"}
    assert (
        pod["metadata"]["labels"].items() >= {"team": "growth", "daybreak/pipeline": "tiny"}.items()
    )
    assert pod["metadata"]["namespace"] == "scoring"


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"image": ""}, "image"),
        ({"image": "a b"}, "image"),
        ({"pods": 0}, "pods"),
        ({"user": 0}, "user"),
        ({"resources": {"requests": {"memory": "4 GB"}}}, "memory"),
        (
            {"resources": {"requests": {"memory": "4Gi"}, "limits": {"memory": "4G"}}},
            r"requests.memory \(4Gi\) is above limits.memory \(4G\)",
        ),
        ({"tolerations": [{"value": "x"}]}, "needs a key"),
        ({"tolerations": [{"key": "a", "operator": "Exists", "value": "x"}]}, "has no value"),
        ({"volumes": [{"mount_path": "/x"}]}, "one of claim, secret"),
        ({"volumes": [{"mount_path": "/x", "claim": "a", "secret": "b"}]}, "claim and secret"),
        ({"volumes": [{"mount_path": "/tmp", "claim": "a"}]}, "the pod's own"),
        ({"env": {"A": "1"}, "secret_env": {"A": {"secret": "s", "key": "k"}}}, "both in env"),
        ({"labels": {"daybreak/job": "x"}}, "Daybreak's own"),
        ({"node_selector": {"a b": "c"}}, "node_selector"),
        ({"privileged": True}, "privileged"),
        ({"namespace": "Not_a_name"}, "namespace"),
    ],
)
def test_a_section_that_kubernetes_would_refuse_is_refused_before(
    section: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        engine(**section)


def test_a_wrong_key_is_told_with_its_line_and_the_nearest_one(tiny: World) -> None:
    file = tiny.folder / "pipeline.yaml"
    text = file.read_text().replace(
        "  kind: local\n  workers: 1\n", "  kind: kubernetes\n  image: x\n  gpu: {cont: 1}\n"
    )
    file.write_text(text)
    line = text.splitlines().index("  gpu: {cont: 1}") + 1
    with pytest.raises(BadConfig, match=rf"(?s)engine\.gpu\.cont.*:{line}.*count"):
        tiny.pipeline()


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("500m", "0.5"),
        ("2", "2"),
        ("1.5", "1.5"),
        ("4Ki", "4096"),
        ("4k", "4000"),
        ("1Gi", 1 << 30),
    ],
)
def test_quantities_are_those_of_kubernetes(quantity: str, value: Any) -> None:
    from kubernetes.utils.quantity import parse_quantity

    assert amount(quantity) == parse_quantity(quantity) == parse_quantity(str(value))


@given(st.sets(st.integers(0, 60)))
def test_parts_are_written_as_ranges_and_read_again(parts: set[int]) -> None:
    assert part_ranges.indexes(part_ranges.written(parts)) == sorted(parts)


@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(1, 12))
def test_groups_hold_every_part_once_and_about_as_many_rows_each(
    rows: list[int], pods: int
) -> None:
    parts = [
        Part(index=index, uri="", rows=count, bytes=0, digest="")
        for index, count in enumerate(rows)
    ]
    groups = grouped(parts, pods)
    assert [part for group in groups for part in group] == parts
    assert len(groups) == min(pods, len(parts)) and all(groups)
    if groups:
        largest = max(sum(part.rows for part in group) for group in groups)
        assert largest <= sum(rows) / len(groups) + 2 * max(rows)


def test_after_a_pod_was_killed_for_memory_the_next_takes_less(job: ScoringJob) -> None:
    given = arguments(engine(resources={"requests": {"cpu": 8}}), job.uri, "0-2")
    assert given[-2:] == ["--workers", "8"]
    assert with_little_memory(given, 100)[-4:] == ["--workers", "1", "--batch-rows", "12"]


def run_as_the_pod_does(
    job: ScoringJob, config: KubernetesEngine, args: list[str], tmp: Path
) -> Any:
    """The pod's command with the pod's environment, and nothing of this process's own."""
    (container,) = manifest(pod_of(config, job, args))["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    for name in ("HOME", "DAYBREAK_HOME"):
        environment[name] = environment[name].replace("/tmp", str(tmp), 1)
    assert container["command"] == list(COMMAND) == ["python3", "-m", "tasks"]
    return subprocess.run(
        [sys.executable, *container["command"][1:], *container["args"]],
        env=environment | {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)},
        cwd=tmp,
        capture_output=True,
        text=True,
    )


def test_the_pods_command_scores_its_parts_and_the_next_one_goes_on(
    job: ScoringJob, tmp_path: Path
) -> None:
    config = engine()
    first = run_as_the_pod_does(job, config, arguments(config, job.uri, "0,2"), tmp_path)
    assert first.returncode == 0, first.stderr
    lines = [json.loads(line) for line in first.stdout.splitlines()]
    assert [line["part"] for line in lines if "part" in line] == [0, 2]
    assert [receipt.part for receipt in receipts(job)] == [0, 2]

    # Smaller batches give the same bytes: for trees a row's score rests on that row alone.
    little = with_little_memory(arguments(config, job.uri, "0-2"), 100)
    again = run_as_the_pod_does(job, config, little, tmp_path)
    assert again.returncode == 0, again.stderr
    finished = {receipt.part: receipt for receipt in receipts(job)}
    assert sorted(finished) == [0, 1, 2]

    alone = job.model_copy(
        update={name: (tmp_path / name).as_uri() for name in ("parts_uri", "receipts_uri")}
    )
    parts = manifest_at(job.snapshot_uri).parts
    digests = {receipt.part: receipt.digest for receipt in Local(workers=1).score(alone, parts)}
    assert digests == {part: receipt.digest for part, receipt in finished.items()}


def test_a_failing_pod_says_so_and_leaves_word_of_why(job: ScoringJob, tmp_path: Path) -> None:
    from include.receipts import failures

    part = manifest_at(job.snapshot_uri).parts[1]
    path = storage.local_path(part.uri)
    assert path is not None
    path.write_bytes(b"damaged")
    config = engine()
    done = run_as_the_pod_does(job, config, arguments(config, job.uri, "0-2"), tmp_path)
    assert done.returncode == 1
    (failure,) = failures(job)
    assert failure.part == 1 and failure.permanent and "part 1" in failure.message


# ---- what a pod's status means -----------------------------------------------------------------

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def status(**given: Any) -> Any:
    """A pod with this status, as the API gives it, created a minute ago."""
    from kubernetes.client import ApiClient

    class Answer:
        data = json.dumps(
            {
                "metadata": {"name": "p", "creationTimestamp": "2026-01-01T11:59:00Z"},
                "spec": {"containers": [{"name": CONTAINER}]},
                "status": given,
            }
        )

    return ApiClient().deserialize(Answer(), "V1Pod")


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    return {"phase": "Failed", "containerStatuses": [_container(state)]}


def waits(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [_container(state)], **SCHEDULED}


def _container(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": "i",
        "imageID": "i",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }


SCHEDULED = {
    "conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T11:59:30Z"}
    ]
}
UNSCHEDULABLE = {
    "conditions": [
        {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    ]
}


@pytest.mark.parametrize(
    ("given", "state", "words"),
    [
        ({"phase": "Running"}, "live", ""),
        ({"phase": "Succeeded"}, "finished", ""),
        (ended(0, "Completed"), "finished", ""),
        (ended(1, message="log\nValueError: no"), "failed", "ValueError: no"),
        (ended(75), "lost", "75"),
        (ended(137), "lost", "137"),
        (ended(137, "OOMKilled"), "memory", "OOMKilled"),
        (ended(128, "StartError", "no such file"), "refused", "no such file"),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on disk"}, "lost", "low on disk"),
        ({"phase": "Failed", "reason": "NodeShutdown"}, "lost", "NodeShutdown"),
        (ended(143) | {"reason": "Preempting"}, "lost", "Preempting"),
        (
            ended(143) | {"conditions": [{"type": "DisruptionTarget", "status": "True",
                                          "reason": "PreemptionByScheduler"}]},
            "lost",
            "PreemptionByScheduler",
        ),
        ({"phase": "Failed", "reason": "DeadlineExceeded", "message": "late"}, "failed", "late"),
        (waits("ContainerCreating"), "live", ""),
        (waits("ImagePullBackOff", "Back-off pulling image"), "refused", "ImagePullBackOff"),
        (waits("ErrImagePull", "429 Too Many Requests"), "live", ""),
        (waits("CreateContainerConfigError", 'secret "s" not found'), "refused", "secret"),
        (waits("InvalidImageName", "bad"), "refused", "bad"),
        ({"phase": "Pending", **UNSCHEDULABLE}, "live", "0/3 nodes"),
    ],
)  # fmt: skip
def test_what_became_of_a_pod(given: dict[str, Any], state: str, words: str) -> None:
    fate = fate_of(status(**given), NOW, schedule_seconds=600, startup_seconds=300)
    assert (fate.state, words in fate.words) == (state, True), fate


def test_a_pod_waits_as_long_as_it_may_and_a_deleted_one_is_lost() -> None:
    no_node = fate_of(
        status(phase="Pending", **UNSCHEDULABLE), NOW, schedule_seconds=30, startup_seconds=300
    )
    assert no_node.state == "refused" and "0/3 nodes are available" in no_node.words
    slow = fate_of(
        status(**waits("ContainerCreating")), NOW, schedule_seconds=600, startup_seconds=9
    )
    assert slow.state == "refused" and "ContainerCreating" in slow.words
    assert fate_of(None, NOW, schedule_seconds=1, startup_seconds=1).state == "lost"


# ---- the image ---------------------------------------------------------------------------------


def third_party_imports(start: str) -> set[str]:
    """Top-level packages that the code which `start` reaches imports, wherever in it."""
    todo, seen, found = [start], set[str](), set[str]()
    while todo:
        module = todo.pop()
        file = PROJECT / f"{module.replace('.', '/')}.py"
        file = file if file.exists() else PROJECT / module.replace(".", "/") / "__init__.py"
        if module in seen or not file.exists():
            continue
        seen.add(module)
        for name in _imported(ast.parse(file.read_text("utf-8"))):
            if name.partition(".")[0] in ("include", "tasks"):
                todo += [name, name.rpartition(".")[0]]
            else:
                found.add(name.partition(".")[0])
    return found - set(sys.stdlib_module_names)


def _imported(tree: ast.Module) -> set[str]:
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names = set[str]()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def locked() -> set[str]:
    text = (PROJECT / "requirements-scoring.txt").read_text("utf-8")
    return {name.lower() for name in re.findall(r"^([A-Za-z0-9_.-]+)==", text, re.MULTILINE)}


def test_the_pods_command_imports_nothing_that_its_image_lacks() -> None:
    distributions = {"yaml": "pyyaml", "sklearn": "scikit-learn"}
    flavors = ("lightgbm", "sklearn", "estimators", "model_frames", "matrix", "batches")
    reached = third_party_imports("tasks.__main__")
    for member in flavors:
        reached |= third_party_imports(f"include.scorers.{member}")
    # Only where a pod is told to, which the engine never does: another engine's own section.
    assert {distributions.get(name, name) for name in reached} - locked() == set()
    assert not {"airflow", "prefect", "mlflow", "kubernetes"} & {name.lower() for name in locked()}


def test_the_images_packages_are_those_of_the_whole_lock() -> None:
    whole = (PROJECT / "requirements.txt").read_text("utf-8").splitlines()
    scoring = (PROJECT / "requirements-scoring.txt").read_text("utf-8").splitlines()
    pins = [line for line in scoring if "==" in line and not line.startswith(" ")]
    versions = {line.split(" ;")[0] for line in whole}
    assert pins and [line for line in pins if line.split(" ;")[0] not in versions] == []


def test_the_image_runs_the_pods_command_as_no_root() -> None:
    lines = (PROJECT / "Dockerfile.scoring").read_text("utf-8").splitlines()
    entry = next(line for line in lines if line.startswith("ENTRYPOINT"))
    assert json.loads(entry.removeprefix("ENTRYPOINT ")) == list(COMMAND)
    user = next(line for line in lines if line.startswith("USER")).removeprefix("USER ")
    defaults = engine()
    assert user == f"{defaults.user}:{defaults.group}"


@pytest.mark.skipif(not LONG, reason="one of the long proofs: make test-all")
@pytest.mark.timeout(900)
def test_the_images_packages_alone_score_a_job(job: ScoringJob, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    uv = Path(sys.executable).with_name("uv")
    subprocess.run(
        [
            *(str(uv), "pip", "install", "--quiet", "--no-deps", "--python", str(python)),
            *("-r", str(PROJECT / "requirements-scoring.txt")),
        ],
        check=True,
    )
    config = engine()
    done = subprocess.run(
        [str(python), *COMMAND[1:], *arguments(config, job.uri, "0-2")],
        env={"HOME": str(tmp_path), "DAYBREAK_HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [receipt.part for receipt in receipts(job)] == [0, 1, 2]
    loads = "import include.scorers.sklearn, sklearn, skops.io, joblib, cloudpickle, pandas"
    subprocess.run([str(python), "-c", loads], env={"PYTHONPATH": str(PROJECT)}, check=True)


def test_names_are_such_as_kubernetes_takes(job: ScoringJob) -> None:
    odd = job.model_copy(update={"pipeline": "Über." + "x" * 190 + "."})
    for each in (job, odd):
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", pod_name(each))
        labels = manifest(pod_of(engine(), each, ()))["metadata"]["labels"].values()
        assert all(
            re.fullmatch(r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", label) for label in labels
        )
    assert name_base(job) == f"daybreak-tiny-{job.as_of:%Y%m%d}"
