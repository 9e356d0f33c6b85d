"""The local engine: this machine's cores, one part per worker at a time.

Workers are threads where the model computes without Python's lock, and processes where it holds
it. Libraries work in one thread each: parts are the parallelism, and a library that starts a
thread per core in every worker only makes them wait for each other.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from include.config import Engine as EngineConfig
from include.errors import TransientError
from include.models.pinned import local_model
from include.run import Part, Receipt
from include.scorers import Output, Scorer, open_scorer
from include.scoring import ScoringJob, quarantined_rows, score_part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("daybreak")

# What a new process costs before its first row: the imports of pyarrow and a model library.
SPAWN_SECONDS = 5.0


class Worker:
    """A loaded model and the quarantined rows: what scores parts, once per process."""

    def __init__(self, job: ScoringJob) -> None:
        columns = tuple(column.name for column in job.model.inputs)
        folder = local_model(job.model)
        self.job = job
        self.scorer: Scorer = open_scorer(
            folder, job.model.flavor, columns, cast(Output, job.output)
        )
        self.quarantined: dict[int, NDArray[np.int64]] = quarantined_rows(job)

    def score(self, part: Part) -> Receipt:
        return score_part(self.job, part, self.scorer, self.quarantined)


@dataclass(frozen=True)
class Local:
    """`workers` at once, 0 for one per core that this process may use.

    Processes are started only where they save more than they cost: when what is left to score
    would take one worker longer than `spawn_seconds`, judged by the first part.
    """

    workers: int = 0
    spawn_seconds: float = SPAWN_SECONDS

    def score(self, job: ScoringJob, parts: Sequence[Part]) -> Iterator[Receipt]:
        """See `Engine`."""
        rest = list(parts)
        if not rest:
            return
        worker = Worker(job)
        workers = min(self.workers or available_cores(), len(rest))
        with _one_thread():
            if workers > 1 and worker.scorer.releases_gil:
                threads = ThreadPoolExecutor(workers, "score", initializer=_one_thread)
                yield from _pooled(threads, worker.score, rest)
                return
            first = rest.pop(0)
            receipt = worker.score(first)
            yield receipt
            if workers > 1 and self._worth_processes(first, rest, receipt.seconds):
                processes = ProcessPoolExecutor(
                    min(workers, len(rest)),
                    multiprocessing.get_context("spawn"),
                    initializer=_start_process,
                    initargs=(job.model_dump_json(),),
                )
                yield from _pooled(processes, _score_in_process, rest)
                return
            for part in rest:
                yield worker.score(part)

    def _worth_processes(self, first: Part, rest: list[Part], seconds: float) -> bool:
        if multiprocessing.current_process().daemon:
            log.warning("this process may not start others: parts are scored one after another")
            return False
        rows = sum(part.rows for part in rest)
        return len(rest) > 1 and seconds / max(first.rows, 1) * rows > self.spawn_seconds


def engine(config: EngineConfig) -> Local:
    """The engine of a pipeline's configuration."""
    return Local(config.workers)


def available_cores() -> int:
    """Cores that this process may use: its affinity, and the container's share where it has one."""
    cores = len(os.sched_getaffinity(0))
    limit = Path("/sys/fs/cgroup/cpu.max")
    if limit.is_file():
        quota, period = limit.read_text().split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(cores, 1)


def _pooled(
    pool: Executor, score: Callable[[Part], Receipt], parts: Sequence[Part]
) -> Iterator[Receipt]:
    """Receipts as they come. After a failure no further part starts; those under way end first."""
    try:
        futures: list[Future[Receipt]] = [pool.submit(score, part) for part in parts]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise TransientError(
            "a worker process ended without a word, as one does that the system kills for memory",
            do="try again; lower engine.workers or snapshot.part_rows if it comes back",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_thread() -> Any:
    """Hold BLAS and OpenMP to one thread, until the context ends where it is used as one.

    OpenMP's setting is the calling thread's own, so each worker thread makes it for itself.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


_worker: Worker | None = None


def _start_process(job: str) -> None:
    global _worker
    _worker = Worker(ScoringJob.model_validate_json(job))
    # After the model: a library that is not loaded yet cannot be held to one thread.
    _one_thread()


def _score_in_process(part: Part) -> Receipt:
    assert _worker is not None, "the pool starts every process with _start_process"
    return _worker.score(part)
