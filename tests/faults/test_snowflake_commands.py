"""Whole commands whose prediction table lies in Snowflake's emulator, killed and repeated."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from include.stores.snowflake_load import verify
from tests.faults.commands import Nursery
from tests.faults.emulated import Emulated
from tests.faults.scenes import (
    GRACE,
    Scene,
    kill_everywhere,
    leave_what_a_crash_leaves,
    run_of,
    world_with_models,
)
from tests.world import NAME, World

pytest_plugins = ("tests.fakesnow_server",)

LATER = GRACE.total_seconds()
ONLY_THE_CURRENT = {"retention": {"versions": 1, "rollback_days": 0, "crashed_hours": 1}}


@dataclass
class SnowflakeScene(Scene):
    """A scene whose table is kept and restored with the workspace."""

    table: Emulated = field(kw_only=True)
    pause: float = 0.4

    @property
    def env(self) -> dict[str, str]:
        return {**self.world.env, **self.table.env}

    def keep(self, place: Path) -> None:
        super().keep(place)
        self.table.keep(place.name)

    def restore(self, place: Path) -> None:
        super().restore(place)
        self.table.restore(place.name)

    def buried(self) -> None:
        self.table.account.end_transactions()

    def listing(self) -> Counter[str]:
        """What is left in the workspace and the tables, after the upkeep of a few days later."""
        said = " ".join(self.upkeep(clock=LATER).said().split())
        # The emulator has no REMOVE: what is left to see is that all is to go.
        for folder in self.table.uploads():
            assert f"REMOVE @{self.table.names.stage}/{folder}/" in said, said
        for one in (store := self.store()).stored():
            manifest = store.manifest(one.as_of, one.version)
            assert manifest is not None, one
            verify(manifest)
        return self.files() + self.table.left()


@pytest.fixture(scope="module")
def table(fakesnow_port: int) -> Iterator[Emulated]:
    with pytest.MonkeyPatch.context() as patch:
        table = Emulated.on(fakesnow_port)
        for name, value in table.env.items():
            patch.setenv(name, value)
        yield table


@pytest.fixture(scope="module")
def story(
    built_world: World, nursery: Nursery, table: Emulated, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Scene]:
    """A first run, one that replaces it, a rollback and an upkeep, each after the one before."""
    folder = tmp_path_factory.mktemp("snowflake")
    world = world_with_models(built_world, nursery, folder, models=2)
    world.configure({"predictions": table.predictions})
    env = {**world.env, **table.env}
    made = nursery.run(env, "init", NAME)
    assert made.status == 0, made.said()
    (world.home / "workspace").mkdir(exist_ok=True)

    def begin(name: str, *command: str, **how: Any) -> SnowflakeScene:
        return SnowflakeScene(world, nursery, folder / name, command, None, table=table, **how)

    first = begin("first", *run_of(world, 1))
    first.keep(first.base)
    another = begin("another", *run_of(world, 2))
    first.undisturbed(another.base)
    another.before = first.after
    another.restore(another.base)
    (version,) = [one.version for one in another.store().versions(world.day)]
    back = begin("back", "rollback", NAME, "--date", str(world.day), "--to", version)
    another.undisturbed(back.base)
    back.before = another.after
    upkeep = begin("upkeep", "expire", NAME, clock=LATER)
    back.undisturbed(folder / "rolled_back")
    assert back.after == first.after
    upkeep.before = back.after
    upkeep.restore(folder / "rolled_back")
    leave_what_a_crash_leaves(upkeep)
    upkeep.keep(upkeep.base)
    upkeep.world = with_retention(world, folder / "strict")
    upkeep.undisturbed()
    assert upkeep.after == upkeep.before
    return {"first": first, "another": another, "back": back, "upkeep": upkeep}


def with_retention(world: World, folder: Path) -> World:
    """The same world, in which only current versions stay."""
    strict = replace(world, pipelines=folder)
    shutil.copytree(world.pipelines, folder)
    strict.configure(ONLY_THE_CURRENT)
    return strict


def test_a_dates_first_run_that_is_killed_and_run_again_is_one_whole_run(
    story: dict[str, Scene],
) -> None:
    kill_everywhere(story["first"], 3, chain=3, long=30)


def test_a_run_that_is_killed_and_run_again_is_one_whole_run(story: dict[str, Scene]) -> None:
    kill_everywhere(story["another"], 4, chain=4, long=30)


def test_a_rollback_that_is_killed_and_repeated_is_one_whole_rollback(
    story: dict[str, Scene],
) -> None:
    kill_everywhere(story["back"], 2, chain=2)


def test_an_upkeep_that_is_killed_and_repeated_leaves_nothing_and_harms_nothing(
    story: dict[str, Scene],
) -> None:
    kill_everywhere(story["upkeep"], 2, chain=2, long=25)
