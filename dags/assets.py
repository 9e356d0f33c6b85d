"""Prediction tables as Airflow assets: what a pipeline waits for, and what it tells others.

The asset of a table is called `daybreak/<pipeline>`, wherever the table lies: a name that is the
same in every deployment never conflicts with itself.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import (
    Asset,
    AssetAll,
    AssetOrTimeSchedule,
    Context,
    CronTriggerTimetable,
)
from airflow.sdk.exceptions import AirflowSkipException

from include.config import Schedule
from include.run import Published, Run


def table_of(pipeline: str) -> Asset:
    return Asset(f"daybreak/{pipeline}")


def announce(context: Context, run: Run, published: Published) -> None:
    """Update the table's asset, with what the version is; skip where the run changed nothing.

    A task of its own, since every success of a task updates its outlets. An alias would let the
    publishing task decide, but the first updates of an asset through one fail each other where two
    runs publish at the same moment, and Airflow then fails a task whose work is done.
    """
    from include.new_versions import is_new, news_of

    if not is_new(run, published):
        raise AirflowSkipException(
            f"readers had version {published.version} of {run.partition} before: no news"
        )
    context["outlet_events"][table_of(run.pipeline)].extra = dict(news_of(run, published))


def schedule_of(schedule: Schedule) -> Any:
    """What starts the DAG's runs: ticks, all of the assets, either, or only a person."""
    cron = (
        CronTriggerTimetable(schedule.cron, timezone=schedule.timezone) if schedule.cron else None
    )
    # References: whoever makes an asset says what it is, and it may not be there yet.
    assets = [
        Asset.ref(uri=asset) if "://" in asset else Asset.ref(name=asset)
        for asset in schedule.assets
    ]
    if cron is not None and assets:
        return AssetOrTimeSchedule(timetable=cron, assets=AssetAll(*assets))
    return assets or cron
