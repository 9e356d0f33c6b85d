"""What a person may ask of one run: the form that Airflow shows when a DAG is triggered."""

from __future__ import annotations

from airflow.sdk import Param

from include.overrides import engines_in_airflow
from include.pipeline import Pipeline

NAMES = ("partition_date", "model_version", "model_alias", "engine", "rescore", "dry_run")


def params_of(pipeline: Pipeline) -> dict[str, Param]:
    """The parameters of a pipeline's DAG, each with its default, in the order of NAMES."""
    return {
        "partition_date": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Partition date",
            description="Any day of the partition to score. Blank: the date of the run in the "
            "pipeline's time zone, less its lag. Not in a backfill: its dates come from its range.",
        ),
        "model_version": Param(
            None,
            type=["null", "string"],
            title="Model version",
            description="A registered version, such as 3. Blank: the version behind the alias.",
        ),
        "model_alias": Param(
            None,
            type=["null", "string"],
            title="Model alias",
            description="An alias in MLflow, such as challenger, to take the version behind it. "
            "Blank: the pipeline's own. Not together with a version.",
        ),
        "engine": Param(
            None,
            type=["null", "string"],
            enum=[None, *engines_in_airflow(pipeline)],
            title="Engine",
            description="Where to score this time. Blank: as the pipeline says. The rows are the "
            "same on every engine, and a run that one began may be finished by another.",
        ),
        "rescore": Param(
            "all",
            type="string",
            enum=["missing", "stale", "all"],
            title="Rescore",
            description="missing: only a partition without a version. stale: also one that a run "
            "would make anew (newer model, other configuration). all: in any case; the same rows, "
            "model and configuration still give the same version. With nothing to do, the run is "
            "green and its other tasks are skipped.",
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Say in the log and the result of the task plan what would be done and "
            "why, and do nothing: the other tasks are skipped.",
        ),
    }
