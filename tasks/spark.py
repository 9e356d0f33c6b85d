"""spark: what an orchestrator needs that starts the Spark application of the step `score` itself.

Airflow does, as a task of its own, with the driver's lines in that task's log. Whatever becomes of
the application, `score` goes by the receipts that it left.
"""

from __future__ import annotations

from include.engine_config import SparkEngine
from include.errors import DaybreakError
from include.pipeline import planned_pipeline
from include.receipts import forget_failures
from include.run import GateResult, Run, Snapshot, Value
from tasks.score import opened
from tasks.step import step_of


class Application(Value):
    """A job's URI, how many of its parts have no receipt yet, and the engine section as JSON.

    None is missing also where this run was asked to use another engine.
    """

    job: str
    name: str
    missing: int
    engine: SparkEngine | None = None

    @property
    def arguments(self) -> list[str]:
        """Those of `python -m tasks`, the driver."""
        engine = self.engine.model_dump_json(exclude_defaults=True) if self.engine else ""
        return ["score", self.job, "--engine", engine]


def application(run: Run, snapshot: Snapshot, gate: GateResult) -> Application:
    """The application for the parts that have no receipt yet.

    Failures of an earlier attempt are forgotten. What goes wrong is recorded as a failure of
    `score`, whose first half this is.
    """
    try:
        config = planned_pipeline(run).config
        if not isinstance(config.engine, SparkEngine):
            return Application(job="", name="", missing=0)
        job, manifest, finished = opened(run, config, snapshot, gate)
        rest = [part.index for part in manifest.parts if part.index not in finished]
        forget_failures(job, rest)
        name = f"daybreak {job.pipeline} {job.as_of} {job.version}"
        return Application(job=job.uri, name=name, missing=len(rest), engine=config.engine)
    except DaybreakError as error:
        with step_of(run, "score"):
            raise error
