"""What consumers of a table are told: each new version once, and what it is."""

from __future__ import annotations

from include.pipeline import planned_pipeline
from include.run import Published, Run
from include.stores import open_store
from include.workspace import Workspace


def is_new(run: Run, published: Published) -> bool:
    """Whether the table moved to the version for this run.

    Also where the attempt that moved it was killed before it could say so: its repeat finds the
    version `unchanged`, but committed since the run was planned.
    """
    if published.outcome == "published":
        return True
    predictions = planned_pipeline(run).config.predictions
    store = open_store(predictions, Workspace(run.workspace, run.pipeline).predictions())
    current = store.current(run.partition.as_of)
    return (
        current is not None
        and current.version == published.version
        and current.committed_at >= run.planned_at
    )


def news_of(run: Run, published: Published) -> dict[str, str | int]:
    """The version as plain values, for an event that other pipelines read."""
    return {
        "pipeline": run.pipeline,
        "as_of": run.partition.as_of.isoformat(),
        "version": published.version,
        "outcome": "published",
        "rows": published.rows,
        "table": published.table,
        "model": run.model.name,
        "model_version": run.model.version,
        "run_id": run.run_id,
    }
