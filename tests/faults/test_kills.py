"""Killed at any moment and run again: what one run makes, and nothing else."""

from __future__ import annotations

import datetime as dt
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from include.settings import PROJECT
from include.stores import Store, open_store
from include.workspace import Workspace
from tests.faults.commands import Nursery
from tests.faults.power import Disk
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

    `before` and `after` are what readers see of the day. `settled` are the files after one
    undisturbed command and the upkeep that follows it.
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

    @property
    def workspace(self) -> Path:
        return self.world.home / "workspace"

    def store(self) -> Store:
        table = Workspace(self.world.workspace, NAME).predictions()
        return open_store(self.world.pipeline().config.predictions, table)

    def reset(self) -> None:
        """The same place again: what is stored names absolute places."""
        shutil.rmtree(self.workspace, ignore_errors=True)
        if self.base.exists():
            shutil.copytree(self.base, self.workspace)

    def undisturbed(self) -> None:
        """Learn what one whole command makes, and the points that it passes."""
        self.reset()
        trace = self.base.parent / f"{self.base.name}.points"
        started = time.monotonic()
        done = self.nursery.run(self.world.env, *self.command, kill_at=None, trace=str(trace))
        assert done.status == 0, done.said()
        self.seconds = time.monotonic() - started
        self.points = trace.read_text().splitlines()
        self.after = shown(self.store(), self.world.day)
        self.settled = self.listing()

    def killed(self, *moments: str | float) -> None:
        """Kill the command at each of these, one after the other, and then let it live."""
        with self.watched() as watch:
            for moment in moments:
                self._kill(moment)
                assert shown(self.store(), self.world.day) in {self.before, self.after}
            again = self.nursery.run(self.world.env, *self.command)
            assert again.status == 0, (moments, again.said())
            assert shown(self.store(), self.world.day) == self.after, moments
            listed = self.store().versions(self.world.day)
            assert sum(version.current for version in listed) == 1
        self.reads += watch.seen.total()

    def watched(self) -> Watch:
        """A reader, beside what is about to happen."""
        return Watch(self.store(), {self.world.day: {self.before, self.after}})

    def command_once(self, **how: object) -> int:
        return self.nursery.run(self.world.env, *self.command, **how).wait()

    def _kill(self, moment: str | float) -> None:
        how = {"kill_at": moment} if isinstance(moment, str) else {"kill_after": moment}
        status = self.nursery.run(self.world.env, *self.command, **how).status
        assert status in (0, KILLED), (moment, status)
        if status == KILLED:
            self.kills[moment if isinstance(moment, str) else "at random"] += 1

    def assert_settled(self, why: object) -> None:
        """After upkeep there are the files of an undisturbed command and no others."""
        found = self.listing()
        assert found == self.settled, (why, found - self.settled, self.settled - found)

    def listing(self) -> Counter[str]:
        """The files after the upkeep of a few days later, by names that every workspace has."""
        past = time.time() - GRACE.total_seconds()
        for path in self.workspace.rglob("*"):
            if path.is_file():
                os.utime(path, (past, past))
        done = self.nursery.run(self.world.env, "expire", NAME)
        assert done.status == 0, done.said()
        files = (path for path in (self.workspace / NAME).rglob("*") if path.is_file())
        names = Counter(map(_settled_name, (str(f.relative_to(self.workspace)) for f in files)))
        # How often the log was written is another matter: its own files are counted once.
        return Counter({name: 1 if name.endswith("/*") else n for name, n in names.items()})


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


@pytest.fixture(scope="module")
def worlds(built_world: World, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with three model versions, and rows that the gate sets aside."""
    folder = tmp_path_factory.mktemp("kills")
    world = copy_world(built_world, folder / "origin")
    (world.folder / "suite.yaml").write_text(SUITE)
    world.configure({"engine": {"workers": 1}})
    for seed in (2, 3):
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
        _leave_what_a_crash_leaves(made)
        shutil.copytree(made.workspace, made.base)
        made.before = shown(made.store(), world.day)
    made.undisturbed()
    return made


def _leave_what_a_crash_leaves(scene: Scene) -> None:
    """Parts of an extract that was killed and half of a file, both of some days ago."""
    place = scene.workspace / NAME / "snapshots" / f"as_of={scene.world.day}" / ("0" * 16)
    place.mkdir()
    (place / "part-00000.parquet").write_bytes(b"left")
    (place / "part-00001.parquet#1").write_bytes(b"le")
    past = time.time() - GRACE.total_seconds()
    for path in (*scene.workspace.rglob("*"),):
        if path.is_file():
            os.utime(path, (past, past))


def run_of(world: World, version: int, day: dt.date | None = None) -> tuple[str, ...]:
    return ("run", NAME, "--date", str(day or world.day), "--model-version", str(version))


@pytest.fixture(scope="module")
def first(worlds: World, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A date's first version, in an empty workspace."""
    return scene(
        worlds, nursery, tmp_path_factory.mktemp("first"), command=run_of(worlds, 1)
    )  # fmt: skip


@pytest.fixture(scope="module")
def another(worlds: World, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A version that takes another one's place."""
    yesterday = worlds.day - dt.timedelta(days=1)
    return scene(
        worlds,
        nursery,
        tmp_path_factory.mktemp("another"),
        run_of(worlds, 1, yesterday),
        run_of(worlds, 1),
        command=run_of(worlds, 2),
    )


@pytest.fixture(scope="module")
def back(another: Scene, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A rollback to the version before."""
    another.reset()
    (to,) = [one.version for one in another.store().versions(another.world.day)]
    return scene(
        another.world,
        nursery,
        tmp_path_factory.mktemp("back"),
        run_of(another.world, 1),
        run_of(another.world, 2),
        command=("rollback", NAME, "--date", str(another.world.day), "--to", to),
    )


@pytest.fixture(scope="module")
def upkeep(worlds: World, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The deletion of two versions, their snapshots' leftovers and their models."""
    return scene(
        worlds,
        nursery,
        tmp_path_factory.mktemp("upkeep"),
        run_of(worlds, 1),
        run_of(worlds, 2),
        run_of(worlds, 3),
        command=("expire", NAME),
        configure={"retention": {"versions": 1, "rollback_days": 0, "crashed_hours": 1}},
    )


def spread(points: list[str], count: int) -> list[str]:
    """All of them in a long test; else `count`, over all steps and kinds, in their order."""
    if LONG or len(points) <= count:
        return points
    step = len(points) / count
    return [points[int(step * (n + 0.5))] for n in range(count)]


def in_chains(points: list[str], length: int) -> Iterator[list[str]]:
    """Each alone in a long test; else several kills before the one run that is let live."""
    length = 1 if LONG else length
    for start in range(0, len(points), length):
        yield points[start : start + length]


def kill_everywhere(scene: Scene, count: int, chain: int) -> None:
    chosen = spread(scene.points, count)
    for moments in in_chains(chosen, chain):
        scene.reset()
        scene.killed(*moments)
        scene.assert_settled(moments)
    # In a chain, a point may lie in work that a run before it has finished.
    assert scene.kills.total() >= (len(chosen) if LONG else 0.7 * len(chosen))
    assert scene.reads > len(chosen)
    tell(scene)


def test_a_dates_first_run_that_is_killed_and_run_again_is_one_whole_run(first: Scene) -> None:
    kill_everywhere(first, 10, chain=5)


def test_a_run_that_is_killed_and_run_again_is_one_whole_run(another: Scene) -> None:
    kill_everywhere(another, 10, chain=5)


def test_a_rollback_that_is_killed_and_repeated_is_one_whole_rollback(back: Scene) -> None:
    kill_everywhere(back, 4, chain=1)


def test_an_upkeep_that_is_killed_and_repeated_leaves_nothing_and_harms_nothing(
    upkeep: Scene,
) -> None:
    kill_everywhere(upkeep, 6, chain=1)


@pytest.mark.parametrize("lost", ["bytes", "names and bytes"])
def test_a_machine_that_loses_its_power_in_a_run_or_after_it_keeps_what_was_published(
    another: Scene, tmp_path: Path, lost: str
) -> None:
    """What nobody forced to the disk is gone; readers have the version before or the one after."""
    # Where something is written and not forced yet; elsewhere there is nothing to lose.
    unsafe = [point for point in another.points if "before Delta's force" in point]
    others = [point for point in another.points if point not in unsafe]
    chosen = [*unsafe, *spread(others, 3), None]
    files = 0
    for number, moment in enumerate(chosen):
        another.reset()
        journal, disk = tmp_path / f"{number}", Disk.of(another.workspace)
        with another.watched() as watch:
            status = another.command_once(kill_at=moment, journal=str(journal))
        another.reads += watch.seen.total()
        assert status == (0 if moment is None else KILLED), moment
        disk.add(journal)
        files += disk.cut(another.workspace, names=lost != "bytes")
        seen = shown(another.store(), another.world.day)
        assert seen in ({another.after} if moment is None else {another.before, another.after})
        another.killed()
        another.kills[f"power: {moment}"] += 1
    assert files
    print(f"{files} files lost")
    tell(another)


def test_a_run_that_is_killed_at_random_moments_and_run_again_is_one_whole_run(
    another: Scene,
) -> None:
    choose = random.Random(20261122)
    for _ in range(40 if LONG else 1):
        another.reset()
        moments = [choose.uniform(0, another.seconds) for _ in range(1 if LONG else 3)]
        another.killed(*moments)
        another.assert_settled(moments)
    tell(another)


def test_the_installed_command_killed_at_random_moments_ends_the_same_way(first: Scene) -> None:
    """Processes that share nothing with the tests, from their first import on."""
    choose = random.Random(8)
    environment = {**os.environ, **first.world.env}
    command = [sys.executable, "-m", "daybreak", *first.command]
    for kill in range(20 if LONG else 1):
        first.reset()
        lines = choose.randint(1, 7) if LONG else 4  # it says so when a step is done
        with (
            first.watched() as watch,
            subprocess.Popen(
                command,
                cwd=PROJECT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            ) as process,
        ):
            assert process.stderr is not None
            said = [process.stderr.readline() for _ in range(lines)]
            time.sleep(choose.uniform(0, 0.3))
            process.kill()
        first.reads += watch.seen.total()
        assert process.returncode in (0, KILLED), said
        first.kills["the installed command"] += process.returncode == KILLED
        first.killed()
        first.assert_settled(f"the installed command, kill {kill}")
    tell(first)


def tell(scene: Scene) -> None:
    """The figures of docs/reliability.md: pytest -rP shows them."""
    print(
        f"{scene.kills.total()} kills at {len(scene.kills)} kinds of moment of "
        f"{len(scene.points)} points, {scene.reads} reads meanwhile"
    )
