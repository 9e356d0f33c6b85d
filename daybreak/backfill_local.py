"""A backfill on this machine: N processes, each running the steps of one partition at a time.

A process is kept for the next partition, because its imports take longer than a small partition
does. One that dies takes down its partition and no other.
"""

from __future__ import annotations

import datetime as dt
import logging
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from daybreak.backfill import Backfill, Board, Only, PartitionResult, Results
from include.errors import TransientError
from include.partition import Partition
from include.run import Value
from include.spawned import spawn

if TYPE_CHECKING:
    from multiprocessing.context import SpawnContext, SpawnProcess

    from daybreak.run import Outcome

STOP_SECONDS = 8.0  # what a process may take to end after each of the signals that end it


def run_local(backfill: Backfill, parallel: int, board: Board, results: Results) -> None:
    """Run every partition, the oldest first; what each came to is added to `results`.

    After Ctrl-C no further partition starts, and those under way are stopped where they are: a
    run that is repeated goes on from there.
    """
    waiting = deque(backfill.partitions)
    context = multiprocessing.get_context("spawn")
    workers = [
        _Worker.start(context, backfill.pipeline.name, backfill.only)
        for _ in range(min(parallel, len(waiting)))
    ]
    try:
        while waiting or any(worker.partition for worker in workers):
            for worker in workers:
                if worker.partition is None and waiting:
                    worker.take(waiting.popleft(), board)
            busy = {worker.pipe: worker for worker in workers if worker.partition}
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]  # `wait` gives back what it was given
                result = worker.heard(board)
                if result is None:
                    continue
                results.found.append(result)
                board.finished(result)
                if worker.dead:
                    place = workers.index(worker)
                    workers[place] = _Worker.start(context, backfill.pipeline.name, backfill.only)
    except KeyboardInterrupt:
        results.interrupted = True
        results.not_run([each.partition for each in workers if each.partition], "stopped")
    finally:
        _stop(workers)


@dataclass
class _Worker:
    """A process, the pipe to it, and the partition that it works on."""

    process: SpawnProcess
    pipe: Connection
    partition: Partition | None = None
    dead: bool = False

    @classmethod
    def start(cls, context: SpawnContext, pipeline: str, only: Only) -> _Worker:
        return cls(*spawn(context, "backfill", _work, pipeline, only))

    def take(self, partition: Partition, board: Board) -> None:
        self.partition = partition
        board.running(partition.as_of, "starting")
        with suppress(BrokenPipeError):  # it is dead, which `heard` will find
            self.pipe.send(partition.as_of)

    def heard(self, board: Board) -> PartitionResult | None:
        """The next message of the process; the partition's result where that ends it."""
        assert self.partition is not None
        try:
            message = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            self.dead = True
            message = PartitionResult(
                as_of=self.partition.as_of, state="failed", error=_death(self.process.exitcode)
            )
        if isinstance(message, str):
            board.running(self.partition.as_of, message)
            return None
        assert isinstance(message, PartitionResult)
        self.partition = None
        return message


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = ", as when memory runs out: lower --parallel" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{memory}"
    return f"its process ended without a word, with code {code}"


def _stop(workers: list[_Worker]) -> None:
    """End every process, and what it started itself.

    An interrupt lets a step take away what it has half written. It can be lost, in a destructor
    for one, so that what stays is ended the hard way: every step is safe to be killed.
    """
    for worker in workers:
        worker.pipe.close()  # an idle process ends at the end of its pipe
        if worker.partition is not None and worker.process.is_alive():
            assert worker.process.pid is not None
            os.kill(worker.process.pid, signal.SIGINT)
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + STOP_SECONDS
        for worker in workers:
            worker.process.join(max(0.1, until - time.monotonic()))
            if worker.process.is_alive():
                _signal_group(worker, number)
    for worker in workers:
        worker.process.join()


def _signal_group(worker: _Worker, number: signal.Signals) -> None:
    assert worker.process.pid is not None
    try:
        os.killpg(worker.process.pid, number)
    except ProcessLookupError:  # it has not made its group yet
        worker.process.kill()


def _work(pipe: Connection, pipeline: str, only: Only) -> None:
    """Take dates from the pipe until it closes; answer with steps as they begin, then a result."""
    # A group of its own: a terminal's Ctrl-C reaches the parent alone, which passes it on once.
    os.setpgrp()
    os.dup2(2, 1)  # stdout belongs to the command's own output
    sys.unraisablehook = _unraisable
    logging.getLogger("daybreak").addHandler(logging.NullHandler())
    warnings.simplefilter("ignore")
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        while True:
            pipe.send(_run(pipeline, pipe.recv(), only, pipe))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return  # the parent has no more for us, is gone, or stops us


def _unraisable(lost: Any) -> None:
    """Say what a destructor raised, unless that is the interrupt."""
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)


def _run(pipeline: str, as_of: dt.date, only: Only, pipe: Connection) -> PartitionResult:
    from daybreak.run import look_first, new_request, run_steps

    started, watcher = time.monotonic(), _Steps(pipe)
    request = new_request(pipeline, dt.datetime.now(dt.UTC), as_of, rescore=only)
    if request.asks_first:
        # It was planned hours ago, perhaps: another run may have published the partition since.
        try:
            found = look_first(request, watcher)
        except Exception as error:  # noqa: BLE001 - the partition's result says it
            return PartitionResult(
                as_of=as_of, state="failed", seconds=_since(started), error=_one_line(error)
            )
        if found.ends_here:
            return _left_alone(pipeline, as_of, str(found), _since(started))
    return _result(as_of, run_steps(request, watcher), _since(started))


def _left_alone(pipeline: str, as_of: dt.date, why: str, seconds: float) -> PartitionResult:
    from daybreak.backfill_runs import left_alone
    from include.pipeline import load_named
    from include.settings import settings
    from include.workspace import Workspace

    where = settings()
    workspace = Workspace(where.workspace, pipeline)
    return left_alone(load_named(where.pipelines, pipeline), workspace, as_of, why, seconds)


def _result(as_of: dt.date, outcome: Outcome, seconds: float) -> PartitionResult:
    from daybreak.backfill_runs import reported
    from daybreak.summary import load_report

    error = _one_line(outcome.error) if outcome.error is not None else None
    report = outcome.report
    if report is None:
        return PartitionResult(
            as_of=as_of, state="failed", seconds=seconds, error=error, run_id=outcome.run_id
        )
    return reported(as_of, report, load_report(report), seconds, error)


def _one_line(error: Exception) -> str:
    from daybreak.progress import sentence

    return " ".join(sentence(error).split())


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)


class _Steps:
    """A watcher that tells the parent which step has begun."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def started(self, step: str) -> None:
        self.pipe.send(step)

    def retrying(self, step: str, error: TransientError, attempt: int, seconds: float) -> None:
        self.pipe.send(f"{step}, retry {attempt} in {seconds:g} s")

    def finished(self, step: str, seconds: float, result: Value) -> None:
        return None

    def failed(self, step: str, seconds: float, error: Exception) -> None:
        return None
