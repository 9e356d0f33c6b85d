"""How a Delta prediction table ages: ten years of daily versions, one commit each.

    python -m bench.delta_history [--versions 3650] [--parts 4] [--uri file:///tmp/somewhere]
    python -m bench.delta_history --bulk

Says at several ages how long a commit takes (median and worst of the last 50), loading the table,
reading one date and the daily upkeep, and what its log consists of. One date in ten gets a second
version. Upkeep, which is daily in production, runs every 30 versions; on a disk the log is made as
old as the dates say, so that its clean-up after 30 days is part of the picture.

With --bulk, the dates between two ages come into the table by one commit, and 20 more one by one:
the same table in a minute, without its history. The processor's time is said too.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deltalake.transaction import AddAction

from include import storage
from include.stores import VersionManifest, delta_log
from include.stores.delta import Table
from include.stores.delta_files import add_actions
from include.stores.delta_schema import PARTITION_BY, delta_types, schema_of
from tests.staged_versions import DAY, PLANNED_AT, staged

AGES = (20, 100, 365, 1000, 2000, 3650)


def main() -> None:
    parse = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parse.add_argument("--versions", type=int, default=3650)
    parse.add_argument("--parts", type=int, default=4)
    parse.add_argument("--uri")
    parse.add_argument("--bulk", action="store_true")
    asked = parse.parse_args()
    folder = None if asked.uri else Path(tempfile.mkdtemp(prefix="delta-history-"))
    store = Table(asked.uri or folder.as_uri())  # type: ignore[union-attr]
    (in_bulk if asked.bulk else night_by_night)(store, asked.versions, asked.parts)
    if folder is not None:
        shutil.rmtree(folder)


def night_by_night(store: Table, versions: int, parts: int) -> None:
    commits: list[float] = []
    for number in range(versions):
        as_of = DAY + dt.timedelta(days=number)
        for version in ("v1", "v2") if number % 10 == 0 else ("v1",):
            manifest = staged(store, version, as_of=as_of, count=40, parts=parts)
            commits.append(timed(lambda m=manifest: store.commit(m, PLANNED_AT)))  # type: ignore[misc]
        if number % 30 == 29:
            age(store.root, days=30)
            store.upkeep()
        if number + 1 in AGES:
            sys.stdout.write(json.dumps(state(store, number + 1, as_of, commits[-50:])) + "\n")
            sys.stdout.flush()


def in_bulk(store: Table, versions: int, parts: int) -> None:
    first = staged(store, "v1", as_of=DAY, count=40, parts=parts)
    store.commit(first, PLANNED_AT)
    there = 1
    for dates in [each for each in AGES if each <= versions]:
        add(store, first, range(there, dates - 20))
        there, wall, cpu = dates, list[float](), list[float]()
        for number in range(dates - 20, dates):
            as_of = DAY + dt.timedelta(days=number)
            if number == 0:
                continue
            manifest = staged(store, "v1", as_of=as_of, count=40, parts=parts)
            used = time.process_time()
            wall.append(timed(lambda m=manifest: store.commit(m, PLANNED_AT)))  # type: ignore[misc]
            cpu.append(time.process_time() - used)
        found = state(store, dates, as_of, wall)
        found["commit_cpu_ms"] = round(1000 * statistics.median(cpu), 1)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def add(store: Table, like: VersionManifest, numbers: range) -> None:
    """Let the table name files of other dates, as those of this version; they are not there."""
    files = add_actions(store.root, like, PLANNED_AT)
    dates = [str(DAY + dt.timedelta(days=number)) for number in numbers]
    actions = [
        AddAction(
            path=file.path.replace(str(like.as_of), date),
            size=file.size,
            partition_values={"as_of": date, "version": like.version},
            modification_time=file.modification_time,
            data_change=True,
            stats=file.stats,
        )
        for date in dates
        for file in files
    ]
    table = delta_log.load(store.root)
    if table is None or not actions:
        return
    schema = schema_of(delta_types(like.columns))
    table.create_write_transaction(actions, "append", schema, partition_by=PARTITION_BY)
    store.upkeep()


def age(root: str, days: int) -> None:
    """Let the log on a disk be as old as its versions' dates say: its clean-up goes by that."""
    folder = storage.local_path(root)
    for path in (folder / "_delta_log").iterdir() if folder is not None else ():
        then = path.stat().st_mtime - days * 24 * 3600
        os.utime(path, (then, then))


def state(store: Table, versions: int, as_of: dt.date, commits: list[float]) -> dict[str, Any]:
    load = [timed(lambda: delta_log.load(store.root)) for _ in range(5)]
    read = [timed(lambda: store.read(as_of)) for _ in range(5)]
    upkeep = timed(store.upkeep)
    log = list(storage.entries(storage.join(store.root, "_delta_log")))
    checkpoints = [entry for entry in log if entry.uri.endswith(".parquet")]
    return {
        "versions": versions,
        "commit_ms": round(1000 * statistics.median(commits), 1),
        "commit_worst_ms": round(1000 * max(commits), 1),
        "load_ms": round(1000 * statistics.median(load), 1),
        "read_date_ms": round(1000 * statistics.median(read), 1),
        "upkeep_ms": round(1000 * upkeep, 1),
        "log_files": len(log),
        "log_kb": round(sum(entry.size for entry in log) / 1000),
        "newest_checkpoint_kb": round(max(checkpoints, key=lambda one: one.uri).size / 1000)
        if checkpoints
        else 0,
    }


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
