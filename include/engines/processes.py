"""Processes that score parts for the local engine: each has its own model and one part at a time.

A process that dies takes down the part that it had, and no other: that part is given to a new
process once. Python's own pool would stop all of them.
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from include import object_stores
from include.errors import PermanentError, TransientError
from include.receipts import record_failure
from include.run import Part, Receipt
from include.scoring import ScoringJob
from include.spawned import spawn

if TYPE_CHECKING:
    from multiprocessing.context import SpawnContext, SpawnProcess

log = logging.getLogger("daybreak")

# The same part again and again is not bad luck: it needs more memory than there is.
DEATHS_A_PART = 2

# What a process that was told to finish may take for the part that it has.
_PATIENCE_SECONDS = 600.0


def in_processes(
    job: ScoringJob, parts: Sequence[Part], processes: int, prepare: Callable[[], object]
) -> Iterator[Receipt]:
    """Receipts as they come. After a failure no further part starts; those under way end first.

    `prepare`, a module's function, is called in each process once its model is loaded. Whatever
    else stops the caller, such as Ctrl-C or SIGTERM, ends the processes at once. Raises
    TransientError where a part has ended DEATHS_A_PART processes.
    """
    waiting, deaths = deque(parts), Counter[int]()
    context = multiprocessing.get_context("spawn")
    crew = [_Process.start(context, job, prepare) for _ in range(processes)]
    patient = True
    try:
        while waiting or any(each.part for each in crew):
            for each in crew:
                if each.part is None and waiting:
                    each.take(waiting.popleft())
            busy = {each.pipe: each for each in crew if each.part}
            for pipe in wait(list(busy)):
                each = busy[pipe]  # type: ignore[index]  # `wait` gives back what it was given
                part = each.part
                assert part is not None
                heard = each.heard()
                if isinstance(heard, Receipt):
                    yield heard
                elif heard is not None:
                    raise heard
                else:
                    deaths[part.index] += 1
                    _survive(job, part, each, deaths[part.index])
                    waiting.appendleft(part)  # soon, so that a part which kills is soon known
                    crew[crew.index(each)] = _Process.start(context, job, prepare)
    except (Exception, GeneratorExit):
        raise
    except BaseException:
        patient = False
        raise
    finally:
        for each in crew:
            each.end(_PATIENCE_SECONDS if patient else 0)


def _survive(job: ScoringJob, part: Part, dead: _Process, deaths: int) -> None:
    """Log the death of a worker, or raise where its part has had enough of them."""
    how = _death(dead.process.exitcode)
    if deaths < DEATHS_A_PART:
        log.warning(f"a worker process {how} at part {part.index}; the part is begun again")
        return
    error = TransientError(
        f"a worker process {how} at part {part.index}, for the {deaths}. time, as one does that "
        "the system ends for want of memory",
        where=part.uri,
        do="try again; lower engine.workers or snapshot.part_rows if it comes back",
    )
    record_failure(job, part.index, error)
    raise error


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended without a word, with code {code},"


@dataclass
class _Process:
    """A worker process, the pipe to it, and the part that it works on."""

    process: SpawnProcess
    pipe: Connection
    part: Part | None = None

    @classmethod
    def start(
        cls, context: SpawnContext, job: ScoringJob, prepare: Callable[[], object]
    ) -> _Process:
        stores = object_stores.known()
        return cls(*spawn(context, "score", _work, job.model_dump_json(), prepare, stores))

    def take(self, part: Part) -> None:
        self.part = part
        try:
            self.pipe.send(part)
        except BrokenPipeError:
            return  # it is dead, which `heard` will find

    def heard(self) -> Receipt | Exception | None:
        """What came of the part; None where the process is dead."""
        try:
            answer: Receipt | Exception = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            answer = None  # type: ignore[assignment]
        self.part = None
        return answer

    def end(self, patience_seconds: float) -> None:
        """Let it finish what it has, or not; an idle process ends at the end of its pipe."""
        if self.part is not None and patience_seconds:
            self.pipe.poll(patience_seconds)
        elif self.part is not None:
            self.process.kill()
        self.pipe.close()
        self.process.join(patience_seconds or None)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _work(
    pipe: Connection,
    job_json: str,
    prepare: Callable[[], object],
    stores: dict[str, dict[str, str]],
) -> None:
    """Score parts from the pipe until it closes; answer with receipts and errors.

    `stores` is what the parent knows of object stores: here is no orchestrator to ask.
    """
    object_stores.use(stores)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears of it, and ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from include.engines.worker import Worker

    worker: Worker | None = None
    try:
        while True:
            part: Part = pipe.recv()
            try:
                if worker is None:
                    worker = Worker(ScoringJob.model_validate_json(job_json))
                    prepare()
                answer: Any = worker.score(part)
            except Exception as error:  # noqa: BLE001 - the parent raises it
                answer = _portable(error)
            pipe.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has no more for us, or is gone


def _portable(error: Exception) -> Exception:
    """The error, or where it cannot be pickled, one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - it was made on the line before
    except Exception:  # noqa: BLE001 - a library's error may fail in any way
        return PermanentError(f"{type(error).__name__}: {error}")
    return error
