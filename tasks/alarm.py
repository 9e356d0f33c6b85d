"""alarm: tell people that a run missed its deadline, and what it hangs on."""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable
from statistics import median
from typing import TypeVar
from zoneinfo import ZoneInfo

from include.approvals import standing_of
from include.config import Notify
from include.errors import BadConfig
from include.lateness import (
    Hold,
    Missed,
    answered,
    duration,
    expected_at,
    hold_of,
    listed,
    made_instead,
    usual_seconds,
)
from include.notify import Message, lines, notify
from include.partition import Partition, partition_for
from include.pipeline import Pipeline, load_named, planned_pipeline
from include.reports.assembly import readers_see
from include.reports.message import local, told_of_readers
from include.reports.model import Readers
from include.reports.records import RunRecords, read_records
from include.settings import settings
from include.stores import Version, open_store
from include.workspace import Workspace

log = logging.getLogger("daybreak")

# A storage that does not answer may be why the run is late: the alarm goes out without its facts.
PATIENCE_SECONDS = 60.0

Fact = TypeVar("Fact")


def alarm(missed: Missed, now: dt.datetime | None = None) -> str:
    """Send the message of a missed deadline; one line on what came of it, for the orchestrator.

    Nobody is alarmed where readers have what the run was to publish: by the run itself, whose
    later steps are still going, or by another one (see `made_instead`). What cannot be read is
    left out of the message and said in the log.
    """
    where, now = settings(), now or dt.datetime.now(dt.UTC)
    workspace = Workspace(where.workspace, missed.pipeline)
    records = _read("the run's records", lambda: read_records(workspace, missed.run_id))
    run, pipeline = records.run if records else None, None
    if run is not None:
        pipeline = _read("the planned configuration", lambda: planned_pipeline(run))
    if pipeline is None:
        named = missed.pipeline
        pipeline = _read("the pipeline's folder", lambda: load_named(where.pipelines, named))
    partition = run.partition if run else _partition(pipeline, missed) if pipeline else None
    found = _read("the table", lambda: [_version(workspace, pipeline, partition)])
    version = found[0] if found else None
    if _published(missed, workspace, records, pipeline, partition, version):
        return _said(missed, "the predictions are published: nobody is alarmed")
    if "deadline" not in (pipeline.config.notify if pipeline else Notify()).on:
        return _said(missed, "deadlines are not among the pipeline's notify.on")
    if not where.notify:
        return _said(missed, "DAYBREAK_NOTIFY names no service: nobody is alarmed")
    hold = hold_of(missed, records) if records is not None else None
    if hold is not None and hold.kind == "held":
        hold = _answered(workspace, records, hold, now)
    taken = _read("the runs before", lambda: usual_seconds(workspace)) or {}
    timezone = pipeline.config.schedule.timezone if pipeline else "UTC"
    readers = Readers.of(version) if version is not None else None
    seen = told_of_readers(readers, timezone) if found else "the table could not be asked"
    message = message_of(missed, pipeline, partition, hold, taken, seen, now)
    told = notify(
        workspace,
        missed.run_id,
        "deadline",
        message,
        where.notify,
        about=missed.due_at.isoformat(),
    )
    failed = f"; not by {'; '.join(told.failed)}" if told.failed else ""
    return _said(missed, f"{told.title}: told by {listed(told.sent)}{failed}")


def message_of(
    missed: Missed,
    pipeline: Pipeline | None,
    partition: Partition | None,
    hold: Hold | None,
    taken: dict[str, list[float]],
    readers: str,
    now: dt.datetime,
) -> Message:
    """The message's text: what is late, what it hangs on, when it may come, what readers see."""
    timezone = pipeline.config.schedule.timezone if pipeline else "UTC"
    subject = f"{missed.pipeline} {partition or ''}".rstrip()
    due = missed.due_at.astimezone(ZoneInfo(timezone))
    do = "Open the run and see its log"
    if hold is not None and hold.do:
        do = f"{hold.do[0].upper()}{hold.do[1:]}"
    facts = {
        "What": f"the predictions are not published; they were due at "
        f"{local(missed.due_at, timezone)}",
        "Where": _where(missed, hold, timezone, now),
        "Why": hold.found if hold else None,
        "Expected": _expected(hold, taken, timezone, now),
        "Readers": readers,
        "Do": f"{do}.",
        "Run": missed.url or missed.run_id,
        "Owner": pipeline.config.owner if pipeline else None,
    }
    title = f"{subject}: late, not published by {due:%H:%M}"
    return Message(title=title, body=lines(facts), level="failure")


def _where(missed: Missed, hold: Hold | None, timezone: str, now: dt.datetime) -> str:
    if hold is None:
        return f"the run is {missed.state}; its records could not be read"
    since = ""
    if hold.since is not None:
        taken = duration(max(0.0, (now - hold.since).total_seconds()))
        since = f" since {local(hold.since, timezone)} ({taken})"
    said = {
        "queued": "the run has not started",
        "running": f"{hold.step} is running{since}",
        "retrying": f"{hold.step} failed{since.replace(' since', ' at')} and is tried again",
        "held": f"{hold.step} waits for a person{f' until {hold.until}' if hold.until else ''}",
        "failed": f"{hold.step} failed{since.replace(' since', ' at')}, and the run with it",
    }
    done = f"; done: {listed(hold.done)}" if hold.done else ""
    return said[hold.kind] + done


def _expected(
    hold: Hold | None, taken: dict[str, list[float]], timezone: str, now: dt.datetime
) -> str | None:
    """The expected finish, out of what the steps usually take."""
    if hold is None or hold.kind in ("failed", "held"):
        return None
    usual = taken.get(hold.step)
    if not usual:
        return "no earlier run that published tells how long it takes"
    taking = duration(median(usual))
    steps = f"{hold.step} takes {taking} in the median of {len(usual)} earlier runs"
    finish = expected_at(hold, taken, now)
    if finish is None:
        return f"unknown: {steps}, and has taken longer"
    return f"published at about {local(finish, timezone)}; {steps}"


def _published(
    missed: Missed,
    workspace: Workspace,
    records: RunRecords | None,
    pipeline: Pipeline | None,
    partition: Partition | None,
    version: Version | None,
) -> bool:
    if records is not None and records.published is not None:
        return True
    if pipeline is None or partition is None or version is None:
        return False
    if version.as_of != partition.as_of:
        return False
    if version.committed_at >= missed.at:
        return True
    what = "the run that made what readers see"
    other = _read(what, lambda: read_records(workspace, version.run_id))
    asked = other.request.at if other is not None and other.request is not None else None
    return asked is not None and made_instead(pipeline.config.schedule, partition, missed.at, asked)


def _answered(
    workspace: Workspace, records: RunRecords | None, hold: Hold, now: dt.datetime
) -> Hold:
    run, scored = (records.run, records.scored) if records is not None else (None, None)
    if run is None or scored is None:
        return hold
    as_of, version = run.partition.as_of, scored.version
    standing = _read("the question", lambda: standing_of(workspace, as_of, version))
    return answered(hold, standing, now) if standing is not None else hold


def _partition(pipeline: Pipeline, missed: Missed) -> Partition:
    rule = pipeline.config.partition
    return partition_for(rule.grain, rule.lag, pipeline.config.schedule.timezone, at=missed.at)


def _version(
    workspace: Workspace, pipeline: Pipeline | None, partition: Partition | None
) -> Version | None:
    if pipeline is None:
        raise BadConfig("without the pipeline nothing says where its table is")
    store = open_store(pipeline.config.predictions, workspace.predictions())
    return readers_see(store, partition.as_of if partition else None)


def _read(what: str, read: Callable[[], Fact]) -> Fact | None:
    """What `read` returns; None, said in the log, where it raised or took too long."""
    found: list[Fact] = []
    errors: list[Exception] = []

    def body() -> None:
        try:
            found.append(read())
        except Exception as error:  # noqa: BLE001 - an alarm with fewer facts is better than none
            errors.append(error)

    # A daemon, so that a storage which never answers does not keep the process alive.
    reader = threading.Thread(target=body, daemon=True)
    reader.start()
    reader.join(PATIENCE_SECONDS)
    if errors:
        log.warning("the alarm goes without %s: %s", what, errors[0])
    elif reader.is_alive():
        log.warning("the alarm goes without %s: no answer in %g s", what, PATIENCE_SECONDS)
    return found[0] if found else None


def _said(missed: Missed, line: str) -> str:
    log.info("%s, due at %s: %s", missed.pipeline, missed.due_at.isoformat(), line)
    return line
