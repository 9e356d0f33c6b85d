"""The versions of a partition, as the prediction table knows them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.partition import Partition
from include.pipeline import Pipeline, load_named
from include.settings import settings
from include.stores import Store, Version, open_store
from include.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class PredictionTable:
    """A pipeline and its table."""

    pipeline: Pipeline
    uri: str
    store: Store

    def as_of(self, day: dt.date) -> dt.date:
        """The date that names the partition of `day`."""
        return Partition.containing(day, self.pipeline.config.partition.grain).as_of


def table_of(name: str) -> PredictionTable:
    """The prediction table of the pipeline `name`; raises BadConfig for an unknown one."""
    where = settings()
    pipeline = load_named(where.pipelines, name)
    uri = Workspace(where.workspace, name).predictions()
    store = open_store(pipeline.config.predictions, uri)
    return PredictionTable(pipeline, pipeline.config.predictions.uri or uri, store)


def versions_json(name: str, as_of: dt.date, versions: list[Version]) -> dict[str, Any]:
    return {
        "pipeline": name,
        "as_of": as_of.isoformat(),
        "versions": [version.model_dump(mode="json") for version in versions],
    }


def versions_table(versions: list[Version]) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("")
    for name in ("version", "committed (UTC)", "model", "run"):
        table.add_column(name, no_wrap=name != "run", overflow="fold")
    table.add_column("rows", justify="right")
    for version in versions:
        committed = version.committed_at.astimezone(dt.UTC)
        table.add_row(
            "current" if version.current else "",
            version.version,
            committed.strftime("%Y-%m-%d %H:%M:%S"),
            version.model_version,
            version.run_id,
            f"{version.rows:,}",
            style="bold" if version.current else "",
        )
    return table
