"""The local engine: this machine's cores, one part per worker at a time.

Workers are threads where the model computes without Python's lock, and processes where it holds
it. Libraries work in one thread each: parts are the parallelism, and a library that starts a
thread per core in every worker only makes them wait for each other.

Memory: beside the model (once, or once a process), a worker holds one part: its file, the columns
that the model, the key and the table need, the model's own matrix of them and the scored file. So
the bound is `workers` x a few times a part of `snapshot.part_rows` rows, however many parts there
are; bench/engine_memory.py measures it.

What stops the caller stops the engine: after an error, or where the caller stops listening, parts
under way are finished and no other is begun; on Ctrl-C and SIGTERM they are dropped.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.engine_config import LocalEngine
from include.engines.processes import in_processes
from include.engines.worker import Worker
from include.run import Part, Receipt
from include.scoring import ScoringJob

log = logging.getLogger("daybreak")

# What a new process costs before its first row: the imports of pyarrow and a model library.
SPAWN_SECONDS = 5.0


@dataclass(frozen=True)
class Local:
    """`workers` at once, 0 for one per core that this process may use.

    Processes are started only where they save more than they cost: when what is left to score
    would take one worker longer than `spawn_seconds`, judged by the first part. With `batch_rows`,
    for too little memory, one worker gives the model that many rows at a time.
    """

    workers: int = 0
    spawn_seconds: float = SPAWN_SECONDS
    batch_rows: int = 0

    def score(self, job: ScoringJob, parts: Sequence[Part]) -> Iterator[Receipt]:
        """See `Engine`."""
        rest = list(parts)
        if not rest:
            return
        worker = Worker(job, self.batch_rows)
        workers = 1 if self.batch_rows else min(self.workers or available_cores(), len(rest))
        with one_thread():
            if workers > 1 and not worker.scorer.releases_gil:
                first = rest.pop(0)
                seconds = 0.0
                for receipt in _in_threads(worker, [first], 1):
                    seconds = receipt.seconds
                    yield receipt
                if self._worth_processes(first, rest, seconds):
                    yield from in_processes(job, rest, min(workers, len(rest)), one_thread)
                    return
                workers = 1
            yield from _in_threads(worker, rest, workers)

    def _worth_processes(self, first: Part, rest: list[Part], seconds: float) -> bool:
        rows = sum(part.rows for part in rest)
        if len(rest) < 2 or seconds / max(first.rows, 1) * rows <= self.spawn_seconds:
            return False
        if multiprocessing.current_process().daemon:
            log.warning("this process may not start others: parts are scored one after another")
            return False
        return True


def engine(config: LocalEngine) -> Local:
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


def one_thread() -> Any:
    """Hold BLAS and OpenMP to one thread, until the context ends where it is used as one.

    OpenMP's setting is the calling thread's own, so each worker thread makes it for itself. A
    library that is not loaded yet cannot be held: call it after the model.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def _in_threads(worker: Worker, parts: Sequence[Part], workers: int) -> Iterator[Receipt]:
    """Receipts as they come; the caller's thread only waits, so that it hears signals at once."""
    pool = ThreadPoolExecutor(workers, "score", initializer=one_thread)
    patient = True
    try:
        futures: list[Future[Receipt]] = [pool.submit(worker.score, part) for part in parts]
        for future in as_completed(futures):
            yield future.result()
    except (Exception, GeneratorExit):
        raise
    except BaseException:
        patient = False
        raise
    finally:
        pool.shutdown(wait=patient, cancel_futures=True)
