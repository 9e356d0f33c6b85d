"""preview: what a run would do, and why, without doing any of it."""

from __future__ import annotations

import datetime as dt
import json
import logging

from pydantic import computed_field

from include.errors import DaybreakError
from include.models.registry import find_model
from include.overrides import overridden
from include.partition import Partition
from include.partition_states import State, partition_states, to_run
from include.past_runs import past_runs, usual
from include.pipeline import load_named
from include.run import Request, Rescore, Value
from include.settings import settings, silence_telemetry
from include.stores import open_store
from include.workspace import Workspace
from tasks.plan import partition_of

log = logging.getLogger("daybreak")


class Preview(Value):
    """What would become of a request. `runs` says whether there is anything to do, and `why`.

    `state` and `version` are of what readers have. `model_version` and `engine` are what would
    score; `rows` and `seconds` are what a run usually takes, None where no run of the past says it.
    """

    pipeline: str
    partition: Partition
    runs: bool
    why: str
    dry_run: bool
    rescore: Rescore
    state: State
    version: str | None
    model_version: str
    engine: str
    rows: int | None = None
    seconds: float | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ends_here(self) -> bool:
        """Whether the run does nothing after this."""
        return self.dry_run or not self.runs

    @computed_field  # type: ignore[prop-decorator]
    @property
    def says(self) -> str:
        return str(self)

    def __str__(self) -> str:
        would = "would score" if self.dry_run else "scores"
        if not self.runs:
            done = f"nothing to do for {self.partition} with rescore: {self.rescore}"
            return f"{done}: {self.why}"
        takes = ""
        if self.rows is not None and self.seconds is not None:
            takes = f", usually {self.rows:,} rows in {self.seconds:.0f} s"
        said = f"{would} {self.partition} with model version {self.model_version} on the "
        return f"{said}{self.engine} engine{takes}: {self.why}"


def preview(request: Request) -> Preview:
    """What `request` comes to. Writes nothing; raises what `plan` would for a wrong request.

    Whether the warehouse's rows changed is known only by extracting them: a partition is `stale`
    by its model, its configuration, or rows that an earlier run found.
    """
    silence_telemetry()
    where = settings()
    try:
        pipeline = load_named(where.pipelines, request.pipeline)
        partition = partition_of(pipeline, request, dt.datetime.now(dt.UTC))
        pipeline = overridden(pipeline, request)
        config = pipeline.config
        model = find_model(config.model.name, config.model.alias, request.model_version)
        workspace = Workspace(where.workspace, pipeline.name)
        store = open_store(config.predictions, workspace.predictions())
        runs = past_runs(workspace, config)
        (state,) = partition_states(pipeline, workspace, store, [partition], runs, model)
        taken = usual(workspace, (run for each in runs.values() for run in each))
    except DaybreakError as error:
        raise error.located(request.pipeline, str(request.partition_date or "")) from None
    wanted, why = to_run(state, request.rescore)
    found = Preview(
        pipeline=pipeline.name,
        partition=partition,
        runs=wanted,
        why=why,
        dry_run=request.dry_run,
        rescore=request.rescore,
        state=state.state,
        version=state.version,
        model_version=model.version,
        engine=config.engine.kind,
        rows=taken.rows if taken else None,
        seconds=taken.seconds if taken else None,
    )
    log.info(json.dumps({"step": "preview", "pipeline": pipeline.name, "says": str(found)}))
    return found
