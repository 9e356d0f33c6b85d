"""The section `engine:` of the kind kubernetes: what the pods are like that score the parts."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from include.section import Section

# Kubernetes' own rules for names, labels, environment variables and quantities.
DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
_LABEL = r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)"
LabelKey = Annotated[str, Field(pattern=rf"^([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_LABEL}$")]
LabelValue = Annotated[str, Field(pattern=rf"^{_LABEL}?$")]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Path = Annotated[str, Field(pattern=r"^/[^:]*$")]
Positive = Annotated[int, Field(ge=1, strict=True)]

_UNITS = {"": Decimal(1), "m": Decimal("0.001")} | {
    prefix + suffix: Decimal(base) ** power
    for power, prefix in enumerate("kMGTPE", 1)
    for suffix, base in (("", 1000), ("i", 1024))
}
_UNITS["Ki"] = _UNITS.pop("ki")
_QUANTITY = re.compile(rf"^(\d+(?:\.\d+)?)({'|'.join(sorted(_UNITS, key=len, reverse=True))})$")


def _text(value: object) -> object:
    # `cpu: 2` is a number in YAML and a quantity in Kubernetes.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


Quantity = Annotated[str, BeforeValidator(_text), Field(pattern=_QUANTITY.pattern)]


def amount(quantity: str) -> Decimal:
    """What a quantity such as 500m, 2 or 4Gi comes to, in cores or bytes."""
    matched = _QUANTITY.match(quantity)
    if matched is None:
        raise ValueError(f"{quantity!r} is no quantity such as 500m, 2 or 4Gi")
    return Decimal(matched[1]) * _UNITS[matched[2]]


class Amounts(Section):
    """Cores and memory, such as `cpu: 500m` and `memory: 4Gi`."""

    cpu: Quantity | None = None
    memory: Quantity | None = None


class Resources(Section):
    """What a pod asks for, and what it may use at most.

    Without limits its memory is limited to what it asks for, so that a node is never promised
    twice, and its processor is not.
    """

    requests: Amounts = Amounts(cpu="1", memory="2Gi")
    limits: Amounts = Amounts()

    @model_validator(mode="after")
    def _ordered(self) -> Resources:
        for name in ("cpu", "memory"):
            asked, limit = getattr(self.requests, name), getattr(self.limits, name)
            if asked and limit and amount(asked) > amount(limit):
                raise ValueError(f"requests.{name} ({asked}) is above limits.{name} ({limit})")
        return self


class Gpu(Section):
    """Whole GPUs of a pod, asked for and limited alike, as Kubernetes wants it."""

    count: Positive = 1
    resource: LabelKey = "nvidia.com/gpu"


class Toleration(Section):
    """A taint that the pods bear, in Kubernetes' own keys."""

    key: LabelKey | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[int, Field(ge=0, strict=True)] | None = None

    @model_validator(mode="after")
    def _sound(self) -> Toleration:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("a toleration with operator Exists has no value")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("a toleration needs a key, or the operator Exists")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("toleration_seconds means something for the effect NoExecute only")
        return self


class SecretKey(Section):
    """One key of a Kubernetes secret."""

    secret: DnsName
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]


class Volume(Section):
    """Something mounted at `mount_path`: exactly one of the four sources."""

    mount_path: Path
    read_only: bool = True
    sub_path: str | None = None
    claim: DnsName | None = None
    secret: DnsName | None = None
    config_map: DnsName | None = None
    host_path: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Volume:
        sources = ("claim", "secret", "config_map", "host_path")
        given = [name for name in sources if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"a volume has one of {', '.join(sources)}, not {' and '.join(given) or 'none'}"
            )
        if self.mount_path.rstrip("/") in ("", "/tmp"):  # noqa: S108
            raise ValueError(f"mount_path {self.mount_path!r} is the pod's own: choose another")
        return self


class KubernetesEngine(Section):
    """Pods, each of which scores a group of parts.

    `pods` is how many at most. `connection` is an Airflow connection of the kind kubernetes;
    without one, `kubernetes_default` is looked for, then KUBECONFIG, then the account of the pod
    that this runs in.

    A pod waits at most `schedule_seconds` for a node (more than a cluster's autoscaler takes to
    bring one) and `startup_seconds` there until it runs; it runs at most `active_deadline_seconds`.
    A group whose pod was evicted, pre-empted or lost starts again up to `retries` times, with the
    parts that are missing. `user` and `group` are the numbers the pods run as, never root.
    """

    kind: Literal["kubernetes"]
    image: Annotated[str, Field(pattern=r"^[^\s{}]+$")]
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    pull_secrets: tuple[DnsName, ...] = ()
    connection: Annotated[str, Field(min_length=1)] | None = None
    namespace: DnsLabel | None = None
    pods: Positive = 4
    resources: Resources = Resources()
    gpu: Gpu | None = None
    ephemeral_storage: Quantity = "2Gi"
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    priority_class: DnsName | None = None
    service_account: DnsName | None = None
    user: Positive = 10001
    group: Positive = 10001
    env: dict[EnvName, Annotated[str, BeforeValidator(_text)]] = Field(default_factory=dict)
    env_from_secrets: tuple[DnsName, ...] = ()
    secret_env: dict[EnvName, SecretKey] = Field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    annotations: dict[LabelKey, str] = Field(default_factory=dict)
    schedule_seconds: Positive = 600
    startup_seconds: Positive = 300
    active_deadline_seconds: Positive = 4 * 3600
    grace_seconds: Positive = 30
    retries: Annotated[int, Field(ge=0, strict=True)] = 3
    deferrable: bool = True

    @model_validator(mode="after")
    def _sound(self) -> KubernetesEngine:
        twice = sorted(self.env.keys() & self.secret_env.keys())
        if twice:
            raise ValueError(f"{', '.join(twice)}: both in env and in secret_env")
        reserved = sorted(name for name in self.labels if name.startswith("daybreak/"))
        if reserved:
            raise ValueError(f"labels {', '.join(reserved)}: daybreak/… are Daybreak's own")
        paths = [volume.mount_path.rstrip("/") for volume in self.volumes]
        doubled = sorted({path for path in paths if paths.count(path) > 1})
        if doubled:
            raise ValueError(f"{', '.join(doubled)}: mounted more than once in volumes")
        return self
