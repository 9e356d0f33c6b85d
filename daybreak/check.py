"""`daybreak check`: everything that can be known of a pipeline folder without running it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daybreak.check_parts import (
    Problem,
    column_problems,
    connection_problems,
    cron_problems,
    engine_problems,
    lines_of,
    model_problems,
    placeholder_problem,
    suite_problems,
)
from daybreak.query import inspect_query
from include.config_errors import nearest
from include.errors import BadConfig
from include.pipeline import CONFIG, QUERY, pipeline_folders, read_pipeline

if TYPE_CHECKING:
    from include.run import ModelInput


@dataclass
class Checked:
    """What is known of one pipeline; `columns` is None where only the warehouse can tell them."""

    name: str
    folder: Path
    problems: list[Problem] = field(default_factory=list)
    columns: tuple[str, ...] | None = None
    expectations: int = 0
    model: str = ""

    @property
    def ok(self) -> bool:
        return all(problem.warning for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        return {
            "pipeline": self.name,
            "ok": self.ok,
            "columns": list(self.columns) if self.columns is not None else None,
            "model": self.model or None,
            "problems": [problem.as_json() for problem in self.problems],
        }


def check_all(
    root: Path,
    names: Sequence[str] = (),
    offline: bool = False,
    began: Callable[[str], None] = lambda name: None,
) -> list[Checked]:
    """Check the pipelines `names` under `root`, or all of them; `began` is told each name.

    Raises BadConfig for a name that is none, and where there is no pipeline at all.
    """
    folders = {folder.name: folder for folder in pipeline_folders(root)}
    for name in names:
        if name not in folders:
            raise BadConfig(
                f"there is no pipeline {name!r} in {root}", do=nearest(name, folders, "pipelines")
            )
    if not folders:
        raise BadConfig(f"there is no pipeline in {root}", do="add a folder with its three files")
    checked = []
    for name in names or folders:
        began(name)
        checked.append(check_folder(folders[name], offline))
    return checked


def check_folder(folder: Path, offline: bool = False) -> Checked:
    """Check one folder; what needs a file that is broken already is left out."""
    checked = Checked(folder.name, folder)
    pipeline, broken = read_pipeline(folder)
    checked.problems += [Problem("files", error) for error in broken]
    if pipeline is None:
        return checked
    lines = lines_of(folder / CONFIG)
    query = inspect_query(pipeline.sql, pipeline.config.warehouse.kind, str(folder / QUERY))
    checked.columns = query.columns
    checked.problems += [Problem("query", error) for error in query.problems]
    if not query.problems and not query.placeholders:
        checked.problems.append(placeholder_problem(folder))
    checked.problems += cron_problems(pipeline, folder, lines)
    checked.problems += suite_problems(pipeline, folder, query)
    checked.expectations = len(pipeline.suite.get("expectations") or [])
    inputs: tuple[ModelInput, ...] = ()
    if not offline:
        checked.problems += connection_problems(pipeline, folder, lines)
        checked.problems += engine_problems(pipeline, folder, lines)
        checked.model, inputs, wrong = model_problems(pipeline, folder, lines)
        checked.problems += wrong
    if query.columns is not None:
        checked.problems += column_problems(pipeline, query.columns, inputs, folder)
    for problem in checked.problems:
        problem.error.located(folder.name)
    return checked


def checked_json(checked: Sequence[Checked], offline: bool) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "ok": all(one.ok for one in checked),
        "offline": offline,
        "pipelines": [one.as_json() for one in checked],
    }
