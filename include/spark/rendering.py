"""Spark's own settings, from what pipeline.yaml says; pure, so that a test can read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.engine_config import SparkGpu

# Where executors keep models that they fetched: below the executor's own working directory, which
# its cluster cleans up with it.
EXECUTOR_CACHE = "daybreak-cache"

# What spark.task.maxFailures is on a cluster.
LOCAL_ATTEMPTS = 4


def is_local(master: str) -> bool:
    return master == "local" or master.startswith("local[")


def is_connect(master: str) -> bool:
    return master.startswith("sc://")


def tolerant(master: str) -> str:
    """A local master that tries a task again, as clusters do; Spark's own gives up at the first."""
    if not is_local(master) or "," in master:
        return master
    cores = master.removeprefix("local").strip("[]") or "1"
    return f"local[{cores},{LOCAL_ATTEMPTS}]"


def rendered(
    master: str,
    conf: Mapping[str, str],
    gpu: SparkGpu | None = None,
    *,
    archives: tuple[str, ...] = (),
    query: bool = False,
) -> dict[str, str]:
    """The settings of a session; `conf` goes before everything that is decided here.

    `query` is for a session that runs features.sql: RAPIDS is loaded there and not where parts are
    scored, because its memory pool takes the GPU that the model needs.
    """
    # A zone and a batch size that shape what Arrow gives, the same on every machine.
    settings = {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "50000",
    }
    if is_connect(master):  # the rest belongs to the server
        return settings | dict(conf)
    settings |= {
        "spark.log.level": "ERROR",
        "spark.ui.showConsoleProgress": "false",
        # The model stays loaded in a Python worker from one task to the next.
        "spark.python.worker.reuse": "true",
    }
    if is_local(master):
        settings |= {
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
        }
    else:
        settings["spark.executorEnv.DAYBREAK_CACHE"] = EXECUTOR_CACHE
    if archives:
        settings["spark.archives"] = ",".join(archives)
    if gpu is not None:
        settings |= _gpu(master, gpu)
        if query and gpu.rapids:
            settings |= _rapids(gpu)
    return settings | dict(conf)


def _gpu(master: str, gpu: SparkGpu) -> dict[str, str]:
    settings = {
        "spark.executor.resource.gpu.amount": str(gpu.amount_per_executor),
        "spark.executor.resource.gpu.discoveryScript": gpu.discovery_script,
        "spark.task.resource.gpu.amount": task_share(gpu.tasks_per_gpu),
    }
    if master.startswith("k8s://"):
        settings["spark.executor.resource.gpu.vendor"] = "nvidia.com"
    if gpu.amount_per_executor > 1:
        # A process keeps the GPU that it first used, and its next task may be given another.
        settings["spark.python.worker.reuse"] = "false"
    return settings


def task_share(tasks_per_gpu: int) -> str:
    """1 / tasks as Spark reads it: it takes floor(1 / share) tasks, so the share is cut, not
    rounded up.
    """
    millionths = 1_000_000 // tasks_per_gpu
    return f"{millionths / 1_000_000:.6f}".rstrip("0").rstrip(".")


def _rapids(gpu: SparkGpu) -> dict[str, str]:
    settings = {
        "spark.plugins": "com.nvidia.spark.SQLPlugin",
        "spark.rapids.sql.concurrentGpuTasks": str(gpu.tasks_per_gpu),
        # What Python does beside the query is done on the processor, by as many at a time.
        "spark.rapids.sql.python.gpu.enabled": "false",
        "spark.rapids.python.concurrentPythonWorkers": str(gpu.tasks_per_gpu),
    }
    if gpu.rapids_jar is not None:
        settings["spark.jars"] = gpu.rapids_jar
    return settings
