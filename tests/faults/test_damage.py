"""Files that are damaged, disks that are full, clocks that are wrong: one clear error each.

Each time readers keep what they have, the command ends with a code that is not zero and an error
that names the file and what to do; and when that is done, the next run publishes.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest

from include.stores import Store, open_store
from include.workspace import Workspace
from tests.faults.commands import Command, Nursery
from tests.faults.emulated import Emulated
from tests.faults.publishers import register
from tests.faults.watching import shown
from tests.world import NAME, World, copy_world

pytest_plugins = ("tests.fakesnow_server",)

LONG = "DAYBREAK_LONG_TESTS" in os.environ
DAY_SECONDS = 24 * 3600


@dataclass
class Place:
    """A world with version 1 published for a day and the day before; `run` makes another.

    Its prediction table is in Delta, or `table` in Snowflake's emulator.
    """

    world: World
    nursery: Nursery
    table: Emulated | None = None
    before: str | None = None

    @property
    def folder(self) -> Path:
        return self.world.home / "workspace" / NAME

    @property
    def env(self) -> dict[str, str]:
        return self.world.env | (self.table.env if self.table is not None else {})

    @cached_property
    def names(self) -> dict[str, str]:
        """What stands for itself in the paths of DAMAGE; one undisturbed run tells them."""
        day = self.world.day
        (old,) = [one.version for one in self.store().versions(day)]
        models = {path.name for path in (self.folder / "models").iterdir()}
        done = self.run()
        assert done.status == 0, done.said()
        (_, new) = [one.version for one in self.store().versions(day)]
        (model,) = {path.name for path in (self.folder / "models").iterdir()} - models
        self.reset()
        yesterday = str(day - dt.timedelta(days=1))
        return {"day": str(day), "yesterday": yesterday, "old": old, "new": new, "model": model}

    @property
    def kept(self) -> Path:
        return self.world.home.with_name("kept")

    def keep(self) -> None:
        shutil.copytree(self.world.home, self.kept)
        if self.table is not None:
            self.table.keep("kept")

    def reset(self) -> None:
        """The same place again: what is stored names absolute places."""
        shutil.rmtree(self.world.home)
        shutil.copytree(self.kept, self.world.home)
        if self.table is not None:
            self.table.restore("kept")

    def store(self) -> Store:
        table = Workspace(self.world.workspace, NAME).predictions()
        return open_store(self.world.pipeline().config.predictions, table)

    def run(self, version: int = 2, day: dt.date | None = None, **how: object) -> Command:
        date = str(day or self.world.day)
        wanted = ("--date", date, "--model-version", str(version))
        return self.nursery.run(self.env, "run", NAME, *wanted, **how)

    def assert_untouched(self) -> None:
        """Readers have what they had, all of it."""
        assert shown(self.store(), self.world.day) == self.before

    def assert_refused(self, done: Command, *said: str) -> str:
        """It failed with one clear error that holds each of these patterns; the error."""
        assert done.status == 1, done.said()
        assert "Traceback" not in done.said(), done.said()
        error = re.sub(r"\s+", " ", done.out.with_suffix(".err").read_text().rpartition("\n\n")[2])
        for pattern in said:
            assert re.search(pattern, error), (pattern, done.said())
        self.assert_untouched()
        return error

    def assert_healed(self) -> None:
        done = self.run()
        assert done.status == 0, done.said()
        after = shown(self.store(), self.world.day)
        assert after is not None and after != self.before
        listed = self.store().versions(self.world.day)
        assert [version.current for version in listed] == [False, True]


def prepared(
    built: World,
    nursery: Nursery,
    folder: Path,
    home: Path | None = None,
    table: Emulated | None = None,
) -> Place:
    world = copy_world(built, folder)
    if home is not None:
        world = replace(world, home=home, workspace=(home / "workspace").as_uri())
    world.configure({"engine": {"workers": 1}})
    made = nursery.call(world.env, register, path=folder, artifacts=world.artifacts, seed=2)
    assert made.wait() == 0, made.said()
    place = Place(world, nursery, table)
    if table is not None:
        world.configure({"predictions": table.predictions})
        done = nursery.run(place.env, "init", NAME)
        assert done.status == 0, done.said()
    for day in (world.day - dt.timedelta(days=1), world.day):
        done = place.run(version=1, day=day)
        assert done.status == 0, done.said()
    place.before = shown(place.store(), world.day)
    return place


@pytest.fixture(scope="module")
def place_with_delta(
    built_world: World, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    place = prepared(built_world, nursery, tmp_path_factory.mktemp("damage") / "world")
    place.keep()
    return place


@pytest.fixture(scope="module")
def place_with_snowflake(
    built_world: World,
    nursery: Nursery,
    fakesnow_port: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("damage_snowflake") / "world"
    with pytest.MonkeyPatch.context() as patch:
        table = Emulated.on(fakesnow_port)
        for name, value in table.env.items():
            patch.setenv(name, value)
        place = prepared(built_world, nursery, folder, table=table)
        place.keep()
        yield place


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    """As it was prepared, with the kind of table that a test asks for, or else Delta."""
    place: Place = request.getfixturevalue(f"place_with_{getattr(request, 'param', 'delta')}")
    place.reset()
    return place


@dataclass(frozen=True)
class Damage:
    """What happens (`act`, a function of damage.py) to which file, at which point of the run.

    `said` are patterns of the error; `names` is one of the file that it names. `heal` is what the
    error says to do before the next run, None where nothing but that run is needed. `tables` are
    the kinds of table with which it is tried.
    """

    at: str
    act: str
    file: str
    names: str
    said: str
    by: str | None = None
    heal: Callable[[Path], None] | None = None
    tables: tuple[str, ...] = ("delta", "snowflake")


def _drop(path: Path) -> None:
    path.unlink()


SCORED = "predictions/as_of={day}/version={new}/part-00001-*.parquet"
EXTRACTED = "snapshots/as_of={day}/*/part-00001.parquet"
SNAPSHOT = "snapshots/as_of={day}/*.json"

DAMAGE = {
    "a scored part is cut short": Damage(
        "score: end", "cut", SCORED, r"part-00001\S*\.parquet", "(?i)run the partition again"
    ),
    "a byte of a scored part is flipped": Damage(
        "score: end", "flip", SCORED, r"part-00001\S*\.parquet", "(?i)run the partition again"
    ),
    "a scored part is deleted": Damage(
        "score: end", "remove", SCORED, r"version=v\w+", "(?i)run the partition again"
    ),
    "a scored part is cut short after the audit": Damage(
        "publish: after audit",
        "cut",
        SCORED,
        r"part-00001\S*\.parquet",
        "(?i)run the partition again",
    ),
    "a byte of a scored part is flipped after the audit": Damage(
        "publish: after audit",
        "flip",
        SCORED,
        r"part-00001\S*\.parquet",
        "(?i)run the partition again",
        heal=_drop,
        tables=("snowflake",),  # Delta takes the file as the audit saw it.
    ),
    "a scored part is deleted after the audit": Damage(
        "publish: after audit",
        "remove",
        SCORED,
        r"part-00001\S*\.parquet",
        "(?i)run the partition again",
    ),
    "the receipts hold another run's": Damage(
        "score: end",
        "replace",
        "scores/as_of={day}/{new}/part-00001.json",
        r"version=v\w+",
        "(?i)run the partition again",
        by="scores/as_of={day}/{old}/part-00001.json",
    ),
    "a part of the snapshot is cut short": Damage(
        "extract: end", "cut", EXTRACTED, r"part-00001\S*\.parquet", "(?i)run the partition again"
    ),
    "a byte of the snapshot is flipped": Damage(
        "extract: end",
        "flip",
        EXTRACTED,
        r"part-00001\S*\.parquet",
        "(?i)delete it and run the partition again",
        heal=_drop,
    ),
    "a byte of the snapshot is flipped before it is scored": Damage(
        "gate: end",
        "flip",
        EXTRACTED,
        r"part-00001\S*\.parquet",
        "(?i)delete it and run the partition again",
        heal=_drop,
    ),
    "the snapshot is deleted": Damage(
        "gate: end",
        "remove",
        "snapshots/as_of={day}",
        r"snapshots/as_of=\S+\.json",
        "(?i)run the partition again",
    ),
    "the snapshot's manifest is another date's": Damage(
        "extract: end",
        "replace",
        SNAPSHOT,
        r"snapshots/as_of=\S+\.json",
        "(?i)manifest of another snapshot.*run the partition again",
        by="snapshots/as_of={yesterday}/*.json",
    ),
    "the snapshot's manifest is cut short": Damage(
        "extract: end", "cut", SNAPSHOT, r"snapshots/as_of=\S+\.json", "(?i)run the partition again"
    ),
    "the scoring job is another version's": Damage(
        "gate: end",
        "replace",
        "scores/as_of={day}/{new}/job.json",
        r"scores/as_of=\S+/job\.json",
        "(?i)job of version v.*delete it and run the partition again",
        by="scores/as_of={day}/{old}/job.json",
        heal=_drop,
    ),
    "the scoring job is cut short": Damage(
        "score: end",
        "cut",
        "scores/as_of={day}/{new}/job.json",
        r"scores/as_of=\S+/job\.json",
        "(?i)delete it and run the partition again",
        heal=_drop,
    ),
    "the version's manifest is another run's": Damage(
        "score: end",
        "replace",
        "predictions/_daybreak/versions/as_of={day}/{new}.json",
        r"_daybreak/versions/as_of=\S+\.json",
        "(?i)manifest of version v.*delete it and run the partition again",
        by="predictions/_daybreak/versions/as_of={day}/{old}.json",
        heal=_drop,
        tables=("delta",),  # Snowflake has it in a table.
    ),
    "the pinned model's bytes are others": Damage(
        "gate: end",
        "flip",
        "models/{model}/model/model.lgb",
        r"models/\w+",
        "(?i)delete its folder and plan the run again",
        heal=lambda path: shutil.rmtree(path.parent.parent),
    ),
}
CASES = [(table, what) for what, damage in DAMAGE.items() for table in damage.tables]
SHORT = [
    ("delta", "a byte of a scored part is flipped"),
    ("delta", "a scored part is cut short"),
    ("delta", "a byte of the snapshot is flipped"),
    ("delta", "the snapshot is deleted"),
    ("delta", "the snapshot's manifest is another date's"),
    ("delta", "the scoring job is another version's"),
    ("delta", "the version's manifest is another run's"),
    ("snowflake", "a scored part is deleted"),
    ("snowflake", "a byte of a scored part is flipped after the audit"),
]


@pytest.mark.parametrize(("place", "what"), sorted(CASES if LONG else SHORT), indirect=["place"])
def test_damage_ends_in_one_clear_error_and_the_next_run_publishes(place: Place, what: str) -> None:
    damage, names = DAMAGE[what], place.names
    file = damage.file.format(**names)
    arguments = {"pattern": str(place.folder / file)}
    if damage.by is not None:
        arguments["by"] = str(place.folder / damage.by.format(**names))
    done = place.run(act_at=damage.at, act=damage.act, arguments=arguments)
    place.assert_refused(done, damage.names, damage.said)
    if damage.heal is not None:
        # Its error is the same until a person has done what it says.
        (damaged,) = place.folder.glob(file)
        place.assert_refused(place.run(), damage.names, damage.said)
        damage.heal(damaged)
    place.assert_healed()


def test_a_clock_that_was_set_back_supersedes_nothing(place: Place) -> None:
    done = place.run(clock=-DAY_SECONDS)
    place.assert_refused(done, "comes too late", "(?i)see that the clocks .* agree")
    place.assert_healed()


def test_a_clock_years_ahead_or_behind_deletes_nothing_that_readers_see(place: Place) -> None:
    assert place.run().status == 0
    seen = shown(place.store(), place.world.day)
    for years in (-20, 20):
        done = place.nursery.run(place.world.env, "expire", NAME, clock=years * 365 * DAY_SECONDS)
        assert done.status == 0, done.said()
        assert shown(place.store(), place.world.day) == seen
    assert place.run().status == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes, which takes root and the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "daybreak-tests", str(disk)]
    with suppress(FileNotFoundError):
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
        if mounted.returncode == 0:
            yield disk
            subprocess.run(["umount", "-l", str(disk)], check=True)
            return
        pytest.skip(f"this user may mount no small disk: {mounted.stderr.strip()}")
    pytest.skip("there is no mount command here")


@pytest.fixture
def on_small_disk(small_disk: Path, built_world: World, nursery: Nursery, tmp_path: Path) -> Place:
    """A workspace on the small disk, and the warehouse and the registry elsewhere."""
    return prepared(built_world, nursery, tmp_path / "world", home=small_disk / "home")


def fill(disk: Path, left: int) -> Path:
    """Fill the disk but for about `left` bytes."""
    ballast = disk / "ballast"
    state = os.statvfs(disk)
    ballast.write_bytes(b"x" * max(0, state.f_bavail * state.f_frsize - left))
    return ballast


@pytest.mark.parametrize(
    "left", [0, 8_000, 24_000, 48_000, 64_000, 80_000, 96_000] if LONG else [0, 64_000]
)
def test_a_full_disk_ends_in_one_clear_error_and_room_lets_the_next_run_publish(
    on_small_disk: Place, small_disk: Path, left: int
) -> None:
    ballast = fill(small_disk, left)
    done = on_small_disk.run()
    assert os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize < 64_000
    on_small_disk.assert_refused(
        done, r"(?i)could not write file://\S+|Delta table failed", "No space left", "has room"
    )
    ballast.unlink()
    on_small_disk.assert_healed()


def test_a_disk_that_cannot_be_written_ends_in_one_clear_error(
    on_small_disk: Place, small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = on_small_disk.run()
    on_small_disk.assert_refused(done, r"could not write file://\S+", "(?i)read-only")
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    on_small_disk.assert_healed()


def test_a_file_that_may_not_grow_ends_in_one_clear_error(place: Place) -> None:
    """A quota, as any user can have one."""
    done = place.run(act_at="gate: end", act="limit_files", arguments={"size": 3_000})
    place.assert_refused(done, r"could not write file://\S+", "(?i)file too large")
    place.assert_healed()
