"""What is wrong with a suite.yaml, in the words of its author: file, line, nearest valid name."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from include.config_errors import nearest
from include.errors import BadConfig
from include.gates.gx import import_great_expectations
from include.run import Severity
from include.yaml_lines import Lines

ENTRY_KEYS = ("type", "kwargs", "severity", "note")

# They need a SQL database; the gate holds Parquet and uses pandas.
SQL_ONLY = frozenset(
    {
        "expect_column_values_to_match_like_pattern",
        "expect_column_values_to_match_like_pattern_list",
        "expect_column_values_to_not_match_like_pattern",
        "expect_column_values_to_not_match_like_pattern_list",
        "expect_query_results_to_match_comparison",
        "expect_table_row_count_to_equal_other_table",
        "unexpected_rows_expectation",
    }
)

# Arguments of every expectation that do not say what is expected, and where they belong instead.
_NOT_KWARGS = {
    "severity": "write it beside kwargs",
    "notes": "write `note` beside kwargs",
    "description": "write `note` beside kwargs",
    "meta": "write `note` beside kwargs",
    "id": "remove it",
    "batch_id": "remove it",
    "result_format": "remove it: the gate sets it",
    "catch_exceptions": "remove it: an expectation that raises fails the gate",
    "rendered_content": "remove it",
    "windows": "remove it: windows need GX Cloud",
}
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True)
class Place:
    """Where an entry stands, as exactly as it is known."""

    lines: Lines
    file: str
    index: int

    def at(self, *path: str | int) -> str:
        known: tuple[str | int, ...] = ("expectations", self.index, *path)
        while known and known not in self.lines:
            known = known[:-1]
        if known:
            return f"{self.file}:{self.lines[known]}"
        return f"{self.file}, expectation {self.index + 1}"


def entries_of(suite: Mapping[str, Any], lines: Lines, file: str) -> list[Any]:
    for key in suite:
        if key != "expectations":
            raise BadConfig(
                f"unknown key {key!r}",
                where=f"{file}:{lines.get((key,), 1)}",
                do=nearest(key, ["expectations"], "keys"),
            )
    if "expectations" not in suite:
        raise BadConfig(
            "the key 'expectations' is missing",
            where=f"{file}:1",
            do="write `expectations:` and a list below it, or `expectations: []`",
        )
    entries = suite["expectations"]
    if not isinstance(entries, list):
        raise BadConfig(
            "expectations is no list",
            where=f"{file}:{lines.get(('expectations',), 1)}",
            do="start each expectation with `- type: …`, or write `expectations: []`",
        )
    return entries


def problems_of(entry: Any, place: Place) -> Iterator[BadConfig]:
    """Everything that is wrong with one entry."""
    if not isinstance(entry, dict):
        yield BadConfig(
            f"an expectation is a block of keys, not {entry!r}",
            where=place.at(),
            do="write `type: …` and `kwargs: {…}`",
        )
        return
    for key in entry:
        if key not in ENTRY_KEYS:
            yield BadConfig(
                f"unknown key {key!r}", where=place.at(key), do=nearest(key, ENTRY_KEYS, "keys")
            )
    severity = entry.get("severity", "critical")
    if severity not in get_args(Severity):
        yield BadConfig(
            f"unknown severity {severity!r}",
            where=place.at("severity"),
            do=nearest(str(severity), get_args(Severity), "severities"),
        )
    if not isinstance(entry.get("note", ""), str):
        yield BadConfig(
            f"note is text, not {entry['note']!r}", where=place.at("note"), do="put it in quotes"
        )
    kind = entry.get("type")
    if not isinstance(kind, str):
        yield BadConfig(
            "an expectation has no type",
            where=place.at(),
            do="write `type: expect_column_values_to_be_between`, or another",
        )
        return
    known = kinds()
    if kind not in known or kind in SQL_ONLY:
        # People paste class names too: ExpectColumnToExist is expect_column_to_exist.
        snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower()
        usable = sorted(known.keys() - SQL_ONLY)
        close = difflib.get_close_matches(snake, usable, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        found = "runs only in SQL databases" if kind in SQL_ONLY else "is no known expectation"
        yield BadConfig(
            f"{kind!r} {found}",
            where=place.at("type"),
            do=f"{hint}All types: https://greatexpectations.io/expectations",
        )
        return
    kwargs = entry.get("kwargs", {})
    if not isinstance(kwargs, dict):
        yield BadConfig(
            f"kwargs is a block of arguments, not {kwargs!r}",
            where=place.at("kwargs"),
            do="write `kwargs: {column: …}`",
        )
        return
    yield from _kwargs_problems(known[kind], kind, kwargs, place)


def _kwargs_problems(
    kind: Any, name: str, kwargs: dict[str, Any], place: Place
) -> Iterator[BadConfig]:
    from great_expectations.compatibility import pydantic

    own = sorted(kind.__fields__.keys() - _NOT_KWARGS.keys())
    for key in kwargs:
        where = place.at("kwargs", key)
        if key in _NOT_KWARGS:
            yield BadConfig(f"{key!r} does not belong in kwargs", where=where, do=_NOT_KWARGS[key])
        elif key not in own:
            yield BadConfig(
                f"{name} takes no {key!r}", where=where, do=nearest(key, own, "arguments")
            )
        elif "$PARAMETER" in str(kwargs[key]):
            yield BadConfig(
                f"{key} holds a suite parameter", where=where, do="write the value itself"
            )
    if kwargs.keys() - set(own):
        return  # what the class would say of the rest is said once the names are right
    try:
        made(kind, kwargs)
    except pydantic.ValidationError as error:
        messages: dict[str, list[str]] = {}
        for detail in error.errors():
            key = str(detail["loc"][0]) if detail["loc"] else "__root__"
            messages.setdefault(key, []).append(detail["msg"])
        if len(messages) > 1:
            messages.pop("__root__", None)  # a rule between arguments, of which one was unreadable
        for key, said in messages.items():
            # Every argument may be a suite parameter, a dict: no news to who wrote something else.
            told = [text for text in said if text != "value is not a valid dict"] or said
            subject = name if key == "__root__" else f"{name}: {key}"
            yield BadConfig(
                f"{subject}: {' or '.join(dict.fromkeys(told))}",
                where=place.at("kwargs", key),
                do="correct kwargs" if key == "__root__" else f"correct or add {key}",
            )
        return
    yield from _late_problems(name, kwargs, place)


def _late_problems(name: str, kwargs: dict[str, Any], place: Place) -> Iterator[BadConfig]:
    """What Great Expectations would find out only in the night, or not at all."""
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    # Texts are dates here, and ISO dates sort as texts; a date and a number do not compare.
    if (isinstance(low, int | float) and isinstance(high, int | float) and low > high) or (
        isinstance(low, str) and isinstance(high, str) and low > high
    ):
        yield BadConfig(
            f"{name}: min_value ({low}) is above max_value ({high})",
            where=place.at("kwargs", "min_value"),
            do="exchange them",
        )
    patterns = kwargs.get("regex_list", [kwargs["regex"]] if "regex" in kwargs else [])
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            yield BadConfig(
                f"{name}: {pattern!r} is no regular expression: {error}",
                where=place.at("kwargs", "regex" if "regex" in kwargs else "regex_list"),
                do="correct it",
            )
    ranges = kwargs.get("quantile_ranges")
    if ranges and len(ranges["quantiles"]) != len(ranges["value_ranges"]):
        yield BadConfig(
            f"{name}: {len(ranges['quantiles'])} quantiles have "
            f"{len(ranges['value_ranges'])} value_ranges",
            where=place.at("kwargs", "quantile_ranges"),
            do="write one range, or [null, null], a quantile",
        )


def made(kind: Any, kwargs: Mapping[str, Any]) -> Any:
    """The expectation of this class with these arguments; raises GE's pydantic ValidationError."""
    # A bound that is a plain day reaches pandas as a `date`, which it refuses to compare with the
    # timestamps of a date column; with its midnight it is a `datetime`, which works.
    given = {
        name: f"{value}T00:00:00"
        if name in ("min_value", "max_value") and isinstance(value, str) and _DAY.fullmatch(value)
        else value
        for name, value in kwargs.items()
    }
    with warnings.catch_warnings():
        # A row_condition of text is deprecated for SQL; for pandas it is the only short form.
        warnings.simplefilter("ignore", DeprecationWarning)
        return kind(**given)


def kinds() -> dict[str, Any]:
    """Every expectation that Great Expectations comes with, by name."""
    import_great_expectations()
    from great_expectations.expectations import core
    from great_expectations.expectations.expectation import Expectation

    classes: list[Any] = [kind for kind in vars(core).values() if isinstance(kind, type)]
    return {kind.expectation_type: kind for kind in classes if issubclass(kind, Expectation)}


def together(problems: list[BadConfig]) -> BadConfig:
    """One error that says all of them: a suite is mended once, not once a line."""
    first, *others = problems
    if not others:
        return first
    said = "; ".join(f"{one.found} ({one.where}), {one.do}" for one in problems)
    return BadConfig(
        f"{len(problems)} problems: {said}",
        where=first.where.rpartition(":")[0] or "suite.yaml",
        do="mend them all",
    )
