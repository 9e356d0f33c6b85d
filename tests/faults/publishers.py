"""What processes of the fault suite do, besides `daybreak` itself."""

from __future__ import annotations

import datetime as dt
import json
import random
import time
from pathlib import Path
from typing import Any

from include.config import Predictions
from include.errors import PermanentError
from include.stores import Overtaken, Seen, Store, open_store
from tests.staged_versions import DAY, PLANNED_AT, staged
from tests.world import World

WRITERS = 4
ROWS = 12
# Dates of a round: one for which all publish versions of their own, one for which all publish the
# same version, and one for each alone.
DATES = 2 + WRITERS


def register(path: str, artifacts: str, seed: int) -> None:
    """One more version of the model of the world below `path`."""
    World.at(Path(path), Path(artifacts)).register_model(seed=seed, alias=None)


def shared_date(turn: int) -> dt.date:
    return DAY + dt.timedelta(days=DATES * turn)


def same_date(turn: int) -> dt.date:
    return DAY + dt.timedelta(days=DATES * turn + 1)


def own_date(turn: int, writer: int) -> dt.date:
    return DAY + dt.timedelta(days=DATES * turn + 2 + writer)


def planned_at(turn: int, writer: int) -> dt.datetime:
    """When the run of a writer was planned: in every turn the writers are in another order."""
    order = random.Random(turn).sample(range(WRITERS), WRITERS)
    return PLANNED_AT + dt.timedelta(minutes=order[writer])


def publish_rounds(
    predictions: dict[str, Any], root: str, writer: int, rounds: int, meeting: str
) -> None:
    """Publish with the other writers at once; what came of it goes to <meeting>/<writer>.jsonl."""
    store = open_store(Predictions.model_validate(predictions), root)
    with (Path(meeting) / f"{writer}.jsonl").open("w", buffering=1) as outcomes:
        for turn in range(rounds):
            publish_round(store, writer, turn, Path(meeting), outcomes)


def publish_round(store: Store, writer: int, turn: int, meeting: Path, outcomes: Any) -> None:
    wanted = [
        (shared_date(turn), f"v{writer}", planned_at(turn, writer)),
        (same_date(turn), "vsame", PLANNED_AT),
        (own_date(turn, writer), f"v{writer}", PLANNED_AT),
    ]
    manifests = [
        staged(store, version, as_of=as_of, count=ROWS, parts=1) for as_of, version, _ in wanted
    ]
    meet(meeting, turn, writer)
    for manifest, (as_of, version, planned) in zip(manifests, wanted, strict=True):
        line: dict[str, Any] = {"as_of": str(as_of), "version": version, "overtaken": 0}
        while "outcome" not in line:
            # As `publish` does, which audits the version against what it saw.
            seen = Seen.of(store.current(as_of))
            try:
                done = store.commit(manifest, planned, seen=seen)
            except Overtaken:
                line["overtaken"] += 1
            except PermanentError as error:
                assert "comes too late" in str(error), error
                line["outcome"] = "late"
            else:
                assert done.outcome == "unchanged" or done.replaced == seen.version
                line |= {"outcome": done.outcome, "replaced": done.replaced}
        outcomes.write(json.dumps(line) + "\n")


def meet(folder: Path, turn: int, writer: int) -> None:
    """Wait until every writer is here."""
    (folder / f"{turn}-{writer}").touch()
    until = time.monotonic() + 300
    while not all((folder / f"{turn}-{other}").exists() for other in range(WRITERS)):
        assert time.monotonic() < until, "a writer never came"
        time.sleep(0.001)
