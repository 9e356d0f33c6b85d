"""The tables of a pipeline's predictions in Snowflake: names, columns, and what set-up creates.

    <table>_CURRENT   a view: the rows that readers see
    <table>_ROWS      the rows of every committed version, with AS_OF and VERSION
    <table>_POINTER   one row a date: its current version
    <table>_HISTORY   append-only: manifests, commits and deletions, as JSON in RECORD
    <table>_LOCK      one row: the counter that every writer raises first
    <table>_STAGE     where parts lie between their upload and their load

Columns are stored in upper case, so that SQL needs no quotes; readers through Daybreak get them
back as they were.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.errors import PermanentError
from include.run import Column
from include.snowflake.session import Field

if TYPE_CHECKING:
    import pyarrow as pa

# What to do where a statement finds no table.
SET_UP = "let `daybreak init` of this pipeline create its tables"

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
# Arrow's names of types, as a snapshot's manifest has them, and what holds them in Snowflake.
_TYPES = {
    **dict.fromkeys(_INTEGERS, "NUMBER(19, 0)"),
    "uint64": "NUMBER(20, 0)",
    "float": "FLOAT",
    "double": "FLOAT",
    "bool": "BOOLEAN",
    "string": "VARCHAR",
    "large_string": "VARCHAR",
    "binary": "BINARY",
    "large_binary": "BINARY",
    "date32[day]": "DATE",
    "timestamp[us]": "TIMESTAMP_NTZ(6)",
}
_ZONED = re.compile(r"timestamp\[us, tz=.+\]")
_DECIMAL = re.compile(r"decimal(?:32|64|128)?\((\d+), (\d+)\)")
_NUMBER = re.compile(r"NUMBER\((\d+), (\d+)\)")
# What the connector calls a column of these types.
_KINDS = {"FLOAT": "REAL", "VARCHAR": "TEXT"}


@dataclass(frozen=True)
class Names:
    """The objects of one table, each with the database and the schema that the table names."""

    table: str

    @property
    def current(self) -> str:
        return f"{self.table}_CURRENT"

    @property
    def rows(self) -> str:
        return f"{self.table}_ROWS"

    @property
    def pointer(self) -> str:
        return f"{self.table}_POINTER"

    @property
    def history(self) -> str:
        return f"{self.table}_HISTORY"

    @property
    def lock(self) -> str:
        return f"{self.table}_LOCK"

    @property
    def stage(self) -> str:
        return f"{self.table}_STAGE"


def quoted(name: str) -> str:
    """A column's name in a statement; configuration has checked that it is a plain identifier."""
    return f'"{name.upper()}"'


def snowflake_type(column: Column) -> str:
    """The type that holds a column; raises PermanentError, with a cast, where there is none.

    A timestamp with a zone is an instant: it comes back in UTC, whatever its zone was.
    """
    decimal = _DECIMAL.fullmatch(column.type)
    if decimal and int(decimal[1]) <= 38:
        return f"NUMBER({decimal[1]}, {decimal[2]})"
    if _ZONED.fullmatch(column.type):
        return "TIMESTAMP_TZ(6)"
    if column.type in _TYPES:
        return _TYPES[column.type]
    if column.type.startswith("timestamp"):
        cast = "a timestamp of microseconds"
    elif column.type.startswith(("time", "duration", "month")):
        cast = "VARCHAR, or to a number of seconds"
    else:
        cast = "the type that the column is meant to have" if column.type == "null" else "VARCHAR"
    raise PermanentError(
        f"the prediction table in Snowflake has no type for the column {column.name} "
        f"({column.type})",
        do=f"cast {column.name} to {cast} in features.sql, or take it out of pass_through",
    )


def arrow_type(column: Column) -> pa.DataType:
    """The type in which a stored column is read: the one that it was written from."""
    import pyarrow as pa

    decimal = _DECIMAL.fullmatch(column.type)
    if decimal:
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    if _ZONED.fullmatch(column.type):
        return pa.timestamp("us", tz="UTC")
    return pa.type_for_alias(column.type.removeprefix("large_").removesuffix("[day]"))


def require_one_case(columns: Sequence[Column]) -> None:
    """Raise where two columns differ in case only: stored in upper case they would be one."""
    folded: dict[str, str] = {}
    for column in columns:
        other = folded.setdefault(column.name.upper(), column.name)
        if other != column.name:
            raise PermanentError(
                f"the columns {other} and {column.name} differ in case only, and the prediction "
                "table in Snowflake knows them as one",
                do="rename one of them in features.sql",
            )


def require_fit(names: Names, stored: Sequence[Field], columns: Sequence[Column]) -> None:
    """Raise PermanentError where the table lacks a column, or has it with another type."""
    there = {field.name: field for field in stored}
    lacking = [column.name for column in columns if column.name.upper() not in there]
    if lacking:
        raise PermanentError(
            f"{names.rows} has no column {', '.join(lacking)}",
            do="let `daybreak init` of this pipeline add it; it changes no row",
        )
    changed = []
    for column in columns:
        field, kind = there[column.name.upper()], snowflake_type(column)
        if not _holds(field, kind):
            has = f"{field.kind}({field.precision}, {field.scale})"
            is_ = has if field.kind == "FIXED" else field.kind
            changed.append(f"{column.name} is {kind} here and {is_} in the table")
    if changed:
        raise PermanentError(
            f"the version does not fit {names.rows}: {'; '.join(changed)}",
            do="cast the column back in features.sql, give it a new name, or publish to a new "
            "table (predictions.table)",
        )


def _holds(field: Field, kind: str) -> bool:
    number = _NUMBER.fullmatch(kind)
    if number is None:
        return field.kind == _KINDS.get(kind, kind.partition("(")[0])
    return (
        field.kind == "FIXED"
        and field.scale == int(number[2])
        and (field.precision or 38) >= int(number[1])
    )
