"""plan: fix what the run is. Later steps derive all from its Run and resolve nothing again."""

from __future__ import annotations

import datetime as dt
import hashlib

from include import storage
from include.errors import PermanentError
from include.models.registry import pin_model
from include.overrides import overridden
from include.partition import Partition, partition_for
from include.pipeline import Pipeline, load_named
from include.run import Request, Run
from include.settings import settings
from include.workspace import Workspace, run_id_of
from tasks.step import recorded


def plan(request: Request) -> Run:
    """Resolve the partition, the model version and the configuration of a run.

    Writes the run's `request.json` and `run.json`, the pipeline folder as it stands and the pinned
    model to the workspace. Raises BadConfig for a folder or a parameter that is wrong and
    PermanentError for a date whose partition has not begun or a model that does not exist.
    """
    where = settings()
    run_id = run_id_of(request.invocation.orchestrator, request.invocation.id)
    workspace = Workspace(where.workspace, request.pipeline)
    asked_for = str(request.partition_date or "")
    with recorded("plan", workspace, run_id, asked_for) as recorder:
        storage.write(
            storage.join(workspace.run(run_id), "request.json"),
            request.model_dump_json(indent=2).encode(),
        )
        pipeline = load_named(where.pipelines, request.pipeline)
        partition = partition_of(pipeline, request, dt.datetime.now(dt.UTC))
        pipeline = overridden(pipeline, request)
        model = pin_model(pipeline.config.model, workspace, request.model_version)
        frozen = pipeline.model_dump_json(indent=2).encode()
        run = Run(
            run_id=run_id,
            pipeline=pipeline.name,
            partition=partition,
            timezone=pipeline.config.schedule.timezone,
            workspace=where.workspace,
            pipeline_uri=workspace.config(hashlib.sha256(frozen).hexdigest()),
            config_digest=pipeline.digest,
            model=model,
            planned_at=dt.datetime.now(dt.UTC),
            invocation=request.invocation,
            rescore=request.rescore,
        )
        # Again where it is there already: upkeep takes one that no run has named for old.
        storage.write(run.pipeline_uri, frozen)
        storage.write(
            storage.join(workspace.run(run_id), "run.json"), run.model_dump_json(indent=2).encode()
        )
        recorder.result = run
    return run


def partition_of(pipeline: Pipeline, request: Request, now: dt.datetime) -> Partition:
    """The partition asked for; one that the schedule could not have reached yet is refused."""
    rule, schedule = pipeline.config.partition, pipeline.config.schedule
    partition = partition_for(
        rule.grain,
        rule.lag,
        schedule.timezone,
        explicit=request.partition_date,
        at=request.at,
    )
    newest = partition_for(rule.grain, rule.lag, schedule.timezone, at=now)
    if partition.start > newest.start:
        raise PermanentError(
            f"the partition {partition} lies in the future: the newest that can be scored now is "
            f"{newest}",
            do="pass an earlier date",
        )
    return partition
