"""The Spark engine: tasks that take parts by URI, on a local master, a cluster or Spark Connect.

The driver does no scoring. It starts one job whose tasks are `spark_task.Task`, watches the
receipts appear in storage, and ends the job when a part fails or nobody listens any more. What an
executor had finished when it was lost has its receipt; Spark repeats the task, which skips it.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.engine_config import SparkEngine
from include.engines.local import available_cores
from include.engines.spark_task import SCHEMA, Task
from include.errors import TransientError
from include.receipts import failures, forget_failures, receipts
from include.run import Part, Receipt
from include.scoring import ScoringJob
from include.spark.rendering import is_connect, rendered
from include.spark.session import spark_fault, spark_session, use_python
from include.spark.shipping import ship_code

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger("daybreak")

POLL_SECONDS = 0.5

# How long tasks may take to notice that their job was cancelled.
CANCEL_SECONDS = 20.0


@dataclass(frozen=True)
class Spark:
    """Scores on the master of `config`; the session lives as long as the scoring."""

    config: SparkEngine

    def score(self, job: ScoringJob, parts: Sequence[Part]) -> Iterator[Receipt]:
        """See `Engine`. A failure record becomes the error, never a trace of Spark's."""
        if not parts:
            return
        forget_failures(job, [part.index for part in parts])
        config = self.config
        settings = rendered(
            config.master, config.conf, config.gpu, archives=config.packaging.archives
        )
        name = f"daybreak {job.pipeline} {job.as_of} {job.version}"
        with spark_session(config.master, settings, name) as spark:
            use_python(spark, config.master, config.packaging.python)
            ship_code(spark, config.master)
            running = _Job(spark, Task(job.model_dump_json(), _as_json(parts)), self._tasks(spark))
            running.start(len(parts))
            patience = CANCEL_SECONDS
            try:
                yield from _watched(job, parts, running)
            except (Exception, GeneratorExit):
                raise
            except BaseException:  # Ctrl-C or SIGTERM: tasks end with the session
                patience = 0
                raise
            finally:
                running.end(patience, classic=not is_connect(config.master))

    def _tasks(self, spark: SparkSession) -> int:
        """How many tasks the executors' cores are worth."""
        return self.config.partitions_per_core * max(1, _cores(spark, self.config))


def engine(config: SparkEngine) -> Spark:
    """The engine of a pipeline's configuration."""
    return Spark(config)


class _Job:
    """One Spark action in a thread of its own; `done` is set however it ends."""

    def __init__(self, spark: SparkSession, task: Task, tasks: int) -> None:
        self.spark, self.task, self.tasks = spark, task, tasks
        self.tag = f"daybreak-{uuid.uuid4().hex}"
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.finished: list[Receipt] = []
        self.thread = threading.Thread(target=self._run, name="spark-job", daemon=True)

    def start(self, parts: int) -> None:
        self.parts = parts
        self.thread.start()

    def _run(self) -> None:
        try:
            self.spark.addTag(self.tag)
            positions: Any = self.spark.range(0, self.parts, 1, min(self.parts, self.tasks))
            rows = positions.mapInArrow(self.task, SCHEMA).collect()
            self.finished = [Receipt.model_validate_json(row[0]) for row in rows]
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits for this job
            self.error = error
        finally:
            self.done.set()

    def end(self, patience_seconds: float, *, classic: bool) -> None:
        """Cancel what still runs, and return once no task does, or patience is at an end."""
        try:
            if not self.done.is_set():
                self.spark.interruptTag(self.tag)
                self.done.wait(patience_seconds)
            deadline = time.monotonic() + patience_seconds
            while classic and _running_tasks(self.spark) and time.monotonic() < deadline:
                time.sleep(0.05)
        except Exception as error:  # noqa: BLE001 - what ended the scoring matters, not this
            log.warning("Spark's job could not be cancelled: %s", type(error).__name__)


def _watched(job: ScoringJob, parts: Sequence[Part], running: _Job) -> Iterator[Receipt]:
    """Receipts as they appear; at the end every part has been given, or an error is raised."""
    waiting = {part.index: part.rows for part in parts}
    given: set[int] = set()
    ended = False
    while waiting:
        ended = running.done.wait(POLL_SECONDS)
        found = running.finished if ended and running.error is None else receipts(job, given)
        for receipt in found:
            if waiting.get(receipt.part) == receipt.rows_in:
                del waiting[receipt.part]
                given.add(receipt.part)
                yield receipt
        failed = [failure for failure in failures(job) if failure.part in {None, *waiting}]
        if failed and (failed[0].permanent or ended):
            raise failed[0].as_error()
        if ended and waiting:
            raise _unfinished(running.error, len(waiting), len(parts))


def _unfinished(error: BaseException | None, waiting: int, parts: int) -> BaseException:
    what = f"with {waiting} of {parts} parts to score"
    if error is not None:
        return spark_fault(error, what)
    return TransientError(
        f"the Spark job ended {what} and without a failure's record",
        do="see the executors' logs; what is finished stays, and a retry does the rest",
    )


def _as_json(parts: Sequence[Part]) -> tuple[str, ...]:
    return tuple(part.model_dump_json() for part in parts)


def _cores(spark: SparkSession, config: SparkEngine) -> int:
    """The executors' cores: as configured where they are, else those that have registered."""
    conf = config.conf
    if "spark.executor.instances" in conf:
        return int(conf["spark.executor.instances"]) * int(conf.get("spark.executor.cores", "1"))
    if "spark.cores.max" in conf:
        return int(conf["spark.cores.max"])
    if is_connect(config.master):
        told = spark.conf.get("spark.default.parallelism", None)
        return int(told) if told else available_cores()
    return int(spark.sparkContext.defaultParallelism)


def _running_tasks(spark: SparkSession) -> int:
    """Tasks that executors run at this moment."""
    context: Any = spark.sparkContext
    infos = context._jsc.sc().statusTracker().getExecutorInfos()
    return sum(int(info.numRunningTasks()) for info in infos)
