"""The section `engine:` of pipeline.yaml, one model a kind: where the parts are scored.

Nothing here shapes a row, so nothing here is part of a version's id: a run that one engine began
may be finished by another.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from include.pod_config import KubernetesEngine as KubernetesEngine
from include.section import Section


class LocalEngine(Section):
    """The cores of this machine. `workers: 0` takes one per core."""

    kind: Literal["local"] = "local"
    workers: Annotated[int, Field(ge=0, strict=True)] = 0


def _spark_value(value: Any) -> Any:
    """YAML's numbers and booleans as Spark writes them."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


SparkValue = Annotated[str, BeforeValidator(_spark_value)]

# local, local[2], local[*], local[2,3]; one or more masters; an API server; a Connect server.
_MASTERS = (
    r"local(\[(\d+|\*)(,\d+)?\])?",
    r"spark://[^\s,/]+:\d+(,[^\s,/]+:\d+)*",
    r"k8s://\S+",
    r"sc://\S+",
)


class SparkGpu(Section):
    """GPUs of a Spark cluster: how many an executor has, and how many tasks share one.

    `rapids` runs features.sql on them too, where the warehouse is Spark; `rapids_jar` is the
    plugin's jar where the cluster's image has none. `discovery_script` lies on every executor and
    prints what GPUs there are, as Spark's own does.
    """

    amount_per_executor: Annotated[int, Field(ge=1, strict=True)] = 1
    tasks_per_gpu: Annotated[int, Field(ge=1, le=1000, strict=True)] = 1
    rapids: bool = False
    rapids_jar: Annotated[str, Field(min_length=1)] | None = None
    discovery_script: Annotated[str, Field(min_length=1)] = (
        "/opt/spark/examples/src/main/scripts/getGpusResources.sh"
    )

    @model_validator(mode="after")
    def _rapids_rules(self) -> SparkGpu:
        if self.rapids and self.amount_per_executor > 1:
            raise ValueError("rapids works with one GPU per executor: set amount_per_executor to 1")
        if self.rapids_jar and not self.rapids:
            raise ValueError("rapids_jar means nothing without rapids: true")
        return self


class SparkPackaging(Section):
    """What executors run with: `python` is their interpreter, `archives` are unpacked beside it.

    An archive is written as Spark does: s3a://env.tar.gz#env is unpacked as ./env, so that `python`
    is ./env/bin/python.
    """

    python: Annotated[str, Field(min_length=1)] | None = None
    archives: tuple[Annotated[str, Field(min_length=1)], ...] = ()


class SparkOperator(Section):
    """The SparkApplication that Airflow gives to a cluster's Spark operator."""

    image: Annotated[str, Field(min_length=1)]
    namespace: Annotated[str, Field(min_length=1)] = "default"
    service_account: Annotated[str, Field(min_length=1)] = "spark"
    executors: Annotated[int, Field(ge=1, strict=True)] = 2
    cores: Annotated[int, Field(ge=1, strict=True)] = 2
    memory: Annotated[str, Field(pattern=r"^\d+[kmgt]$")] = "4g"
    driver_memory: Annotated[str, Field(pattern=r"^\d+[kmgt]$")] = "2g"
    connection: Annotated[str, Field(min_length=1)] = "kubernetes_default"


class SparkEngine(Section):
    """The tasks of a Spark application; `conf` are Spark's own settings and go before ours.

    A stage has `partitions_per_core` tasks for each core of the executors. `launch` says where
    Airflow runs the driver: `task` in the task score itself, `submit` by spark-submit in a task of
    its own, `operator` in the cluster, by the Spark operator. Silent, it is `submit` for spark://
    and k8s:// and `task` for the others.
    """

    kind: Literal["spark"]
    master: Annotated[str, Field(min_length=1)] = "local[*]"
    partitions_per_core: Annotated[int, Field(ge=1, le=16, strict=True)] = 3
    conf: dict[str, SparkValue] = Field(default_factory=dict)
    gpu: SparkGpu | None = None
    packaging: SparkPackaging = SparkPackaging()
    launch: Literal["task", "submit", "operator"] | None = None
    operator: SparkOperator | None = None

    @field_validator("master")
    @classmethod
    def _known_master(cls, master: str) -> str:
        if not any(re.fullmatch(pattern, master) for pattern in _MASTERS):
            raise ValueError(
                f"{master!r} is no master: write local[*], spark://HOST:PORT, k8s://URL of the "
                "API server or, for Spark Connect, sc://HOST:PORT"
            )
        return master

    @field_validator("conf")
    @classmethod
    def _conf_of_spark(cls, conf: dict[str, str]) -> dict[str, str]:
        foreign = [name for name in conf if not name.startswith("spark.")]
        if foreign:
            raise ValueError(f"{', '.join(foreign)} is no setting of Spark's: they begin spark.")
        if "spark.master" in conf:
            raise ValueError("spark.master is written as engine.master")
        if conf.get("spark.submit.deployMode", "client") != "client":
            raise ValueError("the driver stays with Daybreak: spark.submit.deployMode is client")
        return conf

    @model_validator(mode="after")
    def _fits_the_master(self) -> SparkEngine:
        scheme = self.master.split("[")[0].split(":")[0]
        if self.gpu is not None and scheme in ("local", "sc"):
            why = {
                "local": "Spark schedules no GPUs on a local master; its tasks see the machine's",
                "sc": "a Spark Connect server was started with its GPUs or without them",
            }
            raise ValueError(f"{why[scheme]}: leave `gpu` out")
        if scheme == "sc" and (self.packaging.archives or self.packaging.python):
            raise ValueError("a Spark Connect server has its own Python: leave `packaging` out")
        if scheme == "sc" and self.launch == "submit":
            raise ValueError("spark-submit cannot reach a Spark Connect server: use launch: task")
        if (self.launch == "operator") != (self.operator is not None):
            raise ValueError("launch: operator and the section `operator` go together")
        if self.launch == "operator" and scheme != "k8s":
            raise ValueError("the Spark operator runs in Kubernetes: master is k8s://URL")
        return self

    @property
    def launched_by(self) -> Literal["task", "submit", "operator"]:
        if self.launch is not None:
            return self.launch
        return "submit" if self.master.startswith(("spark://", "k8s://")) else "task"


def _kind(given: Any) -> Any:
    """The kind that a section says, or local where it says none."""
    if isinstance(given, dict):
        return given.get("kind", "local")
    return getattr(given, "kind", "local")


EngineConfig = Annotated[
    Annotated[LocalEngine, Tag("local")]
    | Annotated[SparkEngine, Tag("spark")]
    | Annotated[KubernetesEngine, Tag("kubernetes")],
    Discriminator(_kind),
]
