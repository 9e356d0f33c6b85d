"""A place in which one command is killed again and again, and what holds each time.

The place is the same before each kill, since what is stored names absolute places: `keep` and
`restore` copy its state away and back.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from include.stores import Store, open_store
from include.workspace import Workspace
from tests.faults.commands import Command, Nursery
from tests.faults.publishers import register
from tests.faults.watching import Watch, shown
from tests.world import NAME, World, copy_world

LONG = "DAYBREAK_LONG_TESTS" in os.environ
KILLED = -signal.SIGKILL
GRACE = dt.timedelta(days=3)  # more than retention.crashed_hours

SUITE = """\
expectations:
  - type: expect_column_values_to_be_between
    kwargs: {column: balance, max_value: 4000}
    severity: warning
"""


@dataclass
class Scene:
    """A world in which `base` has happened, in which `command` is killed.

    `before` and `after` are what readers see of the day. `settled` is what is left by one
    undisturbed command and the upkeep that follows it. `clock` is by how many seconds the
    command's is ahead, and `pause` how long the reader beside it waits between two reads.
    """

    world: World
    nursery: Nursery
    base: Path
    command: tuple[str, ...]
    before: str | None
    after: str | None = None
    points: list[str] = field(default_factory=list)
    settled: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    reads: int = 0
    clock: float = 0.0
    pause: float = 0.05

    @property
    def workspace(self) -> Path:
        return self.world.home / "workspace"

    @property
    def env(self) -> dict[str, str]:
        return self.world.env

    def store(self) -> Store:
        table = Workspace(self.world.workspace, NAME).predictions()
        return open_store(self.world.pipeline().config.predictions, table)

    def keep(self, place: Path) -> None:
        """Copy the state that there is now."""
        shutil.copytree(self.workspace, place)

    def restore(self, place: Path) -> None:
        """Have the state again that was kept; an empty workspace if none was."""
        shutil.rmtree(self.workspace, ignore_errors=True)
        if place.exists():
            shutil.copytree(place, self.workspace)

    def reset(self) -> None:
        self.restore(self.base)

    def undisturbed(self, end: Path | None = None) -> None:
        """Learn what one whole command makes, and the points that it passes.

        At `end` the state after it is kept, for a scene that begins there.
        """
        self.reset()
        trace = self.base.parent / f"{self.base.name}.points"
        started = time.monotonic()
        done = self.run(kill_at=None, trace=str(trace))
        assert done.status == 0, done.said()
        self.seconds = time.monotonic() - started
        self.points = trace.read_text().splitlines()
        self.after = shown(self.store(), self.world.day)
        if end is not None:
            self.keep(end)
        self.settled = self.listing()

    def run(self, **how: Any) -> Command:
        """Run the command to its end."""
        return self.nursery.run(self.env, *self.command, clock=self.clock, **how)

    def killed(self, *moments: str | float) -> None:
        """Kill the command at each of these, one after the other, and then let it live."""
        with self.watched() as watch:
            for moment in moments:
                self._kill(moment)
                assert shown(self.store(), self.world.day) in {self.before, self.after}
            again = self.run()
            assert again.status == 0, (moments, again.said())
            assert shown(self.store(), self.world.day) == self.after, moments
            listed = self.store().versions(self.world.day)
            assert sum(version.current for version in listed) == 1
        self.reads += watch.seen.total()

    def watched(self) -> Watch:
        """A reader, beside what is about to happen."""
        allowed = {self.world.day: {self.before, self.after}}
        return Watch(self.store(), allowed, pause=self.pause)

    def _kill(self, moment: str | float) -> None:
        how = {"kill_at": moment} if isinstance(moment, str) else {"kill_after": moment}
        status = self.run(**how).status
        self.buried()
        assert status in (0, KILLED), (moment, status)
        if status == KILLED:
            self.kills[moment if isinstance(moment, str) else "at random"] += 1

    def buried(self) -> None:
        """What others do when a client of theirs has died; a disk does nothing."""

    def assert_settled(self, why: object) -> None:
        """After upkeep there is what an undisturbed command leaves and nothing else."""
        found = self.listing()
        assert found == self.settled, (why, found - self.settled, self.settled - found)

    def upkeep(self, **how: Any) -> Command:
        done = self.nursery.run(self.env, "expire", NAME, **how)
        assert done.status == 0, done.said()
        return done

    def listing(self) -> Counter[str]:
        """The files after the upkeep of a few days later, by names that every workspace has."""
        age(self.workspace)
        self.upkeep()
        return self.files()

    def files(self) -> Counter[str]:
        files = (path for path in (self.workspace / NAME).rglob("*") if path.is_file())
        names = Counter(map(_settled_name, (str(f.relative_to(self.workspace)) for f in files)))
        # How often the log was written is another matter: its own files are counted once.
        return Counter({name: 1 if name.endswith("/*") else n for name, n in names.items()})


def age(folder: Path) -> None:
    """Let all files below be of some days ago."""
    past = time.time() - GRACE.total_seconds()
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (past, past))


RECORDS = r"(request|run|report|steps/\w+)\.json|report\.html"


def _settled_name(path: str) -> str:
    """Without what differs between two workspaces: an extract's folder, a part's claim, Delta's
    counter, the run.

    The records of runs stay for a year, those of killed ones too: only that they are such.
    """
    run = re.fullmatch(rf"{NAME}/runs/[^/]+/({RECORDS})", path)
    if run:
        return f"{NAME}/runs/*"
    path = re.sub(r"(?<=/)[0-9a-f]{16}(?=/part-)", "*", path)
    path = re.sub(r"(?<=/part-\d{5}-)[0-9a-f]{8}(?=\.parquet)", "*", path)
    path = re.sub(r"_delta_log/(\d{20}\.(json|checkpoint\.parquet)|_last_checkpoint)$",
                  "_delta_log/*", path)  # fmt: skip
    return re.sub(r"(?<=/)\d{20}\.json$", "*.json", path)


def world_with_models(built: World, nursery: Nursery, folder: Path, models: int) -> World:
    """A world with so many model versions, and rows that the gate sets aside."""
    world = copy_world(built, folder / "origin")
    (world.folder / "suite.yaml").write_text(SUITE)
    world.configure({"engine": {"workers": 1}})
    for seed in range(2, models + 1):
        made = nursery.call(
            world.env, register, path=folder / "origin", artifacts=world.artifacts, seed=seed
        )
        assert made.wait() == 0, made.said()
    return world


def scene(
    origin: World,
    nursery: Nursery,
    folder: Path,
    *base: Sequence[str],
    command: Sequence[str],
    configure: dict[str, object] | None = None,
) -> Scene:
    """The scene after the commands of `base`, an undisturbed `command` included."""
    world = copy_world(origin, folder / "world")
    world.configure(configure or {})
    for argv in base:
        done = nursery.run(world.env, *argv)
        assert done.status == 0, done.said()
    made = Scene(world, nursery, folder / "base", tuple(command), None)
    if base:
        leave_what_a_crash_leaves(made)
        made.keep(made.base)
        made.before = shown(made.store(), world.day)
    made.undisturbed()
    return made


def leave_what_a_crash_leaves(scene: Scene) -> None:
    """Parts of an extract that was killed and half of a file, both of some days ago."""
    place = scene.workspace / NAME / "snapshots" / f"as_of={scene.world.day}" / ("0" * 16)
    place.mkdir()
    (place / "part-00000.parquet").write_bytes(b"left")
    (place / "part-00001.parquet#1").write_bytes(b"le")
    age(scene.workspace)


def run_of(world: World, version: int, day: dt.date | None = None) -> tuple[str, ...]:
    return ("run", NAME, "--date", str(day or world.day), "--model-version", str(version))


def spread(points: list[str], count: int, long: int | None = None) -> list[str]:
    """`count` points over all steps and kinds, in their order; in a long test `long`, or all."""
    if LONG:
        count = long or len(points)
    if len(points) <= count:
        return points
    step = len(points) / count
    return [points[int(step * (n + 0.5))] for n in range(count)]


def in_chains(points: list[str], length: int) -> Iterator[list[str]]:
    """Each alone in a long test; else several kills before the one run that is let live."""
    length = 1 if LONG else length
    for start in range(0, len(points), length):
        yield points[start : start + length]


def kill_everywhere(scene: Scene, count: int, chain: int, long: int | None = None) -> None:
    """Kill at `count` points, `chain` before each run that is let live; see `spread`."""
    chosen = spread(scene.points, count, long)
    for moments in in_chains(chosen, chain):
        scene.reset()
        scene.killed(*moments)
        scene.assert_settled(moments)
    # In a chain, a point may lie in work that a run before it has finished.
    assert scene.kills.total() >= (len(chosen) if LONG else 0.7 * len(chosen))
    assert scene.reads > len(chosen)
    tell(scene)


def tell(scene: Scene) -> None:
    """The figures of docs/reliability.md: pytest -rP shows them."""
    print(
        f"{scene.kills.total()} kills at {len(scene.kills)} kinds of moment of "
        f"{len(scene.points)} points, {scene.reads} reads meanwhile"
    )
