"""flows/prefect.yaml: what `prefect deploy --all` makes of every pipeline folder.

    python -m flows.deployments            # write it again, after a folder has changed
    python -m flows.deployments --check    # 1 where it is not what the folders say

A pipeline has the deployment `scoring/<name>`, which its schedule runs, one at a time;
`backfill/<name>`, which `daybreak backfill --via prefect` runs from a work queue of its own, so
that the run of the morning never waits behind it; and, where it has a deadline, `deadline/<name>`,
with the automation that starts it. Nothing here imports Prefect: the file is plain text.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from include.config import Schedule
from include.deadlines import next_deadline
from include.errors import DaybreakError
from include.pipeline import Pipeline, load_pipeline, pipeline_folders
from include.settings import PROJECT, settings

FILE = Path(__file__).parent / "prefect.yaml"
POOL = "daybreak"
HEADER = """\
# The deployments of the pipeline folders, written by `python -m flows.deployments`: change a folder
# and write it again. `prefect deploy --all --prefect-file flows/prefect.yaml` takes it as it is.
"""

TICKS = 5_000  # of a schedule that are looked at for how soon a deadline can follow
LEAST_SECONDS = 10  # which Prefect asks of a trigger that waits for something


def prefect_yaml(root: Path) -> str:
    """The file for all the pipeline folders below `root`; raises BadConfig for a broken one."""
    entries = [
        entry
        for folder in pipeline_folders(root)
        for entry in deployments_of(load_pipeline(folder))
    ]
    content = {"pull": [{"flows.deployments.project_of_worker": {}}], "deployments": entries}
    return HEADER + yaml.dump(
        content, Dumper=_Indented, sort_keys=False, allow_unicode=True, width=100
    )


def deployments_of(pipeline: Pipeline) -> list[dict[str, Any]]:
    """The deployments of one pipeline, as prefect.yaml writes them."""
    name, config = pipeline.name, pipeline.config
    schedule = config.schedule
    shared = {
        "version": pipeline.digest[:12],  # of all that shapes the published rows
        "tags": list(config.tags),
        "parameters": {"pipeline": name},
        "enforce_parameter_schema": True,
    }
    scoring: dict[str, Any] = {
        "name": name,
        "entrypoint": "flows.scoring.scoring",
        "description": _description(pipeline),
        **shared,
        "schedules": _schedules(schedule),
        # A run that comes while another is going waits for its end.
        "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
        "work_pool": {"name": POOL, "work_queue_name": "default"},
    }
    backfill = {
        "name": name,
        "entrypoint": "flows.scoring.backfill",
        "description": f"Partitions of {name} that `daybreak backfill --via prefect` asks for.",
        **shared,
        "tags": [*config.tags, "backfill"],
        "schedules": [],
        "work_pool": {"name": POOL, "work_queue_name": "backfill"},
    }
    if schedule.cron is None or schedule.deadline is None:
        return [scoring, backfill]
    deadline = {
        "name": name,
        "entrypoint": "flows.deadline.deadline",
        "description": f"Alarms people where {name} is not published by "
        f"{schedule.deadline:%H:%M} ({schedule.timezone}).",
        **shared,
        "tags": [*config.tags, "deadline"],
        "schedules": [],
        "work_pool": {"name": POOL, "work_queue_name": "deadline"},
        "triggers": [_trigger(name, schedule)],
    }
    return [scoring, backfill, deadline]


def project_of_worker() -> dict[str, str]:
    """A pull step of Prefect: nothing is fetched, the worker's own installation runs.

    Prefect's default names the folder that the deployment was made from, which another machine need
    not have.
    """
    return {"directory": str(PROJECT)}


def _schedules(schedule: Schedule) -> list[dict[str, Any]]:
    if schedule.cron is None:
        return []
    return [{"slug": "cron", "cron": schedule.cron, "timezone": schedule.timezone, "active": True}]


def _trigger(name: str, schedule: Schedule) -> dict[str, Any]:
    """Fires for a run of the schedule that is not Completed the shortest time there can be.

    The flow `deadline` knows the exact instant: where the clocks changed meanwhile, or the schedule
    has several ticks a day, it comes too early and looks again then.
    """
    return {
        "type": "event",
        "name": f"{name}: published by {schedule.deadline:%H:%M}",
        "description": f"Starts deadline/{name} for a scheduled run that has not ended in time.",
        "enabled": True,
        "posture": "Proactive",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "match_related": [
            {"prefect.resource.role": "deployment", "prefect.resource.name": name},
            {"prefect.resource.role": "flow", "prefect.resource.name": "scoring"},
            {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.auto-scheduled"},
        ],
        "for_each": ["prefect.resource.id"],
        "after": ["prefect.flow-run.Pending", "prefect.flow-run.Late"],
        "expect": ["prefect.flow-run.Completed"],
        "threshold": 1,
        "within": _seconds(schedule),
        # `| string`: Prefect makes JSON of the value, which has no UUID.
        "parameters": {"pipeline": name, "flow_run_id": "{{ flow_run.id | string }}"},
    }


def _seconds(schedule: Schedule) -> int:
    """The least that lies between a tick of the cron and its deadline."""
    from croniter import croniter  # type: ignore[import-untyped]

    assert schedule.cron is not None and schedule.deadline is not None
    start = dt.datetime(2024, 1, 1, tzinfo=schedule.zone)
    ticks = croniter(schedule.cron, start, ret_type=dt.datetime, max_years_between_matches=5)
    gaps = (
        next_deadline(tick, schedule.deadline, schedule.timezone) - tick
        for tick in islice(ticks.all_next(), TICKS)
        if tick < start + dt.timedelta(days=366)
    )
    shortest = min(gaps, default=dt.timedelta())
    return max(LEAST_SECONDS, int(shortest.total_seconds()))


def _description(pipeline: Pipeline) -> str:
    config = pipeline.config
    deadline = config.schedule.deadline
    due = f" Due by {deadline:%H:%M} ({config.schedule.timezone})." if deadline else ""
    return f"{config.description}. Owner: {config.owner}.{due}"


class _Indented(yaml.SafeDumper):
    """Lists below their key, indented, as people write them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="flows.deployments", description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, default=FILE, help="instead of flows/prefect.yaml")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where it differs")
    given = parser.parse_args(arguments)
    try:
        wanted = prefect_yaml(settings().pipelines)
    except DaybreakError as error:
        print(error, file=sys.stderr)
        return 2
    found = given.file.read_text("utf-8") if given.file.is_file() else ""
    if given.check:
        if found == wanted:
            return 0
        print(f"{given.file} is not what the pipeline folders say", file=sys.stderr)
        return 1
    given.file.write_text(wanted, "utf-8")
    print(f"wrote {given.file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
