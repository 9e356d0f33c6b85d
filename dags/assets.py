"""Prediction tables as Airflow assets: what a pipeline waits for, and what it tells others.

The asset of a table is called `daybreak/<pipeline>`, wherever the table lies: a name that is the
same in every deployment never conflicts with itself.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import (
    Asset,
    AssetAlias,
    AssetAll,
    AssetOrTimeSchedule,
    Context,
    CronTriggerTimetable,
)

from include.config import Schedule
from include.run import Published, Run


def table_of(pipeline: str) -> Asset:
    return Asset(f"daybreak/{pipeline}")


def new_versions_of(pipeline: str) -> AssetAlias:
    """The outlet of the task that publishes.

    The asset itself would be updated by every success, also of a run that changed nothing; an
    alias is where Airflow lets a task decide.
    """
    return AssetAlias(f"daybreak/{pipeline}/new-versions")


def announce(context: Context, run: Run, published: Published) -> None:
    """Update the table's asset, with what the version is, if the table moved for this run."""
    from include.new_versions import is_new, news_of

    if is_new(run, published):
        events = context["outlet_events"][new_versions_of(run.pipeline)]
        events.add(table_of(run.pipeline), extra=dict(news_of(run, published)))


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
