"""When a wall clock next shows a time, whatever the zone does with its clocks meanwhile."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo


def next_deadline(moment: dt.datetime, time: dt.time, timezone: str) -> dt.datetime:
    """The first instant at or after `moment` at which clocks in the zone show `time`, in UTC.

    `moment` has an offset. A time that occurs twice in a night counts each time, so that the first
    one is meant unless `moment` lies behind it. A time that a night leaves out is as long after
    midnight as on any other day (02:30 becomes 03:30), which is what PEP 495 makes of it.
    """
    zone = ZoneInfo(timezone)
    today = moment.astimezone(zone).date()
    instants = []
    for days in (-1, 0, 1):  # a left-out time may move over midnight
        shown = dt.datetime.combine(today + dt.timedelta(days=days), time, tzinfo=zone)
        first, second = (shown.replace(fold=fold).astimezone(dt.UTC) for fold in (0, 1))
        # Of a time that is left out, fold=1 lies before fold=0 and is no reading of any clock.
        instants += [first, second] if second > first else [first]
    return min(instant for instant in instants if instant >= moment)
