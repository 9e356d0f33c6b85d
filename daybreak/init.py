"""`daybreak init`: create what a pipeline's prediction table needs before its first version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.errors import PermanentError
from include.partition import Partition
from include.pipeline import Pipeline, load_named
from include.run import Column
from include.scoring import scored_columns
from include.settings import settings
from include.stores import SetUp, open_store
from include.warehouses import open_warehouse
from include.workspace import Workspace
from tasks.extract import parameters

if TYPE_CHECKING:
    from rich.console import Console


def init_command(name: str, dry_run: bool, out: Console | None) -> dict[str, Any]:
    """Set a pipeline's table up; what `--json` prints. What was done is printed to `out`, if any.

    Running it again adds the columns that the query has since.
    """
    where = settings()
    pipeline = load_named(where.pipelines, name)
    predictions = pipeline.config.predictions
    done = SetUp()
    if predictions.kind != "delta":
        store = open_store(predictions, Workspace(where.workspace, name).predictions())
        done = store.set_up(_columns(pipeline), run=not dry_run)
    if out is not None:
        _print(out, name, done, dry_run)
    return {
        "schema_version": 1,
        "pipeline": name,
        "kind": predictions.kind,
        "table": predictions.table,
        "dry_run": dry_run,
        **done.model_dump(mode="json"),
    }


def _print(out: Console, name: str, done: SetUp, dry_run: bool) -> None:
    if not done.statements:
        out.print(f"{name} publishes to Delta, which needs no set-up.", highlight=False)
    elif dry_run:
        for statement in done.statements:
            out.out(f"{statement};", highlight=False)
    else:
        out.print(f"The tables of {name} are there.", highlight=False)
        for statement in done.left_out:
            out.out(f"Left out, since this server has no such statement: {statement}")


def _columns(pipeline: Pipeline) -> tuple[Column, ...]:
    """The columns of the table, in the types that the warehouse gives; no row is read for it."""
    config = pipeline.config
    some = Partition.containing(config.schedule.start_date, config.partition.grain)
    query = pipeline.sql.rstrip().rstrip(";")
    with open_warehouse(config.warehouse) as warehouse:
        schema = warehouse.read(
            f"SELECT * FROM (\n{query}\n) AS features WHERE 1 = 0",  # noqa: S608
            parameters(some),
            config.key,
        ).schema
    source = [Column(name=field.name, type=str(field.type)) for field in schema]
    kept = config.predictions.pass_through
    missing = sorted(set(kept) - set(schema.names))
    if missing:
        raise PermanentError(
            f"the query does not select {', '.join(missing)}, of predictions.pass_through",
            where=f"{pipeline.name}/features.sql",
            do=f"add it to its SELECT list, which has {', '.join(schema.names)}",
        )
    return scored_columns(config.key, kept, config.predictions.score_column, source)
