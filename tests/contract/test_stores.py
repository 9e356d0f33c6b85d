"""What every prediction table promises, whatever its kind."""

from __future__ import annotations

import datetime as dt
import importlib
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from include.errors import PermanentError
from include.stores import MEMBERS, Store, VersionManifest
from tests.staged_versions import DAY, PLANNED_AT, rows_of, staged, write_version

LATER = PLANNED_AT + dt.timedelta(hours=1)
processes = multiprocessing.get_context("spawn")


def opened(member: str, root: str) -> Store:
    store: Store = importlib.import_module(f"include.stores.{member}").Table(root)
    return store


@pytest.fixture(params=MEMBERS)
def member(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return (tmp_path / "a folder with spaces" / "predictions").as_uri()


@pytest.fixture
def store(member: str, root: str) -> Store:
    return opened(member, root)


def assert_shows(store: Store, manifest: VersionManifest) -> None:
    """Readers see exactly this version of the date, all of it and nothing else."""
    current = store.current(manifest.as_of)
    assert current is not None
    assert (current.version, current.rows) == (manifest.version, manifest.rows)
    rows = store.read(manifest.as_of)
    assert set(rows["version"].to_pylist()) == {manifest.version}
    assert set(rows["run_id"].to_pylist()) == {manifest.run_id}
    assert rows["id"].to_pylist() == list(range(manifest.rows))


def test_before_the_first_version_a_date_has_nothing(store: Store) -> None:
    assert store.current(DAY) is None
    assert store.current_dates() == []
    assert store.versions(DAY) == []
    assert store.manifest(DAY, "v1") is None
    with pytest.raises(PermanentError, match="no committed version"):
        store.read(DAY)


def test_staging_shows_readers_nothing(store: Store) -> None:
    store.commit(staged(store, "v1"), PLANNED_AT)
    v2 = staged(store, "v2")
    assert store.manifest(DAY, "v2") == v2
    assert [version.version for version in store.versions(DAY)] == ["v1"]
    assert store.current_dates() == [DAY]
    assert set(store.read(DAY)["version"].to_pylist()) == {"v1"}
    with pytest.raises(PermanentError, match="no committed version v2"):
        store.read(DAY, "v2")


def test_a_committed_version_is_what_readers_see(store: Store) -> None:
    v1 = staged(store, "v1")
    published = store.commit(v1, PLANNED_AT)
    assert (published.outcome, published.version, published.rows) == ("published", "v1", 30)
    assert published.replaced is None
    assert_shows(store, v1)
    rows = store.read(DAY)
    assert rows.column_names == [column.name for column in v1.columns] + ["as_of", "version"]
    assert set(rows["as_of"].to_pylist()) == {DAY}


def test_committing_the_same_version_twice_leaves_one(store: Store) -> None:
    v1 = staged(store, "v1")
    store.commit(v1, PLANNED_AT)
    again = store.commit(v1, LATER)
    assert (again.outcome, again.rows, again.replaced) == ("unchanged", 30, None)
    assert [version.version for version in store.versions(DAY)] == ["v1"]
    assert_shows(store, v1)


def test_a_new_version_takes_the_place_of_the_one_before_and_of_no_other_date(
    store: Store,
) -> None:
    other = staged(store, "v1", as_of=DAY - dt.timedelta(days=1), count=7)
    store.commit(other, PLANNED_AT)
    store.commit(staged(store, "v1"), PLANNED_AT)
    v2 = staged(store, "v2", count=40)
    assert store.commit(v2, LATER).replaced == "v1"
    assert_shows(store, v2)
    assert_shows(store, other)
    assert store.current_dates() == [other.as_of, DAY]


def test_older_versions_stay_readable_and_are_listed_oldest_first(store: Store) -> None:
    manifests = [staged(store, f"v{n}", count=10 + n) for n in range(3)]
    for manifest in manifests:
        store.commit(manifest, PLANNED_AT)
    listed = store.versions(DAY)
    assert [(v.version, v.rows, v.current) for v in listed] == [
        ("v0", 10, False),
        ("v1", 11, False),
        ("v2", 12, True),
    ]
    assert [v.committed_at for v in listed] == sorted(v.committed_at for v in listed)
    for manifest in manifests:
        rows = store.read(DAY, manifest.version)
        assert rows["id"].to_pylist() == list(range(manifest.rows))
        assert set(rows["version"].to_pylist()) == {manifest.version}
    assert store.read(DAY, "v0").schema == store.read(DAY, "v2").schema


def test_an_older_version_can_be_made_current_again(store: Store) -> None:
    v1, v2 = staged(store, "v1"), staged(store, "v2", count=31)
    for manifest in (v1, v2, v1):
        assert store.commit(manifest, PLANNED_AT).outcome == "published"
    assert_shows(store, v1)
    assert [(v.version, v.current) for v in store.versions(DAY)] == [("v2", False), ("v1", True)]


def test_a_run_that_was_planned_earlier_never_supersedes_a_later_one(store: Store) -> None:
    late, slow = staged(store, "vlate"), staged(store, "vslow")
    store.commit(late, LATER)
    with pytest.raises(PermanentError, match="vlate.* is current; vslow.*comes too late"):
        store.commit(slow, PLANNED_AT)
    assert_shows(store, late)
    assert store.commit(slow, LATER + dt.timedelta(seconds=1)).replaced == "vlate"


def test_some_columns_can_be_read_alone_and_unknown_ones_are_named(store: Store) -> None:
    store.commit(staged(store, "v1"), PLANNED_AT)
    store.commit(staged(store, "v2"), PLANNED_AT)
    for version in (None, "v1"):
        rows = store.read(DAY, version, ["score", "version"])
        assert rows.column_names == ["score", "version"]
        with pytest.raises(PermanentError, match=r"no column \['scroe'\].*score"):
            store.read(DAY, version, ["scroe"])


def test_a_version_of_fewer_parts_leaves_nothing_of_the_larger_one(store: Store) -> None:
    store.commit(staged(store, "v1", count=100, parts=10), PLANNED_AT)
    v2 = staged(store, "v2", count=5, parts=1)
    store.commit(v2, PLANNED_AT)
    assert_shows(store, v2)


def test_a_part_without_rows_is_no_trouble(store: Store) -> None:
    v1 = staged(store, "v1", count=2, parts=3)
    store.commit(v1, PLANNED_AT)
    assert_shows(store, v1)


@pytest.mark.parametrize("fault", ["gone", "other bytes"])
def test_a_version_whose_files_changed_after_staging_is_not_committed(
    store: Store, fault: str
) -> None:
    v1 = staged(store, "v1")
    store.commit(v1, PLANNED_AT)
    v2 = staged(store, "v2")
    from include import storage

    if fault == "gone":
        storage.delete([v2.parts[1].uri])
    else:
        storage.write(v2.parts[1].uri, storage.read(v2.parts[0].uri) + b" ")
    with pytest.raises(PermanentError, match="part 1 of version v2"):
        store.commit(v2, PLANNED_AT)
    assert_shows(store, v1)


def test_a_current_version_is_not_staged_over_with_other_parts(store: Store) -> None:
    v1 = staged(store, "v1")
    store.commit(v1, PLANNED_AT)
    other = write_version(store, "vother", rows_of(30, label="other"))
    with pytest.raises(PermanentError, match="current with other parts"):
        store.stage(v1.model_copy(update={"parts": other.parts}))
    assert store.manifest(DAY, "v1") == v1


# Real processes, raced and killed.


def publish_rounds(
    member: str, root: str, label: str, rounds: int, gate: Any, results: Any
) -> None:
    """Publish version v<label> of one new date after the other, each at the same time as others."""
    store = opened(member, root)
    for index in range(rounds):
        manifest = staged(store, f"v{label}", as_of=DAY + dt.timedelta(days=index), count=12)
        gate.wait(60)
        results.put((index, label, store.commit(manifest, PLANNED_AT).replaced))


def publish_dates(member: str, root: str, first: int, count: int, gate: Any) -> None:
    store = opened(member, root)
    manifests = [
        staged(store, "v1", as_of=DAY + dt.timedelta(days=first + index), count=12)
        for index in range(count)
    ]
    gate.wait(60)
    for manifest in manifests:
        store.commit(manifest, PLANNED_AT)


def publish_until_killed(member: str, root: str, start: int, ready: Any) -> None:
    store = opened(member, root)
    staged(store, "vwarm-up")
    ready.set()
    for number in range(start, start + 1000):
        store.commit(staged(store, f"v{number}", count=20), PLANNED_AT)


def join(started: list[Any]) -> None:
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0] * len(started)


def seen_by_reader(store: Store, as_of: dt.date) -> tuple[str, int] | None:
    """The version and the rows that one read of the date shows; several versions fail here."""
    if store.current(as_of) is None:
        return None
    rows = store.read(as_of)
    (version,) = set(rows["version"].to_pylist())
    (run_id,) = set(rows["run_id"].to_pylist())
    assert run_id == f"run-of-{version}"
    return version, rows.num_rows


def test_two_processes_that_race_a_dates_first_publish_leave_one_version(
    member: str, root: str
) -> None:
    rounds, store = 10, opened(member, root)
    gate, results = processes.Barrier(2), processes.Queue()
    racers = [
        processes.Process(target=publish_rounds, args=(member, root, label, rounds, gate, results))
        for label in ("a", "b")
    ]
    for racer in racers:
        racer.start()
    seen = Counter[tuple[str, int]]()
    while any(racer.is_alive() for racer in racers):
        for date in store.current_dates()[-2:]:
            shown = seen_by_reader(store, date)
            assert shown in {("va", 12), ("vb", 12)}
            seen[shown] += 1
    join(racers)
    replaced: dict[int, dict[str, str | None]] = {}
    for _ in range(2 * rounds):
        index, label, before = results.get(timeout=10)
        replaced.setdefault(index, {})[f"v{label}"] = before
    assert store.current_dates() == [DAY + dt.timedelta(days=n) for n in range(rounds)]
    for index, moves in replaced.items():
        # One came first, and the other one knows that it took its place.
        (first,) = (version for version, before in moves.items() if before is None)
        (second,) = set(moves) - {first}
        assert moves[second] == first
        versions = store.versions(DAY + dt.timedelta(days=index))
        assert [(v.version, v.current) for v in versions] == [(first, False), (second, True)]
        assert seen_by_reader(store, DAY + dt.timedelta(days=index)) == (second, 12)
    assert seen


def test_processes_that_publish_different_dates_of_a_new_table_all_succeed(
    member: str, root: str
) -> None:
    gate = processes.Barrier(4)
    writers = [
        processes.Process(target=publish_dates, args=(member, root, 5 * n, 5, gate))
        for n in range(4)
    ]
    for writer in writers:
        writer.start()
    join(writers)
    store = opened(member, root)
    assert store.current_dates() == [DAY + dt.timedelta(days=n) for n in range(20)]
    for date in store.current_dates():
        assert seen_by_reader(store, date) == ("v1", 12)
        assert len(store.versions(date)) == 1


def test_a_killed_publisher_never_shows_readers_a_part_of_a_version(member: str, root: str) -> None:
    store, choose = opened(member, root), random.Random(7)
    store.commit(staged(store, "v0", count=20), PLANNED_AT)
    reads = 0
    for kill in range(10):
        ready = processes.Event()
        writer = processes.Process(
            target=publish_until_killed, args=(member, root, 1000 * (kill + 1), ready)
        )
        writer.start()
        assert ready.wait(60)
        until = time.monotonic() + choose.uniform(0, 0.3)
        while time.monotonic() < until:
            shown = seen_by_reader(store, DAY)
            assert shown is not None and shown[1] == 20
            reads += 1
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(60)
        assert writer.exitcode == -signal.SIGKILL
        shown = seen_by_reader(store, DAY)
        assert shown is not None and shown[1] == 20
    assert reads > 0
    before = seen_by_reader(store, DAY)
    final = staged(store, "vfinal", count=25)
    published = store.commit(final, PLANNED_AT)
    assert before is not None and published.replaced == before[0]
    assert_shows(store, final)
    listed = store.versions(DAY)
    assert [version.version for version in listed if version.current] == ["vfinal"]
    assert len(listed) > 3
    for version in listed:
        assert store.read(DAY, version.version).num_rows == version.rows
