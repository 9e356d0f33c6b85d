"""`daybreak check`: everything that can be known of a pipeline folder without running it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daybreak.query import Query, inspect_query
from include.config_errors import nearest
from include.errors import BadConfig, DaybreakError
from include.pipeline import CONFIG, QUERY, SUITE, Pipeline, pipeline_folders, read_pipeline
from include.yaml_lines import Lines, parse_yaml

if TYPE_CHECKING:
    from rich.console import Console

    from include.run import ModelInput


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or with `warning` one that is suspicious; `about` is its kind."""

    about: str
    error: DaybreakError
    warning: bool = False

    def as_json(self) -> dict[str, str]:
        return {
            "about": self.about,
            "severity": "warning" if self.warning else "error",
            "found": self.error.found,
            "where": self.error.where,
            "do": self.error.do,
        }


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
    lines = _lines(folder / CONFIG)
    query = inspect_query(pipeline.sql, pipeline.config.warehouse.kind, str(folder / QUERY))
    checked.columns = query.columns
    checked.problems += [Problem("query", error) for error in query.problems]
    if not query.problems and not query.placeholders:
        checked.problems.append(_no_placeholder(folder))
    checked.problems += _cron(pipeline, folder, lines)
    checked.problems += _suite(pipeline, folder, query)
    checked.expectations = len(pipeline.suite.get("expectations") or [])
    inputs: tuple[ModelInput, ...] = ()
    if not offline:
        checked.problems += _connection(pipeline, folder, lines)
        checked.model, inputs, wrong = _model(pipeline, folder, lines)
        checked.problems += wrong
    if query.columns is not None:
        checked.problems += _columns(pipeline, query.columns, inputs, folder)
    for problem in checked.problems:
        problem.error.located(folder.name)
    return checked


def _no_placeholder(folder: Path) -> Problem:
    error = BadConfig(
        "the query does not depend on the partition: every date gives the same rows",
        where=f"{folder / QUERY}:1",
        do="filter by $as_of, $partition_start or $partition_end, unless that is meant",
    )
    return Problem("query", error, warning=True)


def _cron(pipeline: Pipeline, folder: Path, lines: Lines) -> Iterator[Problem]:
    cron = pipeline.config.schedule.cron
    if cron is None:
        return
    from croniter import croniter  # type: ignore[import-untyped]  # what Airflow reads cron with

    if not croniter.is_valid(cron):
        where = f"{folder / CONFIG}:{lines.get(('schedule', 'cron'), 1)}"
        do = "write minute, hour, day, month and weekday, such as '0 6 * * *'"
        yield Problem(
            "schedule", BadConfig(f"schedule.cron {cron!r} is no cron", where=where, do=do)
        )


def _suite(pipeline: Pipeline, folder: Path, query: Query) -> Iterator[Problem]:
    from include.gates.suite import check_suite
    from include.gates.suite_errors import Place, entries_of, problems_of

    file = str(folder / SUITE)
    lines = _lines(folder / SUITE)
    try:
        entries = entries_of(pipeline.suite, lines, file)
        wrong = [
            problem
            for index, entry in enumerate(entries)
            for problem in problems_of(entry, Place(lines, file, index))
        ]
        if not wrong:
            check_suite(pipeline.suite, query.columns, lines, file)
    except BadConfig as error:
        wrong = [error]
    for problem in wrong:
        yield Problem("suite", problem)


def _connection(pipeline: Pipeline, folder: Path, lines: Lines) -> Iterator[Problem]:
    from include.connections import connection

    warehouse = pipeline.config.warehouse
    where = f"{folder / CONFIG}:{lines.get(('warehouse', 'connection'), 1)}"

    def problem(found: str, do: str) -> Problem:
        return Problem("warehouse", BadConfig(found, where=where, do=do))

    try:
        found = connection(warehouse.connection)
    except BadConfig as error:
        error.where = error.where or where
        yield Problem("warehouse", error)
        return
    if found.kind != warehouse.kind:
        yield problem(
            f"the connection {found.id!r} is of the kind {found.kind!r}, not {warehouse.kind!r}",
            "correct the connection, or warehouse.kind",
        )
    elif warehouse.kind == "duckdb" and not found.path().is_file():
        yield problem(
            f"the connection {found.id!r} names {found.path()}, which is no file",
            "correct the connection's host, or load the warehouse",
        )


def _model(
    pipeline: Pipeline, folder: Path, lines: Lines
) -> tuple[str, tuple[ModelInput, ...], list[Problem]]:
    """What the registry says of the model: its name to show, its inputs, what is wrong."""
    from include.models.registry import model_inputs

    model = pipeline.config.model
    try:
        found, inputs = model_inputs(model.name, model.alias)
    except DaybreakError as error:
        key = "alias" if "has the alias" in error.found else "name"
        line = lines.get(("model", key)) or lines.get(("model",), 1)
        error.where = f"{folder / CONFIG}:{line}"
        return "", (), [Problem("model", error)]
    return f"{found.name} version {found.version} ({found.alias})", inputs, []


def _columns(
    pipeline: Pipeline,
    columns: tuple[str, ...],
    inputs: Sequence[ModelInput],
    folder: Path,
) -> Iterator[Problem]:
    config = pipeline.config
    given = {name.lower() for name in columns}
    freshness = config.gate.freshness
    needed = {
        "of the key": config.key,
        "of predictions.pass_through": config.predictions.pass_through,
        "of gate.freshness": (freshness.column,) if freshness else (),
        "an input of the model": tuple(one.name for one in inputs if one.required),
        "an optional input of the model": tuple(one.name for one in inputs if not one.required),
    }
    where = f"{folder / QUERY}:1"
    for use, names in needed.items():
        for name in names:
            if name.lower() not in given:
                error = BadConfig(
                    f"the query does not select {name!r}, {use}",
                    where=where,
                    do=nearest(name, columns, "columns"),
                )
                yield Problem("query", error, warning="optional" in use)


def _lines(file: Path) -> Lines:
    return parse_yaml(file.read_text("utf-8-sig"), file)[1]


def checked_json(checked: Sequence[Checked], offline: bool) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "ok": all(one.ok for one in checked),
        "offline": offline,
        "pipelines": [one.as_json() for one in checked],
    }


def print_checked(console: Console, checked: Sequence[Checked], offline: bool) -> None:
    """A tree: each pipeline, and below it what was found."""
    from rich.text import Text

    utf8 = console.encoding.lower().startswith("utf")
    good, bad, doubt = ("✓", "✗", "!") if utf8 else ("ok", "!!", "?")
    for one in checked:
        mark = Text(good, "green") if one.ok else Text(bad, "bold red")
        console.print(Text.assemble(mark, " ", (one.name, "bold"), f"  {_described(one)}"))
        for problem in one.problems:
            error = problem.error
            style = "yellow" if problem.warning else "red"
            sign = doubt if problem.warning else bad
            console.print(_hanging("  ", Text(sign, style), Text(error.found)))
            if error.where:
                console.print(Text(f"      {_short(error.where)}", "cyan"), soft_wrap=True)
            if error.do:
                console.print(_hanging("    ", Text("→" if utf8 else ">", "dim"), Text(error.do)))
    errors = sum(not problem.warning for one in checked for problem in one.problems)
    warnings = sum(len(one.problems) for one in checked) - errors
    said = [_plural(len(checked), "pipeline"), _plural(errors, "error")]
    if warnings:
        said.append(_plural(warnings, "warning"))
    console.print()
    console.print(Text(", ".join(said), "bold red" if errors else "bold green"))
    if offline:
        console.print("Not checked with --offline: the registry's models and the connections.")


def _described(one: Checked) -> str:
    if not one.ok:
        return ""
    columns = "columns known to the warehouse only"
    if one.columns is not None:
        columns = _plural(len(one.columns), "column")
    parts = [columns, _plural(one.expectations, "expectation")]
    return ", ".join([*parts, one.model] if one.model else parts)


def _hanging(indent: str, mark: Any, text: Any) -> Any:
    from rich.padding import Padding
    from rich.table import Table

    line = Table.grid(padding=(0, 1))
    line.add_column(no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(mark, text)
    return Padding(line, (0, 0, 0, len(indent)))


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _short(where: str) -> str:
    """A place as `file:line`, which editors open, below the working directory where it can be."""
    return where.removeprefix(f"{Path.cwd()}/")
