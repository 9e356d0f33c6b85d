"""What a Delta table can hold, and how its columns may change from one version to the next."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from include.errors import PermanentError
from include.run import Column

if TYPE_CHECKING:
    from deltalake import Schema

PARTITION_BY = ["as_of", "version"]
_PARTITION_TYPES = {"as_of": "date", "version": "string"}

# Arrow's names of types, as a snapshot's manifest has them, and Delta's.
_TYPES = {
    "int8": "byte",
    "int16": "short",
    "int32": "integer",
    "int64": "long",
    "float": "float",
    "double": "double",
    "bool": "boolean",
    "string": "string",
    "large_string": "string",
    "binary": "binary",
    "large_binary": "binary",
    "date32[day]": "date",
    "timestamp[us]": "timestamp_ntz",
}
_ZONED = re.compile(r"timestamp\[us, tz=.+\]")
_DECIMAL = re.compile(r"decimal(?:32|64|128)?\((\d+), (\d+)\)")

# What to write in features.sql for the types that a warehouse often gives and Delta does not have.
_CASTS = {
    "uint8": "SMALLINT",
    "uint16": "INTEGER",
    "uint32": "BIGINT",
    "uint64": "BIGINT or DECIMAL(20, 0)",
    "halffloat": "REAL",
    "date64[ms]": "DATE",
    "null": "the type that the column is meant to have",
}


def delta_type(column: Column) -> str:
    """Delta's name of a column's type; raises PermanentError, with a cast, where it has none.

    A timestamp with a zone is an instant: it comes back in UTC, whatever its zone was. Large
    strings come back as strings.
    """
    decimal = _DECIMAL.fullmatch(column.type)
    if decimal and int(decimal[1]) <= 38:
        return f"decimal({decimal[1]},{decimal[2]})"
    if _ZONED.fullmatch(column.type):
        return "timestamp"
    if column.type in _TYPES:
        return _TYPES[column.type]
    if column.type.startswith("timestamp"):
        cast = "a timestamp of microseconds (TIMESTAMP or TIMESTAMPTZ in DuckDB)"
    elif column.type.startswith(("time", "duration", "month")):
        cast = "VARCHAR, or to a number of seconds"
    else:
        cast = _CASTS.get(column.type, "VARCHAR")
    raise PermanentError(
        f"the prediction table is Delta, which has no type for the column {column.name} "
        f"({column.type})",
        do=f"cast {column.name} to {cast} in features.sql, or take it out of pass_through",
    )


def delta_types(columns: tuple[Column, ...]) -> dict[str, str]:
    """The table's columns for a version's files, in order: theirs, then the partition columns."""
    types = {column.name: delta_type(column) for column in columns} | _PARTITION_TYPES
    folded: dict[str, str] = {}
    for name in types:
        other = folded.setdefault(name.lower(), name)
        if other != name:
            raise PermanentError(
                f"the columns {other} and {name} differ in case only, and Delta knows them as one",
                do="rename one of them in features.sql",
            )
    return types


def merged(table: dict[str, str], version: dict[str, str]) -> dict[str, str]:
    """The table's columns once it also holds this version's; new ones come last.

    A column that the version lacks stays, and is null in its rows. Raises PermanentError where a
    column has another type than in the table: rows already published cannot change theirs.
    """
    names = {name.lower(): name for name in table}
    changed = []
    for name, kind in version.items():
        known = names.get(name.lower())
        if known is not None and (known, table[known]) != (name, kind):
            changed.append(f"{name} is {kind} here, {known} is {table[known]} in the table")
    if changed:
        raise PermanentError(
            f"the version does not fit the prediction table: {'; '.join(changed)}",
            do="cast the column back in features.sql, give it a new name, or publish to a new "
            "table (predictions.uri)",
        )
    return table | {name: kind for name, kind in version.items() if name not in table}


def types_of(schema: Schema) -> dict[str, str]:
    """The columns of an existing table."""
    return {field.name: str(getattr(field.type, "type", field.type)) for field in schema.fields}


def schema_of(types: dict[str, str]) -> Schema:
    """Delta's schema; every column may be null, since a later version may lack it."""
    from deltalake import Field, Schema
    from deltalake.schema import PrimitiveType

    return Schema([Field(name, PrimitiveType(kind)) for name, kind in types.items()])
