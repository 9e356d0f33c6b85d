"""suite.yaml: the Great Expectations suite of a pipeline, read and checked without any data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from include.config_errors import nearest
from include.errors import BadConfig
from include.gates.suite_errors import Place, entries_of, kinds, made, problems_of, together
from include.run import Severity
from include.yaml_lines import Lines

_COLUMN_KWARGS = ("column", "column_A", "column_B", "column_list")


@dataclass(frozen=True)
class Expected:
    """One entry of suite.yaml, accepted by Great Expectations.

    `columns` are those that must be in the snapshot for it to be evaluated. `by_row` says that it
    judges each row, so that its failing rows are known.
    """

    type: str
    kwargs: dict[str, Any]
    severity: Severity
    note: str
    columns: tuple[str, ...]
    by_row: bool

    @property
    def about_table(self) -> bool:
        """It looks at the table's columns or number of rows, not at values."""
        return not self.columns

    @property
    def label(self) -> str:
        """As people read it: `distance: expect_column_values_to_be_between(min_value=1)`."""
        rest = ", ".join(
            f"{name}={_short(value)}"
            for name, value in self.kwargs.items()
            if name not in _COLUMN_KWARGS or not self.columns
        )
        text = f"{self.type}({rest})"
        return f"{', '.join(self.columns)}: {text}" if self.columns else text


Suite = tuple[Expected, ...]


def load_suite(
    suite: Mapping[str, Any], lines: Lines | None = None, file: str = "suite.yaml"
) -> Suite:
    """The entries of a parsed suite.yaml; raises BadConfig that names everything wrong with it.

    `lines` and `file` (see yaml_lines.py) give each problem its place. A suite without entries is
    fine and does not import Great Expectations.
    """
    entries = entries_of(suite, lines or {}, file)
    accepted: list[Expected] = []
    problems: list[BadConfig] = []
    for index, entry in enumerate(entries):
        place = Place(lines or {}, file, index)
        found = list(problems_of(entry, place))
        problems += found
        if not found:
            accepted.append(_expected(entry))
    if problems:
        raise together(problems)
    return tuple(accepted)


def check_suite(
    suite: Mapping[str, Any],
    columns: Sequence[str] | None = None,
    lines: Lines | None = None,
    file: str = "suite.yaml",
) -> None:
    """Raise BadConfig unless the suite can be run, on a snapshot of `columns` where given."""
    entries = load_suite(suite, lines, file)
    if columns is None:
        return
    problems = [
        BadConfig(
            f"{expected.type} is about {name!r}, which features.sql does not give",
            where=Place(lines or {}, file, index).at("kwargs"),
            do=nearest(name, columns, "columns"),
        )
        for index, expected in enumerate(entries)
        for name in expected.columns
        if name not in columns
    ]
    if problems:
        raise together(problems)


def _expected(entry: dict[str, Any]) -> Expected:
    from great_expectations.expectations import expectation as base

    kwargs = dict(entry.get("kwargs", {}))
    kind = kinds()[entry["type"]]
    columns = [kwargs[name] for name in _COLUMN_KWARGS if name in kwargs]
    if entry["type"].startswith("expect_table_") or entry["type"] == "expect_column_to_exist":
        columns = []  # their arguments name columns that need not be there
    return Expected(
        type=entry["type"],
        kwargs=kwargs,
        severity=entry.get("severity", "critical"),
        note=entry.get("note", ""),
        columns=tuple(
            dict.fromkeys(
                name
                for given in columns
                for name in (given if isinstance(given, list) else [given])
            )
        ),
        by_row=issubclass(
            kind,
            base.ColumnMapExpectation
            | base.ColumnPairMapExpectation
            | base.MulticolumnMapExpectation,
        ),
    )


def instance(expected: Expected, kwargs: Mapping[str, Any]) -> Any:
    """The Great Expectations object of an entry, with these arguments in the place of its own."""
    return made(kinds()[expected.type], kwargs)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
