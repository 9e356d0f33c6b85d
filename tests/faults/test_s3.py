"""A whole workspace on object stores, over HTTP: every command, killed runs, an S3 that fails."""

from __future__ import annotations

import json
import os
import random
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import daybreak
from include import storage
from include.stores import Store, open_store
from include.workspace import Workspace
from tests.faults.commands import Command, Nursery
from tests.faults.places import CLOUDS
from tests.faults.s3_server import Server
from tests.faults.scenes import KILLED, SUITE, in_chains, spread
from tests.faults.watching import Watch, digest, shown
from tests.world import NAME, World, copy_world

pytest_plugins = ("tests.faults.places",)

LONG = "DAYBREAK_LONG_TESTS" in os.environ


@dataclass(frozen=True)
class Remote:
    """A small world whose workspace is a folder of the bucket."""

    world: World
    workspace: str
    env: dict[str, str]
    nursery: Nursery

    def command(self, *argv: str, **how: object) -> Command:
        return self.nursery.run(self.env, *argv, **how)

    def run(self, *more: str, **how: object) -> Command:
        return self.command("run", NAME, "--date", str(self.world.day), *more, **how)

    def json(self, *argv: str) -> dict[str, Any]:
        done = self.command(*argv, "--json")
        assert done.status == 0, done.said()
        said: dict[str, Any] = json.loads(done.stdout())
        return said

    def beside(self, name: str) -> Remote:
        """The same world with another, empty workspace."""
        workspace = f"{self.workspace}-{name}"
        env = {**self.env, "DAYBREAK_WORKSPACE": workspace}
        return replace(self, workspace=workspace, env=env)

    def store(self) -> Store:
        table = Workspace(self.workspace, NAME).predictions()
        return open_store(self.world.pipeline().config.predictions, table)


@pytest.fixture
def remote(
    request: pytest.FixtureRequest,
    built_world: World,
    nursery: Nursery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Remote:
    world = copy_world(built_world, tmp_path / "world")
    (world.folder / "suite.yaml").write_text(SUITE)
    server = request.getfixturevalue(getattr(request, "param", "s3"))
    workspace = f"{server.root}/{uuid.uuid4().hex}/work"
    env = {**world.env, **server.env, "DAYBREAK_WORKSPACE": workspace}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return Remote(world, workspace, env, nursery)


def on_disk(remote: Remote) -> str:
    """What the same run publishes in a workspace on this machine's disk."""
    local = {**remote.env, "DAYBREAK_WORKSPACE": remote.world.workspace}
    done = remote.nursery.run(local, "run", NAME, "--date", str(remote.world.day))
    assert done.status == 0, done.said()
    table = Workspace(remote.world.workspace, NAME).predictions()
    found = shown(open_store(remote.world.pipeline().config.predictions, table), remote.world.day)
    assert found is not None
    return found


@pytest.mark.parametrize("remote", CLOUDS, indirect=True)
def test_every_command_does_on_an_object_store_what_it_does_on_a_disk(
    remote: Remote, nursery: Nursery
) -> None:
    day = str(remote.world.day)
    assert remote.run().status == 0
    rows = daybreak.read(NAME, day)
    assert digest(rows) == on_disk(remote)
    (first,) = set(rows["version"].to_pylist())

    again = remote.json("run", NAME, "--date", day)
    assert again["state"] == "unchanged"
    # Another configuration is another version, of other rows.
    remote.world.configure({"predictions": {"pass_through": ["region", "visits"]}})
    assert remote.run().status == 0
    (second,) = set(daybreak.read(NAME, day)["version"].to_pylist())
    assert second != first
    assert daybreak.read(NAME, day, first).num_rows == rows.num_rows

    states = [
        (v["version"], v["state"]) for v in remote.json("versions", NAME, "--date", day)["versions"]
    ]
    assert states == [(first, "superseded"), (second, "current")]
    remote.json("diff", NAME, first, second, "--date", day)
    moved = remote.json("rollback", NAME, "--date", day)
    assert digest(daybreak.read(NAME, day)) == digest(rows), moved
    key = [f"{name}={rows[name][0].as_py()}" for name in ("account_id", "channel")]
    why = remote.json("why", NAME, "--date", day, "--key", key[0], "--key", key[1])
    assert why["equal"] is True, why

    remote.world.configure({"retention": {"versions": 1, "rollback_days": 0, "crashed_hours": 1}})
    expired = remote.command("expire", NAME, "--json", clock=3 * 24 * 3600)
    assert expired.status == 0, expired.said()
    assert json.loads(expired.stdout())["counts"]["version"] == 1
    assert digest(daybreak.read(NAME, day)) == digest(rows)
    left = [e.uri for e in storage.entries(Workspace(remote.workspace, NAME).predictions())]
    assert not any(second in uri for uri in left if "/expired/" not in uri)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_an_object_of_any_name_and_size_is_written_once_and_read_back(
    cloud: str, request: pytest.FixtureRequest
) -> None:
    """One of 12 MB goes in several requests, unless it may be written once only."""
    folder = f"{request.getfixturevalue(cloud).root}/{uuid.uuid4().hex}"
    large = random.Random(1).randbytes(12_000_000)
    for name in ("as_of=2026-01-01/v1", "with space", "ü+%41&?#", "large"):
        uri, data = storage.join(folder, name), large if name == "large" else name.encode()
        assert [storage.create(uri, data), storage.create(uri, b"other")] == [True, False]
        assert storage.read(uri) == data
    storage.write(uri, large[:-1])
    assert storage.read_end(uri, 10) == (large[-11:-1], len(large) - 1)
    found = [entry.uri for entry in storage.entries(folder)]
    assert len(found) == 4 and uri in found
    storage.delete([*found, *found])
    assert list(storage.entries(folder)) == [] and not storage.exists(uri)


@pytest.mark.parametrize("remote", CLOUDS if LONG else ("s3",), indirect=True)
def test_a_run_on_an_object_store_that_is_killed_and_run_again_is_one_whole_run(
    remote: Remote, tmp_path: Path
) -> None:
    after = on_disk(remote)
    trace = tmp_path / "points"
    whole = remote.beside("whole").run(trace=str(trace))
    assert whole.status == 0, whole.said()
    points = [point for point in trace.read_text().splitlines() if ": torn " not in point]
    chosen = points[::4] if LONG else spread(points, 4)
    kills = reads = 0
    for number, moments in enumerate(in_chains(chosen, 4)):
        here = remote.beside(str(number))
        with Watch(here.store(), {here.world.day: {None, after}}) as watch:
            for moment in moments:
                status = here.run(kill_at=moment).status
                assert status in (0, KILLED)
                kills += status == KILLED
            done = here.run()
            assert done.status == 0, done.said()
        assert shown(here.store(), here.world.day) == after
        assert len(here.store().versions(here.world.day)) == 1
        reads += watch.seen.total()
    # In a chain, a point may lie in work that a run before it has finished.
    assert kills >= (len(chosen) if LONG else 2)
    assert reads
    print(f"{kills} kills on {remote.workspace[:2]}…, {reads} reads meanwhile")


@pytest.mark.parametrize("fault", ["answers are lost", "requests fail"])
def test_a_run_on_an_object_store_that_fails_now_and_then_publishes_one_whole_version(
    remote: Remote, s3: Server, fault: str
) -> None:
    s3.post("/_lose?every=3" if fault == "answers are lost" else "/_fail?every=4")
    done = remote.run()
    s3.post("/_lose?every=0")
    s3.post("/_fail?every=0")
    assert done.status == 0, done.said()
    assert shown(remote.store(), remote.world.day) == on_disk(remote)
    assert len(remote.store().versions(remote.world.day)) == 1


def test_a_bucket_that_is_not_there_or_not_ours_is_one_clear_error(
    remote: Remote, s3: Server
) -> None:
    env = {**remote.env, "DAYBREAK_WORKSPACE": "s3://nobodys-bucket/work"}
    done = remote.nursery.run(env, "run", NAME, "--date", str(remote.world.day))
    assert done.status == 1
    assert "s3://nobodys-bucket/work" in done.said(), done.said()
