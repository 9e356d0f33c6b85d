"""What a run that missed its deadline hangs on, from its records and from the runs before it."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from include import storage
from include.approvals import Standing
from include.config import Schedule
from include.partition import Partition
from include.reports.model import RunReport
from include.reports.newest import newest_reports
from include.reports.records import STEPS, RunRecords
from include.run import Value
from include.workspace import Workspace

log = logging.getLogger("daybreak")

PAST_RUNS = 10  # of the newest that published, for what a step usually takes
_PUBLISHING = STEPS[: STEPS.index("publish") + 1]


class Missed(Value):
    """A deadline that passed, as the orchestrator knows it.

    `at` is the run's logical date, or the time after which it could start; `state` is the
    orchestrator's own word, of which `queued`, `running` and `failed` are known here.
    """

    pipeline: str
    run_id: str
    due_at: dt.datetime
    at: dt.datetime
    state: str
    started_at: dt.datetime | None = None
    url: str | None = None


@dataclass(frozen=True)
class Hold:
    """The step that keeps the table from being published, and since when.

    `running` has no record yet: it began, at the latest, when the step before it ended. `held`
    waits for a person, `until` the limit that the question has.
    """

    step: str
    kind: str  # queued, running, retrying, held, failed
    since: dt.datetime | None
    done: tuple[str, ...]
    found: str = ""
    do: str = ""
    until: str = ""


def hold_of(missed: Missed, records: RunRecords) -> Hold | None:
    """What the run hangs on; None where it published."""
    done: list[str] = []
    since = missed.started_at
    for step in _PUBLISHING:
        record = records.records.get(step)
        if record is None:
            kind = missed.state if missed.state in ("queued", "failed") else "running"
            return Hold(step, kind, since, tuple(done))
        ended = record.started_at + dt.timedelta(seconds=record.seconds)
        if record.outcome == "failed":
            error = record.error or {}
            kind = "failed" if missed.state == "failed" else "retrying"
            if step == "publish" and records.held:
                kind = "held"  # whatever became of the run: a person can still answer
            found, do = error.get("found", ""), error.get("do", "")
            return Hold(step, kind, ended, tuple(done), found, do)
        done.append(step)
        since = ended
    if records.published is None:  # the record is of an earlier attempt, for another version
        return Hold("publish", "running", since, tuple(done[:-1]))
    return None


def answered(hold: Hold, standing: Standing, now: dt.datetime) -> Hold:
    """A hold of the kind `held` with its limit, or what became of the question since."""
    state, given = standing.state(now), standing.answer(now)
    if state == "waiting" and standing.held is not None:
        return replace(hold, until=standing.held.until_local())
    if given is None:
        return hold
    if state == "approved":
        return Hold(hold.step, "running", given.at, hold.done)
    do = "see the run's report for what readers have"
    found = f"version {standing.version} was {given}"
    return replace(hold, kind="failed", since=given.at, found=found, do=do)


def made_instead(
    schedule: Schedule, partition: Partition, late: dt.datetime, other: dt.datetime
) -> bool:
    """Whether a run that was asked for at `other` made what the late run, of `late`, was to make.

    Both are for `partition`. It did if it came after the schedule's tick before: what that tick's
    own run published is what readers had already. Of a partition that is over, a version which was
    made before its end is not the whole one.
    """
    if other >= late:
        return True
    end = partition.ends_at(schedule.timezone)
    return _tick_before(schedule, late) < other and (end <= other or late < end)


def _tick_before(schedule: Schedule, late: dt.datetime) -> dt.datetime:
    """The tick before the one at `late`; `late` itself of a schedule without ticks."""
    if schedule.cron is None:
        return late
    from croniter import croniter  # type: ignore[import-untyped]  # what Airflow reads cron with

    local = late.astimezone(ZoneInfo(schedule.timezone))
    before: dt.datetime = croniter(schedule.cron, local, ret_type=dt.datetime).get_prev()
    return before


def usual_seconds(workspace: Workspace) -> dict[str, list[float]]:
    """Seconds of each step in the newest runs that published, from their reports; may be empty."""
    taken: dict[str, list[float]] = {}
    runs = 0
    for entry in newest_reports(workspace):
        try:
            report = RunReport.model_validate_json(storage.read(entry.uri))
        except ValidationError as error:
            log.info("%s tells nothing of durations: %s", entry.uri, error)
            continue
        if report.state != "published":
            continue  # one that found its version unchanged was quick
        for line in report.steps:
            if line.outcome == "success":
                taken.setdefault(line.step, []).append(line.seconds)
        runs += 1
        if runs == PAST_RUNS:
            break
    return taken


def expected_at(hold: Hold, taken: dict[str, list[float]], now: dt.datetime) -> dt.datetime | None:
    """When the table should be published, if the steps that are left take what they usually do.

    None where no earlier run says, or where the step that runs has taken longer than it does.
    """
    left = _PUBLISHING[_PUBLISHING.index(hold.step) :]
    if any(not taken.get(step) for step in left):
        return None
    seconds = sum(median(taken[step]) for step in left)
    if hold.kind == "running" and hold.since is not None:
        elapsed = (now - hold.since).total_seconds()
        if elapsed > median(taken[hold.step]):
            return None
        seconds -= elapsed
    return now + dt.timedelta(seconds=seconds)


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def listed(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"
