"""What a person may ask of one run: the form that Airflow shows when a DAG is triggered."""

from __future__ import annotations

from airflow.sdk import Param

from include.overrides import engines_in_airflow
from include.pipeline import Pipeline

NAMES = ("partition_date", "model_version", "model_alias", "engine", "rescore", "dry_run")


def params_of(pipeline: Pipeline) -> dict[str, Param]:
    """The parameters of a pipeline's DAG, each with its default, in the order of NAMES."""
    config = pipeline.config
    schedule, model, grain = config.schedule, config.model, config.partition.grain
    day = "The day" if grain == "day" else f"Any day of the {grain}"
    return {
        "partition_date": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Partition date",
            description=f"{day} to score. Blank: the one that the schedule would take at the "
            f"logical date above, in {schedule.timezone}. Not in a backfill, whose dates come from "
            "its range.",
        ),
        "model_version": Param(
            None,
            type=["null", "string"],
            title="Model version",
            description=f"A registered version of {model.name}, such as 3. Blank: the version "
            "behind the alias.",
        ),
        "model_alias": Param(
            None,
            type=["null", "string"],
            title="Model alias",
            description="Another alias in MLflow, such as challenger. Blank: the pipeline's own, "
            f"{model.alias}. Not together with a version.",
        ),
        "engine": Param(
            None,
            type=["null", "string"],
            enum=[None, *engines_in_airflow(pipeline)],
            values_display={"null": f"As the pipeline says ({config.engine.kind})"},
            title="Engine",
            description="Where to score this time. The rows are the same on every engine, and a "
            "run that one began may be finished by another.",
        ),
        "rescore": Param(
            "all",
            type="string",
            enum=["missing", "stale", "all"],
            values_display={
                "missing": "Missing: only where the partition has no version",
                "stale": "Stale: also where model or configuration changed since",
                "all": "All: in any case",
            },
            title="Rescore",
            description="When to score at all. With nothing to do, the run is green and the tasks "
            "after plan are skipped. The same rows, model and configuration always give the same "
            "version, which is not published twice.",
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Only say what would be done and why, in the log of the task plan; the "
            "other tasks are skipped.",
        ),
    }
