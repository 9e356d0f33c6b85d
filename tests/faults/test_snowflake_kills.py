"""A publish, a rollback and a deletion in Snowflake's emulator, killed at their statements."""

from __future__ import annotations

import datetime as dt
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from include.config import Predictions
from include.run import Column
from include.stores import Decision, Store, open_store
from tests import processes
from tests.fakesnow_account import CONNECTION, Account
from tests.faults.watching import Watch, digest, digest_of_staged
from tests.staged_versions import DAY, PLANNED_AT, rows_of, staged

pytest_plugins = ("tests.fakesnow_server",)

LONG = "DAYBREAK_LONG_TESTS" in os.environ
ROWS = 6
LATER = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)  # than every commit
ANNA = Decision(by="anna", at=PLANNED_AT + dt.timedelta(hours=1), reason="")


def opened(root: str) -> Store:
    config = Predictions(kind="snowflake", connection=CONNECTION, table="churn")
    return open_store(config, root)


def act(root: str, what: str, version: str, kill_at: str | None, trace: str | None) -> None:
    """Do it, and die at a point, or write down the points that it passes."""
    from snowflake.connector.cursor import SnowflakeCursor

    real, seen = SnowflakeCursor.execute, Counter[str]()

    def meet(point: str) -> None:
        seen[point] += 1
        name = f"{point} ({seen[point]})"
        if trace is not None:
            with Path(trace).open("a") as points:
                points.write(f"{name}\n")
        if name == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def executing(self: Any, command: str, *args: Any, **options: Any) -> Any:
        name = " ".join(command.split()[:2])
        meet(f"before {name}")
        result = real(self, command, *args, **options)
        meet(f"after {name}")
        return result

    SnowflakeCursor.execute = executing
    do(opened(root), what, version)


def do(store: Store, what: str, version: str) -> None:
    if what == "publish":
        store.commit(staged(store, version, count=ROWS, parts=2), PLANNED_AT)
    elif what == "rollback":
        current = store.current(DAY)
        assert current is not None
        store.rollback(DAY, version, ANNA, replacing=current.version)
    else:
        store.delete([(DAY, version)], "too old", LATER)


def die(*args: Any) -> int | None:
    """The exit code of a process that acts."""
    process = processes.Process(target=act, args=args)
    process.start()
    process.join(300)
    code: int | None = process.exitcode
    return code


@pytest.fixture
def root(snowflake: Account, tmp_path: Path) -> str:
    columns = [Column(name=field.name, type=str(field.type)) for field in rows_of(0).schema]
    opened(tmp_path.as_uri()).set_up(columns)
    return tmp_path.as_uri()


def seen(store: Store) -> str:
    rows = store.read(DAY)
    (version,) = set(rows["version"].to_pylist())
    assert set(rows["run_id"].to_pylist()) == {f"run-of-{version}"}
    assert digest(rows) == digest_of_staged(version, DAY, ROWS)
    return str(version)


@pytest.mark.parametrize("what", ["publish", "rollback", "delete"])
def test_what_is_killed_at_a_statement_and_done_again_is_done_once_and_whole(
    snowflake: Account, root: str, tmp_path: Path, what: str
) -> None:
    """Snowflake rolls back what a dead client had open; so does the emulator, being told."""
    store, trace = opened(root), tmp_path / "points"
    for version in ("v0", "v1", "v2"):
        do(store, "publish", version)

    def victim(number: int) -> str:
        """The version that the next act is about: a new one, the older, or one to delete."""
        if what == "publish":
            return f"v-new-{number}"
        if what == "rollback":
            return "v1" if seen(store) == "v2" else "v2"
        do(store, "publish", f"v-old-{number}")
        do(store, "publish", f"v-last-{number}")
        return f"v-old-{number}"

    assert die(root, what, victim(0), None, str(trace)) == 0
    points = trace.read_text().splitlines()
    assert len(points) > 20
    step = 1 if LONG else len(points) // (6 if what == "publish" else 3) + 1
    kills = reads = 0
    for number, point in enumerate(points[step // 2 :: step], start=1):
        version, before = victim(number), seen(store)
        allowed = {before} if what == "delete" else {before, version}
        digests: set[str | None] = {digest_of_staged(each, DAY, ROWS) for each in allowed}
        with Watch(opened(root), {DAY: digests}, pause=0.2) as watch:
            code = die(root, what, version, point, None)
            snowflake.end_transactions()
            assert code in (0, -signal.SIGKILL), point
            kills += code == -signal.SIGKILL
            assert seen(store) in allowed, point
            # Where it was done when it died, a person sees that, and asks no more.
            if what != "rollback" or seen(store) != version:
                do(store, what, version)
        reads += watch.seen.total()
        assert seen(store) == (before if what == "delete" else version), point
        listed = store.versions(DAY)
        assert [one.version for one in listed if one.current] == [seen(store)], point
        assert len({one.version for one in listed}) == len(listed)
        if what == "delete":
            assert version not in {one.version for one in store.stored()}, point
    assert kills and reads
    print(f"{kills} kills of {len(points)} points of a {what}, {reads} reads meanwhile")
