"""Processes that publish at once, round after round, and a reader beside them."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from include.config import Predictions
from include.stores import Store, open_store
from tests.faults.commands import Nursery
from tests.faults.overtaking import proxy
from tests.faults.places import Place
from tests.faults.publishers import (
    DATES,
    ROWS,
    WRITERS,
    own_date,
    planned_at,
    publish_rounds,
    same_date,
    shared_date,
)
from tests.faults.watching import digest, digest_of_staged
from tests.staged_versions import DAY, PLANNED_AT, staged

pytest_plugins = ("tests.fakesnow_server", "tests.faults.places")

# The emulator of Snowflake takes seconds for what Snowflake does in one.
ROUNDS = (
    {"disk": 200, "s3": 200, "gcs": 20, "azure": 20, "snowflake": 200}
    if "DAYBREAK_LONG_TESTS" in os.environ
    else {"disk": 10, "s3": 3, "snowflake": 1}
)


def test_writers_that_publish_the_same_and_different_dates_at_once_leave_what_the_rule_says(
    place: Place, nursery: Nursery, tmp_path: Path
) -> None:
    rounds, store = ROUNDS[place.name], place.store()
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    writers = [
        nursery.call(
            place.env, publish_rounds,
            predictions=place.predictions, root=place.root,
            writer=writer, rounds=rounds, meeting=str(meeting),
        )
        for writer in range(WRITERS)
    ]  # fmt: skip
    choose, reads = random.Random(1), Counter[str]()
    while not all(writer.ended.is_set() for writer in writers):
        for as_of in choose.sample(
            dates := store.current_dates()[-2 * DATES :], min(3, len(dates))
        ):
            reads[seen(store, as_of)] += 1
    assert [writer.wait() for writer in writers] == [0] * WRITERS, [w.said() for w in writers]
    outcomes = outcomes_of(meeting)
    assert store.current_dates() == sorted(
        {shared_date(0) + dt.timedelta(days=n) for n in range(DATES * rounds)}
    )
    for turn in range(rounds):
        assert_the_rule(store, turn, outcomes)
    assert reads
    lines = [line for those in outcomes.values() for line in those]
    print(
        f"{place.name}: {rounds} rounds, {len(lines)} commits asked for, of which "
        f"{sum(line['overtaken'] > 0 for line in lines)} were overtaken and looked again, "
        f"{reads.total()} reads meanwhile"
    )


@pytest.mark.parametrize(("cloud", "refusal"), [("s3", 412), ("gcs", 412), ("azure", 409)])
def test_an_object_store_refuses_the_slower_one_of_two_who_publish_a_dates_first_version(
    cloud: str, refusal: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commit is on the way when the other one's is taken: nothing but the store can tell."""
    server = request.getfixturevalue(cloud)
    with proxy(server.env) as between:
        for name, value in between.env.items():
            monkeypatch.setenv(name, value)
        store = open_store(Predictions(), f"{server.root}/{uuid.uuid4().hex}")
        store.commit(staged(store, "v0", as_of=shared_date(1)), PLANNED_AT)
        slow, fast = staged(store, "vslow"), staged(store, "vfast")
        between.answers.clear()
        between.before = lambda: store.commit(fast, PLANNED_AT)
        done = store.commit(slow, PLANNED_AT + dt.timedelta(minutes=1))
        taken = [between.answers[0], between.answers[-1]]
        assert between.answers == [taken[0], refusal, taken[1]] and max(taken) < 300
        assert (done.outcome, done.replaced) == ("published", "vfast")
        assert [version.version for version in store.versions(DAY)] == ["vfast", "vslow"]
        assert set(store.read(DAY)["version"].to_pylist()) == {"vslow"}


def seen(store: Store, as_of: dt.date) -> str:
    """The version that one read of a date shows: one, and all of it, bit for bit."""
    rows = store.read(as_of)
    (version,) = set(rows["version"].to_pylist())
    assert set(rows["run_id"].to_pylist()) == {f"run-of-{version}"}
    assert digest(rows) == digest_of_staged(version, as_of, ROWS)
    return str(version)


def outcomes_of(meeting: Path) -> dict[str, list[dict[str, Any]]]:
    """What became of each commit, by date."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(meeting.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            outcome = json.loads(line)
            found.setdefault(outcome["as_of"], []).append(outcome)
    return found


def assert_the_rule(store: Store, turn: int, outcomes: dict[str, list[dict[str, Any]]]) -> None:
    """The version that was planned last is current, and each knows which one it replaced."""
    order = sorted(range(WRITERS), key=lambda writer: planned_at(turn, writer))
    shared = {one["version"]: one for one in outcomes[str(shared_date(turn))]}
    made = [f"v{writer}" for writer in order if shared[f"v{writer}"]["outcome"] == "published"]
    assert made[-1] == f"v{order[-1]}"
    assert [shared[version]["replaced"] for version in made] == [None, *made[:-1]]
    assert [v.version for v in store.versions(shared_date(turn))] == made
    assert seen(store, shared_date(turn)) == made[-1]

    same = Counter(one["outcome"] for one in outcomes[str(same_date(turn))])
    assert same == {"published": 1, "unchanged": WRITERS - 1}
    assert len(store.versions(same_date(turn))) == 1
    for writer in range(WRITERS):
        (own,) = outcomes[str(own_date(turn, writer))]
        assert (own["outcome"], own["replaced"]) == ("published", None)
