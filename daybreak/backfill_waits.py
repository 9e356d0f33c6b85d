"""Why the runs of a backfill wait in Airflow, as far as Airflow can say it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from daybreak.airflow_api import AirflowApi, DagRun
from daybreak.backfill import Board
from include.errors import DaybreakError
from include.partition import Partition

# The scheduler starts a task within seconds, and a worker takes some more to import it.
QUIET_SECONDS = 45.0
ASK = "approval.ask"  # the task that asks a person about a version that was held
CREATE_POOL = "airflow pools set {pool} 4 backfills"

Runs = Mapping[Partition, DagRun]


class Quiet:
    """Asks why, each time that nothing has moved for a while, and says each reason once."""

    def __init__(
        self,
        api: AirflowApi,
        dag_id: str,
        board: Board,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.api, self.dag_id, self.board, self.clock = api, dag_id, board, clock
        self._told: set[str] = set()
        self._seen: Any = None
        self._since = clock()

    def look(self, going: Runs, steps: Mapping[Partition, str | None]) -> None:
        """`going` are the runs that have not ended, and `steps` at which step each of them is."""
        now, seen = self.clock(), ({each: run.state for each, run in going.items()}, dict(steps))
        if seen != self._seen:
            self._seen, self._since = seen, now
        if now - self._since < QUIET_SECONDS:
            return
        self._since = now
        try:
            for why in why_they_wait(self.api, self.dag_id, going):
                self._say(why)
        except DaybreakError as error:
            self._say(f"what else the runs may wait for is not known: {error.found}")

    def _say(self, why: str) -> None:
        if why not in self._told:
            self._told.add(why)
            self.board.said(why)


def why_they_wait(api: AirflowApi, dag_id: str, going: Runs) -> Iterator[str]:
    """Each thing that keeps runs from going on; nothing where their tasks are at work."""
    stopped = list(_of_the_dag(api, dag_id))
    yield from stopped
    persons, waiting, at_work = _tasks(api, dag_id, going)
    for partition in persons:
        yield (
            f"{partition} waits for a person: daybreak approve {dag_id} --date {partition} "
            "--reason …, or daybreak reject"
        )
    full = list(_of_pools(api, waiting))
    yield from full
    if not (stopped or full or at_work or persons):
        queued = ", ".join(str(each) for each, run in going.items() if run.state == "queued")
        if queued or waiting:
            yield (
                f"Airflow does not start {queued or 'the next tasks'}: its limits of runs or tasks "
                "are reached, or its workers are taken"
            )


def _of_the_dag(api: AirflowApi, dag_id: str) -> Iterator[str]:
    dag = api.dag(dag_id)
    if dag is None or dag["is_stale"]:
        yield f"Airflow has no DAG {dag_id} any more: see that its DAGs folder has the pipeline"
    elif dag["is_paused"]:
        yield f"the DAG {dag_id} is paused, so its runs wait: airflow dags unpause {dag_id}"
    for part, state in api.health().items():
        if part in ("scheduler", "metadatabase") and state != "healthy":
            yield f"Airflow's {part} is {state}, so nothing starts: see its log, or start it"


def _tasks(api: AirflowApi, dag_id: str, going: Runs) -> tuple[list[Partition], set[str], bool]:
    """The partitions that wait for a person, the pools of tasks that wait, and if any is at work.

    A task that waits for its retry is at work.
    """
    persons: list[Partition] = []
    pools: set[str] = set()
    at_work = False
    for partition, run in going.items():
        if run.state != "running":
            continue
        for task in api.tasks(dag_id, run.id):
            if task.id == ASK and task.state in ("deferred", "awaiting_input"):
                persons.append(partition)
            elif task.state in ("scheduled", "queued"):
                pools.add(task.pool)
            elif task.state in ("running", "deferred", "up_for_retry", "restarting"):
                at_work = True
    return persons, pools, at_work


def _of_pools(api: AirflowApi, names: set[str]) -> Iterator[str]:
    for name in sorted(names):
        pool = api.pool(name)
        if pool is None:
            create = CREATE_POOL.format(pool=name)
            yield f"Airflow has no pool {name}, and starts no task of it: {create}"
        elif pool.slots >= 0 and pool.free <= 0:  # -1: as many as one likes
            yield f"the {pool.slots} slots of the pool {name} are taken"
