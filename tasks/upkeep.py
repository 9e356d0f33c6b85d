"""upkeep: delete what a pipeline's retention no longer keeps, and tidy its prediction table."""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
from collections import Counter

from include.errors import CorruptData, DaybreakError
from include.pipeline import load_named
from include.retention import Deletion, expire, plan_expiry, told
from include.run import Value
from include.settings import settings, silence_telemetry
from include.stores import open_store
from include.workspace import Workspace

log = logging.getLogger("daybreak")


class Upkept(Value):
    """What was deleted, or what would be; `counts` by kind, `bytes` in all.

    `unreadable` names each record of a run that could not be read: what the run may need stays.
    """

    pipeline: str
    dry_run: bool
    counts: dict[str, int]
    files: int
    bytes: int
    seconds: float
    unreadable: tuple[str, ...] = ()


def upkeep(pipeline: str, now: dt.datetime, *, dry_run: bool = False) -> Upkept:
    """Expire one pipeline by its own retention; safe to repeat, and after a kill at any moment."""
    return upkeep_of(pipeline, now, dry_run=dry_run)[0]


def upkeep_of(
    pipeline: str, now: dt.datetime, *, dry_run: bool = False
) -> tuple[Upkept, list[Deletion]]:
    """`upkeep`, and each deletion."""
    silence_telemetry()
    where, started = settings(), time.monotonic()
    config = load_named(where.pipelines, pipeline).config
    workspace = Workspace(where.workspace, pipeline)
    store = open_store(config.predictions, workspace.predictions())
    unreadable: dict[str, CorruptData] = {}
    try:
        act = plan_expiry if dry_run else expire
        deletions = act(
            workspace,
            store,
            config.retention,
            now,
            lambda error: unreadable.update({error.where: error}),
        )
    except DaybreakError as error:
        raise error.located(pipeline) from None
    for each in unreadable.values():
        told(each.located(pipeline))
    result = Upkept(
        pipeline=pipeline,
        dry_run=dry_run,
        counts=dict(Counter(one.kind for one in deletions)),
        files=sum(one.files for one in deletions),
        bytes=sum(one.bytes for one in deletions),
        seconds=round(time.monotonic() - started, 3),
        unreadable=tuple(str(each) for each in unreadable.values()),
    )
    log.info(json.dumps({"step": "upkeep", **result.model_dump(mode="json")}))
    return result, deletions
