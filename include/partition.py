"""Which slice of time a run is for, and the one rule that decides it."""

from __future__ import annotations

import calendar
import datetime as dt
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict

from include.errors import PermanentError

Grain = Literal["day", "week", "month"]


class Partition(BaseModel):
    """One day, ISO week (Monday to Sunday) or calendar month, in the pipeline's time zone.

    `start` is its first day and `end` the day after its last, so that `start <= day < end`.
    It is named by `as_of`, its last day: the date up to which its features are known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grain: Grain
    start: dt.date
    end: dt.date

    @classmethod
    def containing(cls, day: dt.date, grain: Grain) -> Partition:
        if grain == "day":
            start, days = day, 1
        elif grain == "week":
            start, days = day - dt.timedelta(days=day.weekday()), 7
        else:
            start, days = day.replace(day=1), calendar.monthrange(day.year, day.month)[1]
        return cls(grain=grain, start=start, end=start + dt.timedelta(days=days))

    @property
    def as_of(self) -> dt.date:
        return self.end - dt.timedelta(days=1)

    def back(self, count: int) -> Partition:
        """The partition `count` before this one."""
        partition = self
        for _ in range(count):
            partition = Partition.containing(partition.start - dt.timedelta(days=1), self.grain)
        return partition

    def ahead(self, count: int) -> Partition:
        """The partition `count` after this one."""
        partition = self
        for _ in range(count):
            partition = Partition.containing(partition.end, self.grain)
        return partition

    def ends_at(self, zone: str) -> dt.datetime:
        """The instant at which the partition is over: local midnight after its last day."""
        return dt.datetime.combine(self.end, dt.time(), tzinfo=ZoneInfo(zone))

    def __str__(self) -> str:
        return self.as_of.isoformat()


def partition_for(
    grain: Grain,
    lag: int,
    zone: str,
    *,
    explicit: dt.date | None = None,
    at: dt.datetime | None = None,
) -> Partition:
    """The partition of a run.

    `explicit` is a date that a person asked for: the partition that contains it. Otherwise it is
    the partition that contains the local date of `at` (the logical date, or the time after which
    the run may start), less `lag` partitions. The UTC date is never used: at local midnight it
    names another day.
    """
    if explicit is not None:
        return Partition.containing(explicit, grain)
    if at is None or at.tzinfo is None:
        raise PermanentError(
            f"the run has neither a partition date nor a time with a zone (at={at!r})",
            do="pass a partition date",
        )
    local_date = at.astimezone(ZoneInfo(zone)).date()
    return Partition.containing(local_date, grain).back(lag)


def partitions_between(first: dt.date, last: dt.date, grain: Grain) -> list[Partition]:
    """The partitions that contain these days and all between, in order; none if swapped."""
    partition, found = Partition.containing(first, grain), list[Partition]()
    while partition.start <= last:
        found.append(partition)
        partition = partition.ahead(1)
    return found
