"""Killed at any moment and run again: what one run makes, and nothing else."""

from __future__ import annotations

import datetime as dt
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from include.settings import PROJECT
from tests.faults.commands import Nursery
from tests.faults.power import Disk
from tests.faults.scenes import (
    KILLED,
    LONG,
    Scene,
    kill_everywhere,
    run_of,
    scene,
    spread,
    tell,
    world_with_models,
)
from tests.faults.watching import shown
from tests.world import NAME, World


@pytest.fixture(scope="module")
def worlds(built_world: World, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with three model versions, and rows that the gate sets aside."""
    return world_with_models(built_world, nursery, tmp_path_factory.mktemp("kills"), models=3)


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
            status = another.run(kill_at=moment, journal=str(journal)).status
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
