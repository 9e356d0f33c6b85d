"""What every prediction table promises, whatever its kind."""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include import storage
from include.config import Predictions
from include.errors import CorruptData, PermanentError, TransientError
from include.run import Column
from include.stores import (
    MEMBERS,
    Claim,
    Decision,
    Overtaken,
    RolledBack,
    Seen,
    Store,
    Unclaimed,
    VersionManifest,
    deletion,
    open_store,
)
from tests import processes
from tests.fakesnow_account import CONNECTION, Account
from tests.staged_versions import DAY, PLANNED_AT, rows_of, staged, write_version

pytest_plugins = ("tests.fakesnow_server",)

# The notes' number of races, where there is time for them.
RACES = 40 if "DAYBREAK_LONG_TESTS" in os.environ else 10
LATER = PLANNED_AT + dt.timedelta(hours=1)


def opened(member: str, root: str) -> Store:
    return open_store(configured(member), root)


def configured(member: str) -> Predictions:
    if member == "snowflake":
        return Predictions(kind=member, connection=CONNECTION, table="churn")
    return Predictions(kind="delta")


def rounds_of(member: str, usual: int, emulated: int) -> int:
    """How often: the emulator takes long for every statement, so less often there, mostly."""
    patient = member == "delta" or "DAYBREAK_LONG_TESTS" in os.environ
    return usual if patient else emulated


@pytest.fixture
def patient(member: str) -> None:
    """For what the emulator takes minutes for; two and four publishers race on it in any case."""
    if member != "delta" and "DAYBREAK_LONG_TESTS" not in os.environ:
        pytest.skip("the emulator of Snowflake is slow: it runs with DAYBREAK_LONG_TESTS=1")


@pytest.fixture(params=MEMBERS)
def member(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    member = str(request.param)
    if member == "snowflake":
        request.getfixturevalue("snowflake")
        columns = [Column(name=f.name, type=str(f.type)) for f in rows_of(0).schema]
        opened(member, tmp_path.as_uri()).set_up(columns)
    return member


@pytest.fixture
def buried(member: str, request: pytest.FixtureRequest) -> Callable[[], None]:
    """Ends what the server still holds of a process that was killed."""
    if member == "snowflake":
        account: Account = request.getfixturevalue("snowflake")
        return account.end_transactions
    return lambda: None


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


def test_a_version_is_whose_its_manifest_says(store: Store) -> None:
    manifest = staged(store, "v1")
    other = Claim(run_id="somebody else", scored_at=LATER)
    whose = Claim(run_id=manifest.run_id, scored_at=manifest.scored_at)
    assert store.claim(DAY, "v1", other) == whose
    store.commit(manifest, PLANNED_AT)
    assert store.claim(DAY, "v1", other) == whose
    assert store.claim(DAY, "v2", other) == other


def test_a_version_is_whose_who_asked_first_until_it_is_deleted(store: Store) -> None:
    first, second = (Claim(run_id=run, scored_at=PLANNED_AT) for run in ("first", "second"))
    assert store.claim(DAY, "v1", first) == first
    assert store.claim(DAY, "v1", second) == first
    assert store.claim(DAY, "v2", second) == second
    # Nothing of it was ever written: upkeep finds it all the same.
    assert [one.version for one in store.stored()] == ["v1", "v2"]
    assert store.delete([(DAY, "v1")], "left", LATER) == [(DAY, "v1")]
    assert [one.version for one in store.stored()] == ["v2"]
    assert store.claim(DAY, "v1", second) == second


def test_before_the_first_version_a_date_has_nothing(store: Store) -> None:
    assert store.current(DAY) is None
    assert store.current_dates() == [] and store.current_versions() == {}
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
    assert store.current_versions() == {other.as_of: "v1", DAY: "v2"}


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
    if fault == "gone":
        storage.delete([v2.parts[1].uri])
    else:
        storage.write(v2.parts[1].uri, storage.read(v2.parts[0].uri) + b" ")
    with pytest.raises(PermanentError, match="part 1 of version v2"):
        store.commit(v2, PLANNED_AT)
    assert_shows(store, v1)


@pytest.mark.parametrize("superseded", [False, True])
def test_a_published_version_is_not_staged_over_with_other_parts(
    store: Store, *, superseded: bool
) -> None:
    v1 = staged(store, "v1")
    store.commit(v1, PLANNED_AT)
    if superseded:
        store.commit(staged(store, "v2"), PLANNED_AT)
    other = write_version(store, "vother", rows_of(30, label="other"))
    with pytest.raises(PermanentError, match="v1 of 2026-03-01 is published with other parts"):
        store.stage(v1.model_copy(update={"parts": other.parts}))
    assert store.manifest(DAY, "v1") == v1


def test_of_two_runs_that_stage_one_version_with_other_parts_the_one_on_record_is_published(
    store: Store,
) -> None:
    first = staged(store, "v1")
    other = write_version(store, "vother", rows_of(30, label="other"))
    second = first.model_copy(update={"parts": other.parts, "run_id": "other"})
    store.stage(second)
    with pytest.raises(PermanentError, match="run other has staged version v1 .* with other parts"):
        store.commit(first, PLANNED_AT)
    assert store.current(DAY) is None
    store.commit(second, PLANNED_AT)
    assert store.manifest(DAY, "v1") == second
    assert set(store.read(DAY)["run_id"].to_pylist()) == {"other"}


# Rollback: a person's decision.

BETWEEN = PLANNED_AT + dt.timedelta(minutes=30)
ANNA = Decision(by="anna", at=BETWEEN, reason="scores doubled")


def published(store: Store, *versions: str, count: int = 30) -> list[VersionManifest]:
    manifests = [staged(store, version, count=count) for version in versions]
    for manifest in manifests:
        store.commit(manifest, PLANNED_AT)
    return manifests


def test_a_rollback_shows_readers_the_older_version_and_says_who_when_and_why(
    store: Store,
) -> None:
    v1, _ = published(store, "v1", "v2")
    back = store.rollback(DAY, "v1", ANNA, replacing="v2")
    assert (back.outcome, back.version, back.replaced) == ("published", "v1", "v2")
    assert_shows(store, v1)
    listed = {version.version: version for version in store.versions(DAY)}
    assert listed["v1"].decision == ANNA
    assert (listed["v1"].current, listed["v1"].rolled_back) == (True, False)
    assert (listed["v2"].current, listed["v2"].rolled_back) == (False, True)
    assert listed["v2"].superseded_at == listed["v1"].committed_at
    assert store.read(DAY, "v2").num_rows == 30


def test_rolling_back_twice_is_rolling_back_once(store: Store) -> None:
    published(store, "v1", "v2")
    store.rollback(DAY, "v1", ANNA, replacing="v2")
    again = store.rollback(DAY, "v1", ANNA, replacing="v2")
    assert (again.outcome, again.replaced) == ("unchanged", None)
    assert [version.version for version in store.versions(DAY)] == ["v2", "v1"]


def test_a_rollback_to_nothing_that_is_stored_names_the_choices(store: Store) -> None:
    _, v2 = published(store, "v1", "v2")
    with pytest.raises(PermanentError, match=r"no committed version v9.*\['v1', 'v2'\]"):
        store.rollback(DAY, "v9", ANNA, replacing="v2")
    assert_shows(store, v2)


def test_a_version_that_was_only_staged_is_nothing_to_roll_back_to(store: Store) -> None:
    _, v2 = published(store, "v1", "v2")
    staged(store, "vheld")
    with pytest.raises(PermanentError, match="no committed version vheld"):
        store.rollback(DAY, "vheld", ANNA, replacing="v2")
    assert_shows(store, v2)


@pytest.mark.parametrize("fault", ["gone", "one byte", "shorter"])
def test_a_rollback_to_damaged_files_changes_nothing(store: Store, fault: str) -> None:
    v1, v2 = published(store, "v1", "v2")
    part = v1.parts[1]
    content = bytearray(storage.read(part.uri))
    content[len(content) // 2] ^= 1  # its footer and its size are still those of the receipt
    if fault == "gone":
        storage.delete([part.uri])
    else:
        storage.write(part.uri, bytes(content if fault == "one byte" else content[:-9]))
    with pytest.raises(CorruptData, match="v1 of 2026-03-01 is not whole: part 1"):
        store.rollback(DAY, "v1", ANNA, replacing="v2")
    assert_shows(store, v2)
    assert [version.version for version in store.versions(DAY)] == ["v1", "v2"]


def test_a_run_of_the_version_that_was_rolled_back_does_not_bring_it_back(store: Store) -> None:
    v1, v2 = published(store, "v1", "v2")
    store.rollback(DAY, "v1", ANNA, replacing="v2")
    with pytest.raises(RolledBack, match="by anna at .*: scores doubled.*daybreak rollback"):
        store.commit(v2, LATER)
    assert_shows(store, v1)
    v3 = staged(store, "v3")
    store.commit(v3, LATER)
    with pytest.raises(RolledBack, match="by anna"):
        store.commit(v2, LATER)
    assert_shows(store, v3)


def test_a_rollback_is_taken_back_by_another_one(store: Store) -> None:
    _, v2 = published(store, "v1", "v2")
    store.rollback(DAY, "v1", ANNA, replacing="v2")
    store.rollback(DAY, "v2", ANNA, replacing="v1")
    assert_shows(store, v2)
    assert {v.version: v.rolled_back for v in store.versions(DAY)} == {"v1": True, "v2": False}
    assert store.commit(v2, LATER).outcome == "unchanged"


def test_a_run_planned_after_a_rollback_ends_it_and_says_so(store: Store) -> None:
    published(store, "v1", "v2")
    store.rollback(DAY, "v1", ANNA, replacing="v2")
    v3 = staged(store, "v3")
    done = store.commit(v3, LATER)
    assert done.note is not None and "ends the rollback to version v1 by anna" in done.note
    assert_shows(store, v3)
    assert store.commit(staged(store, "v4"), LATER).note is None


def test_a_run_planned_before_a_rollback_comes_too_late(store: Store) -> None:
    v1, _ = published(store, "v1", "v2")
    store.rollback(DAY, "v1", ANNA, replacing="v2")
    with pytest.raises(PermanentError, match="rolled back by anna.*v3.*comes too late"):
        store.commit(staged(store, "v3"), PLANNED_AT)
    assert_shows(store, v1)


def test_a_rollback_of_what_is_no_longer_current_is_refused(store: Store) -> None:
    _, v2 = published(store, "v1", "v2")
    v3 = staged(store, "v3")
    store.commit(v3, LATER)
    with pytest.raises(PermanentError, match="have version v3 of .* had v2 when"):
        store.rollback(DAY, "v1", ANNA, replacing=v2.version)
    assert_shows(store, v3)


def test_a_version_is_not_published_over_another_one_than_it_was_audited_against(
    store: Store,
) -> None:
    v1, v2 = staged(store, "v1"), staged(store, "v2")
    with pytest.raises(Overtaken, match="have version none of 2026-03-01 now, and had v0 when"):
        store.commit(v1, PLANNED_AT, seen=Seen(version="v0"))
    assert store.current(DAY) is None
    assert store.commit(v1, PLANNED_AT, seen=Seen(version=None)).outcome == "published"
    with pytest.raises(Overtaken, match="have version v1 of 2026-03-01 now, and had none when"):
        store.commit(v2, LATER, seen=Seen(version=None))
    assert_shows(store, v1)
    assert store.commit(v2, LATER, seen=Seen(version="v1")).replaced == "v1"
    # What readers have already may be published again by whoever saw something else.
    assert store.commit(v2, LATER, seen=Seen(version="v1")).outcome == "unchanged"
    # A run that was planned earlier is told that, and looks no second time.
    with pytest.raises(PermanentError, match="comes too late"):
        store.commit(staged(store, "v3"), PLANNED_AT, seen=Seen(version="v1"))
    assert_shows(store, v2)


def test_a_table_knows_what_readers_had_before_the_current_version(store: Store) -> None:
    assert store.before(DAY) == []
    for number in (0, 1, 2, 3):
        store.commit(staged(store, f"v{number}"), PLANNED_AT)
    assert store.before(DAY) == ["v2", "v1", "v0"]
    store.rollback(DAY, "v2", ANNA, replacing="v3")
    assert store.before(DAY) == ["v1", "v0"]
    store.commit(staged(store, "v4"), LATER)
    assert store.before(DAY) == ["v2", "v1", "v0"]
    # A version that a run made again came after what it then took the place of, and so on back.
    store.commit(staged(store, "v1"), LATER)
    assert store.before(DAY) == ["v4", "v2", "v0"]
    store.delete([(DAY, "v4")], "retention", NOW)
    assert store.before(DAY) == ["v4", "v2", "v0"]
    store.rollback(DAY, "v2", ANNA, replacing="v1")
    assert store.before(DAY) == ["v1", "v0"]


def test_many_manifests_are_read_at_once(store: Store) -> None:
    tomorrow = DAY + dt.timedelta(days=1)
    v1, v2 = staged(store, "v1"), staged(store, "v2")
    other = staged(store, "v1", as_of=tomorrow)
    store.commit(v2, PLANNED_AT)
    wanted = [(tomorrow, "v1"), (DAY, "v2"), (tomorrow, "v2"), (DAY, "v1")]
    assert store.manifests(wanted) == [other, v2, v1]
    assert store.manifests([(DAY, "v3")]) == store.manifests([]) == []
    store.delete([(DAY, "v1")], "retention", NOW)
    assert store.manifests(wanted) == [other, v2]


def test_a_rollback_counts_after_a_run_whose_clock_was_ahead(store: Store) -> None:
    v1 = staged(store, "v1")
    store.commit(v1, PLANNED_AT)
    store.commit(staged(store, "v2"), LATER)
    store.rollback(DAY, "v1", ANNA, replacing="v2")
    assert_shows(store, v1)
    with pytest.raises(PermanentError, match="comes too late"):
        store.commit(staged(store, "v3"), BETWEEN)


# Deleting what retention chose.

NOW = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)  # after every commit that a test makes


def test_what_is_stored_is_listed_with_its_state(store: Store) -> None:
    published(store, "v1", "v2")
    staged(store, "v3", count=6, parts=2)
    write_version(store, "v4", rows_of(4), parts=1)
    found = {one.version: one for one in store.stored()}
    assert sorted(found) == ["v1", "v2", "v3", "v4"]
    assert found["v1"].committed is not None and not found["v1"].committed.current
    assert found["v1"].committed.superseded_at is not None
    assert found["v2"].committed is not None and found["v2"].committed.current
    assert (found["v3"].committed, found["v3"].staged, found["v3"].files) == (None, True, 2)
    assert (found["v4"].committed, found["v4"].staged, found["v4"].files) == (None, False, 1)
    assert all(one.bytes > 0 and not one.deleting for one in found.values())


def test_a_deleted_version_is_gone_and_its_lineage_stays(store: Store) -> None:
    v1, v2 = published(store, "v1", "v2")
    staged(store, "v3")
    names = [(DAY, "v1"), (DAY, "v3")]
    assert store.delete(names, "too old", NOW) == names
    assert_shows(store, v2)
    assert [version.version for version in store.versions(DAY)] == ["v2"]
    assert [(one.as_of, one.version) for one in store.stored()] == [(DAY, "v2")]
    expired = {one.version: one for one in store.expired(DAY)}
    assert (expired["v1"].manifest, expired["v1"].reason) == (v1, "too old")
    assert all(one.done and one.at == NOW for one in expired.values())
    assert not any(storage.exists(part.uri) for part in v1.parts)
    with pytest.raises(PermanentError, match=r"v1 of 2026-03-01 were deleted .*\(too old\)"):
        store.read(DAY, "v1")
    with pytest.raises(PermanentError, match=r"v1 of 2026-03-01 were deleted .*\(too old\)"):
        store.rollback(DAY, "v1", ANNA, replacing="v2")
    assert store.delete(names, "too old", NOW) == names


def test_a_second_upkeep_leaves_the_lineage_of_a_deleted_version(
    store: Store, member: str, root: str
) -> None:
    v1, _ = published(store, "v1", "v2")
    assert store.delete([(DAY, "v1")], "too old", NOW) == [(DAY, "v1")]
    (first,) = store.expired(DAY)
    assert first.manifest == v1
    # Another one that planned before the first one was done.
    assert opened(member, root).delete([(DAY, "v1")], "a day later", NOW) == [(DAY, "v1")]
    assert store.expired(DAY) == [first]


def test_deleting_what_was_scored_again_and_never_staged_keeps_the_lineage_of_the_version(
    store: Store,
) -> None:
    v1, _ = published(store, "v1", "v2")
    store.delete([(DAY, "v1")], "too old", NOW)
    again = write_version(store, "v1", rows_of(30, label="run-of-v1"))
    assert store.delete([(DAY, "v1")], "scored again and never staged", NOW) == [(DAY, "v1")]
    assert not any(storage.exists(part.uri) for part in again.parts)
    (kept,) = store.expired(DAY)
    assert (kept.manifest, kept.done) == (v1, True)


def test_a_version_that_was_rolled_back_to_and_left_again_after_the_plan_is_not_deleted(
    store: Store,
) -> None:
    published(store, "v1", "v2")
    planned_at = dt.datetime.now(dt.UTC)
    store.rollback(DAY, "v1", ANNA, replacing="v2")
    store.rollback(DAY, "v2", ANNA, replacing="v1")
    assert store.delete([(DAY, "v1")], "too old", planned_at) == []
    assert store.read(DAY, "v1").num_rows == 30
    assert store.expired(DAY) == []
    assert store.rollback(DAY, "v1", ANNA, replacing="v2").outcome == "published"


def test_the_current_version_is_never_deleted(store: Store) -> None:
    (v1,) = published(store, "v1")
    assert store.delete([(DAY, "v1")], "a mistake", NOW) == []
    assert_shows(store, v1)
    assert store.expired(DAY) == []


def test_a_version_can_be_made_again_after_it_was_deleted(store: Store) -> None:
    published(store, "v1", "v2")
    store.delete([(DAY, "v1")], "too old", NOW)
    v1 = staged(store, "v1")
    assert store.commit(v1, LATER).replaced == "v2"
    assert_shows(store, v1)
    assert store.expired(DAY) == []


def test_a_deletion_that_slept_touches_nothing_of_a_version_that_was_made_again_meanwhile(
    store: Store, member: str, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two upkeeps at once, of which one ends, and a run makes the deleted version again."""
    published(store, "v1", "v2")
    listing, made_again = storage.entries, list[VersionManifest]()

    def sleeping(uri: str) -> Any:
        found = list(listing(uri))
        monkeypatch.setattr(storage, "entries", listing)
        assert opened(member, root).delete([(DAY, "v1")], "too old", NOW) == [(DAY, "v1")]
        made_again.append(staged(opened(member, root), "v1"))
        opened(member, root).commit(made_again[0], LATER)
        return iter(found)

    monkeypatch.setattr(deletion, "ASK_AGAIN_SECONDS", 0)
    monkeypatch.setattr(storage, "entries", sleeping)
    assert store.delete([(DAY, "v1")], "too old", NOW) == []
    (v1,) = made_again
    assert_shows(store, v1)
    assert store.expired(DAY) == []
    assert store.rollback(DAY, "v2", ANNA, replacing="v1").outcome == "published"
    assert store.rollback(DAY, "v1", ANNA, replacing="v2").outcome == "published"


@pytest.mark.parametrize("slept_at", ["first", "part-00000", "last"])
def test_an_upkeep_that_stops_anywhere_and_goes_on_harms_no_version_that_was_made_again(
    store: Store, member: str, root: str, slept_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile another one ends, and a run that still has the old claim would publish."""
    if member == "snowflake" and slept_at == "first":
        pytest.skip("what goes first there is a part")
    last = "/deleting/" if member == "delta" else "part-00002"
    deleting, asleep = storage.delete, list[str]()

    def sleeping(uris: list[str]) -> None:
        if not asleep and {"first": "", "last": last}.get(slept_at, slept_at) in "".join(uris):
            asleep.extend(uris)
            made_again(opened(member, root), v1)
        deleting(uris)

    v1, _ = published(store, "v1", "v2")
    assert store.claim(DAY, "v1", AGAIN) == Claim(run_id="run-of-v1", scored_at=v1.scored_at)
    monkeypatch.setattr(storage, "delete", sleeping)
    store.delete([(DAY, "v1")], "too old", NOW)
    monkeypatch.setattr(storage, "delete", deleting)
    assert asleep
    again = store.manifest(DAY, "v1")
    assert again is not None and again.run_id == AGAIN.run_id
    assert_shows(store, again)
    assert store.expired(DAY) == []
    assert store.rollback(DAY, "v2", ANNA, replacing="v1").outcome == "published"
    assert store.rollback(DAY, "v1", ANNA, replacing="v2").outcome == "published"
    store.upkeep()
    assert [(one.version, one.staged, one.deleting) for one in store.stored()] == [
        ("v1", True, False),
        ("v2", True, False),
    ]
    assert not [entry for entry in storage.entries(root) if "/deleting/" in entry.uri]


AGAIN = Claim(run_id="run-again", scored_at=LATER)


def made_again(store: Store, old: VersionManifest) -> None:
    """Another upkeep ends the deletion; of two runs, the one with the new claim publishes."""
    assert store.delete([(DAY, "v1")], "too old", NOW) == [(DAY, "v1")]
    late = write_version(store, "v1", rows_of(30, label=old.run_id))
    assert late.parts == old.parts  # the same claim and the same rows are the same files
    with pytest.raises(Unclaimed, match="run-of-v1 had begun to score it.*Run the partition again"):
        store.stage(late)
    assert store.claim(DAY, "v1", AGAIN) == AGAIN
    with pytest.raises(Unclaimed, match="run run-again has claimed it since"):
        store.stage(late)
    rows = rows_of(30, label=AGAIN.run_id)
    again = write_version(store, "v1", rows, name="-again")
    again = again.model_copy(update={"scored_at": AGAIN.scored_at})
    store.stage(again)
    with pytest.raises(PermanentError, match="nothing was published"):
        store.commit(late, LATER)
    assert store.commit(again, LATER).outcome == "published"


def test_nobody_claims_or_stages_a_version_whose_deletion_is_not_finished(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    v1, _ = published(store, "v1", "v2")
    for scored_again in (False, True):
        if scored_again:  # and never staged
            write_version(store, "v1", rows_of(30, label="run-of-v1"))
        with monkeypatch.context() as killed:
            killed.setattr(storage, "delete", _killed_at_a_part)
            with pytest.raises(KeyboardInterrupt):
                store.delete([(DAY, "v1")], "too old", NOW)
        with pytest.raises(TransientError, match="v1 of 2026-03-01 is being deleted"):
            store.claim(DAY, "v1", AGAIN)
        with pytest.raises(TransientError, match="v1 of 2026-03-01 is being deleted"):
            store.stage(v1)
        assert [one.version for one in store.stored() if one.deleting] == ["v1"]
        assert store.delete([(DAY, "v1")], "too old", NOW) == [(DAY, "v1")]
        (kept,) = store.expired(DAY)
        assert (kept.manifest, kept.done) == (v1, True)
    assert store.claim(DAY, "v1", AGAIN) == AGAIN


_delete = storage.delete


def _killed_at_a_part(uris: list[str]) -> None:
    if any("part-" in uri for uri in uris):
        raise KeyboardInterrupt
    _delete(uris)


def test_after_a_clock_that_was_years_ahead_a_rollback_lets_runs_come_first_again(
    store: Store,
) -> None:
    (v1,) = published(store, "v1")
    future = staged(store, "vfuture")
    store.commit(future, NOW + dt.timedelta(days=7000))
    with pytest.raises(PermanentError, match="comes too late.*daybreak rollback lets later runs"):
        store.commit(staged(store, "v2"), LATER)
    store.rollback(DAY, "v1", ANNA, replacing="vfuture")
    assert_shows(store, v1)
    v3 = staged(store, "v3")
    store.commit(v3, ANNA.at + dt.timedelta(hours=1))
    assert_shows(store, v3)


def test_upkeep_changes_nothing_that_anybody_sees(store: Store) -> None:
    store.upkeep()
    published(store, "v1", "v2")
    store.rollback(DAY, "v1", ANNA, replacing="v2")
    before = store.versions(DAY)
    store.upkeep()
    assert store.versions(DAY) == before
    assert store.read(DAY, "v2").num_rows == 30


# Real processes, raced and killed.


def publish_rounds(
    member: str, root: str, label: str, rounds: int, gate: Any, results: Any
) -> None:
    """Publish version v<label> of one new date after the other, each at the same time as others."""
    store = opened(member, root)
    for index in range(rounds):
        manifest = staged(store, f"v{label}", as_of=DAY + dt.timedelta(days=index), count=12)
        gate.wait(300)
        results.put((index, label, store.commit(manifest, PLANNED_AT).replaced))


def publish_dates(member: str, root: str, first: int, count: int, gate: Any) -> None:
    store = opened(member, root)
    manifests = [
        staged(store, "v1", as_of=DAY + dt.timedelta(days=first + index), count=12)
        for index in range(count)
    ]
    gate.wait(300)
    for manifest in manifests:
        store.commit(manifest, PLANNED_AT)


def publish_until_killed(member: str, root: str, start: int, ready: Any) -> None:
    store = opened(member, root)
    for number in range(start, start + 1000):
        store.commit(staged(store, f"v{number}", count=20), PLANNED_AT)
        ready.set()


def join(started: list[Any]) -> None:
    for process in started:
        process.join(600)
    assert [process.exitcode for process in started] == [0] * len(started)


def pause(member: str) -> None:
    """Between two looks of a reader: the emulator has one core's worth of time for everybody."""
    time.sleep(0 if member == "delta" else 0.15)


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
    rounds, store = rounds_of(member, RACES, 3), opened(member, root)
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
        pause(member)
    join(racers)
    replaced: dict[int, dict[str, str | None]] = {}
    for _ in range(2 * rounds):
        index, label, before = results.get(timeout=300)
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
    gate, count = processes.Barrier(4), rounds_of(member, 5, 1)
    writers = [
        processes.Process(target=publish_dates, args=(member, root, count * n, count, gate))
        for n in range(4)
    ]
    for writer in writers:
        writer.start()
    join(writers)
    store = opened(member, root)
    assert store.current_dates() == [DAY + dt.timedelta(days=n) for n in range(4 * count)]
    for date in store.current_dates():
        assert seen_by_reader(store, date) == ("v1", 12)
        assert len(store.versions(date)) == 1


def test_a_killed_publisher_never_shows_readers_a_part_of_a_version(
    member: str, root: str, buried: Callable[[], None]
) -> None:
    store, choose = opened(member, root), random.Random(7)
    started = time.monotonic()
    store.commit(staged(store, "v0", count=20), PLANNED_AT)
    publish_seconds = max(0.1, time.monotonic() - started)
    reads = 0
    for kill in range(rounds_of(member, 10, 3)):
        ready = processes.Event()
        writer = processes.Process(
            target=publish_until_killed, args=(member, root, 1000 * (kill + 1), ready)
        )
        writer.start()
        assert ready.wait(300)
        until = time.monotonic() + choose.uniform(0, 3 * publish_seconds)
        while time.monotonic() < until:
            shown = seen_by_reader(store, DAY)
            assert shown is not None and shown[1] == 20
            reads += 1
            pause(member)
        writer.kill()
        writer.join(60)
        assert writer.exitcode == -signal.SIGKILL
        buried()
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


def publish_many(member: str, root: str, first: int, count: int, planned: dt.datetime) -> None:
    store = opened(member, root)
    for number in range(first, first + count):
        try:
            store.commit(staged(store, f"v{number}", count=20), planned)
        except PermanentError:
            continue  # a rollback that was decided after this run was planned


def roll_back_many(member: str, root: str, count: int, results: Any) -> None:
    store, choose, done = opened(member, root), random.Random(3), 0
    while done < count:
        listed = store.versions(DAY)
        (current,) = [version for version in listed if version.current]
        others = [version.version for version in listed if not version.current]
        decision = Decision(by="anna", at=PLANNED_AT + dt.timedelta(seconds=done), reason="")
        try:
            moved = store.rollback(DAY, choose.choice(others), decision, replacing=current.version)
        except Overtaken:
            continue
        results.put((current.version, moved.replaced))
        done += 1


@pytest.mark.usefixtures("patient")
def test_rollbacks_that_race_commits_replace_only_what_the_person_saw(
    member: str, root: str
) -> None:
    store, results = opened(member, root), processes.Queue()
    for version in ("v0", "v1"):
        store.commit(staged(store, version, count=20), PLANNED_AT)
    commits, rollbacks = rounds_of(member, 15, 3), rounds_of(member, 8, 2)
    racers = [
        processes.Process(target=publish_many, args=(member, root, 100, commits, LATER)),
        processes.Process(target=roll_back_many, args=(member, root, rollbacks, results)),
    ]
    for racer in racers:
        racer.start()
    while any(racer.is_alive() for racer in racers):
        assert seen_by_reader(store, DAY)
        pause(member)
    join(racers)
    for _ in range(rollbacks):
        seen, replaced = results.get(timeout=300)
        assert replaced == seen
    listed = store.versions(DAY)
    assert sum(version.current for version in listed) == 1
    assert len(listed) == 2 + commits
    for one in listed:
        assert store.read(DAY, one.version).num_rows == 20


def delete_until_killed(member: str, root: str, ready: Any) -> None:
    store = opened(member, root)
    ready.set()
    for _ in range(1000):
        store.delete(
            [(one.as_of, one.version) for one in store.stored() if not _current(one)], "old", NOW
        )


def _current(one: Any) -> bool:
    return one.committed is not None and one.committed.current


@pytest.mark.usefixtures("patient")
def test_a_killed_deletion_never_harms_what_readers_see_and_is_finished_by_the_next(
    member: str, root: str, buried: Callable[[], None]
) -> None:
    store, choose = opened(member, root), random.Random(11)
    parts, versions = rounds_of(member, 10, 2), rounds_of(member, 8, 2)
    for kill in range(rounds_of(member, 6, 2)):
        manifests = [staged(store, f"v{kill}-{n}", count=20, parts=parts) for n in range(versions)]
        for manifest in manifests:
            store.commit(manifest, PLANNED_AT)
        ready = processes.Event()
        deleter = processes.Process(target=delete_until_killed, args=(member, root, ready))
        deleter.start()
        assert ready.wait(300)
        time.sleep(choose.uniform(0, rounds_of(member, 1, 6) * 0.25))
        deleter.kill()
        deleter.join(60)
        buried()
        assert_shows(store, manifests[-1])
        for version in store.versions(DAY):
            # A version is listed and whole, or it is not listed.
            if all(not one.deleting for one in store.stored() if one.version == version.version):
                assert store.read(DAY, version.version).num_rows == 20
        store.delete(
            [(one.as_of, one.version) for one in store.stored() if not _current(one)], "old", NOW
        )
        assert [one.version for one in store.stored()] == [manifests[-1].version]
        assert all(one.done for one in store.expired(DAY))


def commit_again_and_again(member: str, root: str, rounds: int, gate: Any, results: Any) -> None:
    store = opened(member, root)
    for number in range(rounds):
        manifest = store.manifest(DAY, f"v{number}")
        assert manifest is not None
        gate.wait(300)
        try:
            results.put((number, store.commit(manifest, LATER).outcome))
        except (PermanentError, TransientError):
            results.put((number, "refused"))


@pytest.mark.usefixtures("patient")
def test_a_version_that_is_made_current_while_it_is_deleted_keeps_its_files_or_is_refused(
    member: str, root: str
) -> None:
    rounds, store = rounds_of(member, 12, 2), opened(member, root)
    for number in range(rounds):
        store.commit(staged(store, f"v{number}", count=20), PLANNED_AT)
    store.commit(staged(store, "vlast", count=20), PLANNED_AT)
    gate, results = processes.Barrier(2), processes.Queue()
    writer = processes.Process(
        target=commit_again_and_again, args=(member, root, rounds, gate, results)
    )
    writer.start()
    outcomes = Counter[tuple[str, bool]]()
    for number in range(rounds):
        gate.wait(300)
        deleted = bool(store.delete([(DAY, f"v{number}")], "old", NOW))
        assert seen_by_reader(store, DAY) is not None
        _, outcome = results.get(timeout=300)
        outcomes[outcome, deleted] += 1
        shown = seen_by_reader(store, DAY)
        assert shown is not None and shown[1] == 20
        assert (shown[0] == f"v{number}") == (not deleted)
    join([writer])
    assert set(outcomes) <= {("published", False), ("refused", True)}
