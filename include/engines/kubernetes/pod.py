"""The pod that scores a group of parts: one function renders it, for Airflow and for all else.

What it runs is `python3 -m tasks score JOB_URI --parts 0-3`, the command that Dockerfile.scoring
names and that any shell may run. It needs storage and nothing else: no registry, no warehouse, no
Kubernetes API.
"""

from __future__ import annotations

import hashlib
import math
import re
import uuid
from typing import TYPE_CHECKING, Any

from include.pod_config import KubernetesEngine, Resources, Toleration, Volume, amount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubernetes.client import V1Pod

    from include.scoring import ScoringJob

CONTAINER = "score"
COMMAND = ("python3", "-m", "tasks")
JOB_LABEL = "daybreak/job"
PARTS, BATCH_ROWS = "--parts", "--batch-rows"

# The root file system is read-only: what a library or the model's cache writes goes to /tmp.
_ENVIRONMENT = {
    "HOME": "/tmp",  # noqa: S108
    "DAYBREAK_HOME": "/tmp/daybreak",  # noqa: S108
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def arguments(config: KubernetesEngine, job_uri: str, parts: str) -> list[str]:
    """What a pod tells the command."""
    return ["score", job_uri, PARTS, parts, "--workers", str(workers_of(config.resources))]


def with_little_memory(given: Sequence[str], rows: int) -> list[str]:
    """The same work for a pod after one that was killed for memory: one worker, which gives the
    model an eighth of a part (of `rows` rows) at a time.
    """
    changed = list(given)
    changed[changed.index("--workers") + 1] = "1"
    return [*changed, BATCH_ROWS, str(max(1, rows // 8))]


def option_of(given: Sequence[str], name: str) -> str:
    """What follows an option of a pod's arguments; the empty text where it is not among them."""
    return str(given[given.index(name) + 1]) if name in given else ""


def workers_of(resources: Resources) -> int:
    """One worker per whole core of the pod: it sees all the cores of its node."""
    cores = resources.limits.cpu or resources.requests.cpu
    return max(1, math.floor(amount(cores))) if cores else 1


def labels_of(job: ScoringJob) -> dict[str, str]:
    """By which a job's pods are found again, by a person or by whoever goes on with it."""
    return {
        "app.kubernetes.io/name": "daybreak",
        "daybreak/pipeline": _label(job.pipeline),
        "daybreak/as-of": str(job.as_of),
        "daybreak/version": _label(job.version),
        JOB_LABEL: job_label(job.uri),
    }


def job_label(job_uri: str) -> str:
    return hashlib.sha256(job_uri.encode()).hexdigest()[:16]


def pod_name(job: ScoringJob) -> str:
    """A new name: pods of one group follow each other, and a name may be taken for a while."""
    return f"{name_base(job)}-{uuid.uuid4().hex[:8]}"


def name_base(job: ScoringJob) -> str:
    pipeline = re.sub(r"[^a-z0-9]+", "-", job.pipeline.lower()).strip("-")[:30].rstrip("-")
    return f"daybreak-{pipeline or 'pipeline'}-{job.as_of:%Y%m%d}"


def pod_of(
    config: KubernetesEngine,
    job: ScoringJob,
    args: Sequence[str],
    *,
    name: str | None = None,
    namespace: str | None = None,
) -> V1Pod:
    """The pod, ready to be created; `args` are what `arguments` gave.

    Whatever the configuration says, it runs as no root, on a read-only root file system, without
    capabilities, without further privileges and without a token for the Kubernetes API.
    """
    from kubernetes.client import models as k8s

    volumes, mounts = _volumes(config)
    container = k8s.V1Container(
        name=CONTAINER,
        image=config.image,
        image_pull_policy=config.pull_policy,
        command=list(COMMAND),
        args=list(args),
        env=_env(config),
        env_from=[
            k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=secret))
            for secret in config.env_from_secrets
        ]
        or None,
        resources=_resources(config),
        volume_mounts=mounts,
        # The end of the log stands in the pod's status, also where the log is gone.
        termination_message_policy="FallbackToLogsOnError",
        security_context=k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            privileged=False,
            read_only_root_filesystem=True,
            run_as_non_root=True,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
    )
    spec = k8s.V1PodSpec(
        containers=[container],
        restart_policy="Never",
        active_deadline_seconds=config.active_deadline_seconds,
        termination_grace_period_seconds=config.grace_seconds,
        automount_service_account_token=False,
        enable_service_links=False,
        service_account_name=config.service_account,
        node_selector=dict(config.node_selector) or None,
        tolerations=[_toleration(each) for each in config.tolerations] or None,
        priority_class_name=config.priority_class,
        image_pull_secrets=[k8s.V1LocalObjectReference(name=each) for each in config.pull_secrets]
        or None,
        volumes=volumes,
        security_context=k8s.V1PodSecurityContext(
            run_as_non_root=True,
            run_as_user=config.user,
            run_as_group=config.group,
            fs_group=config.group,
            fs_group_change_policy="OnRootMismatch",
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
    )
    metadata = k8s.V1ObjectMeta(
        name=name,
        namespace=namespace,
        labels={**config.labels, **labels_of(job)},
        annotations=dict(config.annotations) or None,
    )
    return k8s.V1Pod(api_version="v1", kind="Pod", metadata=metadata, spec=spec)


def manifest(pod: V1Pod) -> dict[str, Any]:
    """The pod as JSON, in Kubernetes' own keys."""
    from kubernetes.client import ApiClient

    content: dict[str, Any] = ApiClient().sanitize_for_serialization(pod)
    return content


def _env(config: KubernetesEngine) -> list[Any]:
    from kubernetes.client import models as k8s

    plain = {**_ENVIRONMENT, **config.env}
    env = [k8s.V1EnvVar(name=name, value=value) for name, value in plain.items()]
    for name, source in config.secret_env.items():
        selector = k8s.V1SecretKeySelector(name=source.secret, key=source.key)
        env.append(k8s.V1EnvVar(name=name, value_from=k8s.V1EnvVarSource(secret_key_ref=selector)))
    return env


def _resources(config: KubernetesEngine) -> Any:
    from kubernetes.client import models as k8s

    requests = {name: each for name, each in config.resources.requests if each}
    limits = {name: each for name, each in config.resources.limits if each}
    if "memory" in requests:
        limits.setdefault("memory", requests["memory"])
    for amounts in (requests, limits):
        amounts["ephemeral-storage"] = config.ephemeral_storage
        if config.gpu is not None:
            # An extended resource cannot be promised twice: the API server wants both alike.
            amounts[config.gpu.resource] = str(config.gpu.count)
    return k8s.V1ResourceRequirements(requests=requests, limits=limits)


def _volumes(config: KubernetesEngine) -> tuple[list[Any], list[Any]]:
    from kubernetes.client import models as k8s

    scratch = k8s.V1EmptyDirVolumeSource(size_limit=config.ephemeral_storage)
    volumes = [k8s.V1Volume(name="tmp", empty_dir=scratch)]
    mounts = [k8s.V1VolumeMount(name="tmp", mount_path="/tmp")]  # noqa: S108
    for number, volume in enumerate(config.volumes):
        name = f"volume-{number}"
        volumes.append(k8s.V1Volume(name=name, **_source(volume)))
        mounts.append(
            k8s.V1VolumeMount(
                name=name,
                mount_path=volume.mount_path,
                read_only=volume.read_only,
                sub_path=volume.sub_path,
            )
        )
    return volumes, mounts


def _source(volume: Volume) -> dict[str, Any]:
    from kubernetes.client import models as k8s

    if volume.claim:
        claim = k8s.V1PersistentVolumeClaimVolumeSource(
            claim_name=volume.claim, read_only=volume.read_only
        )
        return {"persistent_volume_claim": claim}
    if volume.secret:
        return {"secret": k8s.V1SecretVolumeSource(secret_name=volume.secret)}
    if volume.config_map:
        return {"config_map": k8s.V1ConfigMapVolumeSource(name=volume.config_map)}
    return {"host_path": k8s.V1HostPathVolumeSource(path=volume.host_path)}


def _toleration(toleration: Toleration) -> Any:
    from kubernetes.client import models as k8s

    return k8s.V1Toleration(**toleration.model_dump(exclude_none=True))


def _label(text: str) -> str:
    """Within what Kubernetes takes for the value of a label."""
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:63]
    return safe.strip("_.-")
