"""What `daybreak check` looks at in a folder: schedule, suite, connections, model, columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from daybreak.query import Query
from include.config_errors import nearest
from include.errors import BadConfig, DaybreakError
from include.pipeline import CONFIG, QUERY, SUITE, Pipeline
from include.yaml_lines import Lines, parse_yaml

if TYPE_CHECKING:
    from include.connections import Connection
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


def placeholder_problem(folder: Path) -> Problem:
    error = BadConfig(
        "the query does not depend on the partition: every date gives the same rows",
        where=f"{folder / QUERY}:1",
        do="filter by $as_of, $partition_start or $partition_end, unless that is meant",
    )
    return Problem("query", error, warning=True)


def cron_problems(pipeline: Pipeline, folder: Path, lines: Lines) -> Iterator[Problem]:
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


def suite_problems(pipeline: Pipeline, folder: Path, query: Query) -> Iterator[Problem]:
    from include.gates.suite import check_suite
    from include.gates.suite_errors import Place, entries_of, problems_of

    file = str(folder / SUITE)
    lines = lines_of(folder / SUITE)
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


def connection_problems(pipeline: Pipeline, folder: Path, lines: Lines) -> Iterator[Problem]:
    from include.connections import connection

    config = pipeline.config
    wanted: list[tuple[str, str, str]] = [
        ("warehouse", config.warehouse.kind, config.warehouse.connection)
    ]
    if config.predictions.connection is not None:
        wanted.append(("predictions", config.predictions.kind, config.predictions.connection))
    for section, kind, name in wanted:
        where = f"{folder / CONFIG}:{lines.get((section, 'connection'), 1)}"
        try:
            yield from _usable(connection(name), section, kind, where)
        except BadConfig as error:
            error.where = error.where or where
            yield Problem(section, error)


def engine_problems(pipeline: Pipeline, folder: Path, lines: Lines) -> Iterator[Problem]:
    """What a cluster says of the engine; nothing is asked of this machine's own cores."""
    from daybreak.check_pods import pod_problems
    from include.engine_config import KubernetesEngine

    engine = pipeline.config.engine
    if isinstance(engine, KubernetesEngine):
        for error in pod_problems(engine):
            error.where = error.where or f"{folder / CONFIG}:{lines.get(('engine',), 1)}"
            yield Problem("engine", error)


def _usable(found: Connection, section: str, kind: str, where: str) -> Iterator[Problem]:
    """What is wrong with a connection that is there; BadConfig for what cannot be logged in."""

    def problem(found: str, do: str) -> Problem:
        return Problem(section, BadConfig(found, where=where, do=do))

    if found.kind != kind:
        yield problem(
            f"the connection {found.id!r} is of the kind {found.kind!r}, not {kind!r}",
            f"correct the connection, or {section}.kind",
        )
    elif kind == "snowflake":
        from include.snowflake.credentials import login_of

        login_of(found, query_tag="")
    elif kind == "spark":
        from include.warehouses.spark import master_of, source_of

        master_of(found)
        source_of(found)
    elif kind == "duckdb" and not found.path().is_file():
        yield problem(
            f"the connection {found.id!r} names {found.path()}, which is no file",
            "correct the connection's host, or load the warehouse",
        )


def model_problems(
    pipeline: Pipeline, folder: Path, lines: Lines
) -> tuple[str, tuple[ModelInput, ...], list[Problem]]:
    """What the registry says of the model: its name to show, its inputs, what is wrong."""
    from include.models.registry import model_inputs

    model = pipeline.config.model
    try:
        found, inputs, flavor = model_inputs(model.name, model.alias)
    except DaybreakError as error:
        key = "alias" if "has the alias" in error.found else "name"
        line = lines.get(("model", key)) or lines.get(("model",), 1)
        error.where = f"{folder / CONFIG}:{line}"
        return "", (), [Problem("model", error)]
    shown = f"{found.name} version {found.version} ({found.alias})"
    return shown, inputs, list(_library(pipeline, flavor, f"{folder / CONFIG}:{lines['model',]}"))


def _library(pipeline: Pipeline, flavor: str, where: str) -> Iterator[Problem]:
    """What is not installed here of what the model needs; other engines score elsewhere."""
    from include.scorers import missing_library

    package = missing_library(flavor)
    if package is not None:
        here = pipeline.config.engine.kind == "local"
        place = "here" if here else f"here; the {pipeline.config.engine.kind} workers need it"
        error = BadConfig(
            f"the model is of the flavour {flavor}, and its library is not installed {place}",
            where=where,
            do=f"pip install {package!r}" + ("" if here else " where the parts are scored"),
        )
        yield Problem("model", error, warning=not here)


def column_problems(
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


def lines_of(file: Path) -> Lines:
    return parse_yaml(file.read_text("utf-8-sig"), file)[1]
