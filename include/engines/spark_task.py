"""What a Spark task does: takes parts by their URIs, scores them, and says which are finished.

It runs in a Python worker of an executor, from the zip that the driver ships. No row of data
crosses the JVM: Spark gives numbers of parts and gets receipts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.engines.worker import Worker
from include.errors import TransientError
from include.run import Part, Receipt
from include.scoring import ScoringJob, receipts
from include.settings import show_gpus, silence_telemetry

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("daybreak")

# What `Task` yields: the JSON of a receipt for each part.
SCHEMA = "receipt string"

# The job and its loaded model, kept from one task to the next of this process.
_loaded: tuple[str, Worker] | None = None


@dataclass(frozen=True)
class Task:
    """Scores the parts whose positions it is given; `job` and `parts` are JSON.

    The model is no part of it: each process loads it once, from the pinned folder in the workspace.
    """

    job: str
    parts: tuple[str, ...]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        from pyspark import TaskContext

        silence_telemetry()
        context: Any = TaskContext.get()
        gpus = context.resources().get("gpu") if context else None
        if gpus is not None and _loaded is None:
            show_gpus(gpus.addresses)
        positions = [p for batch in batches for p in batch.column(0).to_pylist()]
        chosen = [Part.model_validate_json(self.parts[position]) for position in positions]
        again = context is not None and context.attemptNumber() > 0
        for receipt in self._scored(chosen, again):
            yield pa.RecordBatch.from_pydict({"receipt": [receipt.model_dump_json()]})

    def _scored(self, parts: list[Part], again: bool) -> Iterator[Receipt]:
        """A failure that a retry cannot help ends the task quietly: its record says the rest, and
        Spark would only try it on every other executor too.
        """
        from threadpoolctl import threadpool_limits

        job = ScoringJob.model_validate_json(self.job)
        finished = {receipt.part: receipt for receipt in receipts(job)} if again else {}
        try:
            worker = _worker(self.job, job)
            with threadpool_limits(1):  # tasks are the parallelism
                for part in parts:
                    yield finished[part.index] if part.index in finished else worker.score(part)
        except TransientError:
            raise
        except Exception as error:  # noqa: BLE001 - the worker has recorded it
            log.error("stopped: %s", error)


def _worker(text: str, job: ScoringJob) -> Worker:
    global _loaded
    if _loaded is None or _loaded[0] != text:
        _loaded = None  # One model at a time in memory.
        _loaded = (text, Worker(job))
    return _loaded[1]
