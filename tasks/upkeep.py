"""upkeep: delete what a pipeline's retention no longer keeps, and tidy its prediction table."""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
from collections import Counter

from include.errors import DaybreakError
from include.pipeline import load_named
from include.retention import Deletion, expire, plan_expiry
from include.run import Value
from include.settings import settings, silence_telemetry
from include.stores import open_store
from include.workspace import Workspace

log = logging.getLogger("daybreak")


class Upkept(Value):
    """What was deleted, or what would be; `counts` by kind, `bytes` in all."""

    pipeline: str
    dry_run: bool
    counts: dict[str, int]
    files: int
    bytes: int
    seconds: float


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
    try:
        act = plan_expiry if dry_run else expire
        deletions = act(workspace, store, config.retention, now)
    except DaybreakError as error:
        raise error.located(pipeline) from None
    result = Upkept(
        pipeline=pipeline,
        dry_run=dry_run,
        counts=dict(Counter(each.kind for each in deletions)),
        files=sum(each.files for each in deletions),
        bytes=sum(each.bytes for each in deletions),
        seconds=round(time.monotonic() - started, 3),
    )
    log.info(json.dumps({"step": "upkeep", **result.model_dump(mode="json")}))
    return result, deletions
