"""A Snowflake account as a warehouse: values bound by the server, rows streamed as Arrow.

Names: Snowflake stores a name that is not quoted in upper case. Such a column arrives in lower
case, so that the same pipeline runs on other warehouses; a column that the query names in double
quotes arrives as it is written there, and so does one with a lower-case letter in it.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.connections import Connection
from include.errors import PermanentError
from include.snowflake.session import Field, Session
from include.warehouses.statement import tokens_of

if TYPE_CHECKING:
    import pyarrow as pa

_WHERE = "features.sql"
_MARKER = "?"
# What a calendar date is to Python, in days from 1970 on, and a day in microseconds.
_FIRST_DAY, _LAST_DAY = (day.toordinal() - 719_163 for day in (dt.date.min, dt.date.max))
_DAY = 86_400_000_000


@dataclass(frozen=True)
class Statement:
    """A query as the server takes it: a `?` for each of `values`; `quoted` are its quoted names."""

    text: str
    values: tuple[dt.date, ...]
    quoted: frozenset[str]


class SnowflakeWarehouse:
    """Reads with one session."""

    def __init__(self, connection: Connection) -> None:
        self._session = Session(connection, query_tag="daybreak extract")
        self._results = ExitStack()

    def read(
        self, sql: str, params: Mapping[str, dt.date], order_by: Sequence[str]
    ) -> pa.RecordBatchReader:
        import pyarrow as pa

        query = bound(sql, params)
        described = self._session.describe(query.text, query.values, where=_WHERE)
        stored = [field.name for field in described]
        names = arriving_names(stored, query.quoted)
        keys = [_stored_name(stored, names, key) for key in order_by]
        # The query keeps its own lines, so that an error's line is features.sql's line. What is
        # formatted here are names that Snowflake itself gave.
        ordered = ", ".join('"' + key.replace('"', '""') + '"' for key in keys)
        text = f"SELECT * FROM ({query.text}\n) ORDER BY {ordered}"  # noqa: S608
        fields, tables = self._results.enter_context(
            self._session.arrow(text, query.values, where=_WHERE)
        )
        schema = pa.schema(
            [(name, arrow_type(field)) for name, field in zip(names, fields, strict=True)]
        )
        return pa.RecordBatchReader.from_batches(schema, _batches(tables, schema))

    def close(self) -> None:
        self._results.close()
        self._session.close()

    def __enter__(self) -> SnowflakeWarehouse:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def connect(connection: Connection) -> SnowflakeWarehouse:
    return SnowflakeWarehouse(connection)


def bound(sql: str, params: Mapping[str, dt.date]) -> Statement:
    """The query with a `?` in the place of each `$name`; strings and comments stay as they are.

    Raises PermanentError for a name that is not in `params`, for a `?` of the query's own, and for
    more than one statement.
    """
    tokens, end = tokens_of(sql, "snowflake", _WHERE)
    if any(token.token_type.name == "PLACEHOLDER" for token in tokens):
        raise _refused("nothing is bound to '?' in the query", f"use only ${', $'.join(params)}")
    pieces: list[str] = []
    values: list[dt.date] = []
    unknown: list[str] = []
    position = 0
    for sign, name in itertools.pairwise(tokens):
        adjacent = sign.end + 1 == name.start
        if sign.token_type.name != "PARAMETER" or not (adjacent and name.text.isidentifier()):
            continue
        if name.text not in params:
            unknown.append(name.text)
            continue
        pieces += [sql[position : sign.start], _MARKER]
        values.append(params[name.text])
        position = name.end + 1
    if unknown:
        raise _refused(
            f"the query asks for ${', $'.join(sorted(set(unknown)))}",
            f"use only ${', $'.join(params)}",
        )
    quoted = (token.text for token in tokens if token.token_type.name == "IDENTIFIER")
    return Statement("".join(pieces) + sql[position:end], tuple(values), frozenset(quoted))


def arriving_names(stored: Sequence[str], quoted: frozenset[str]) -> list[str]:
    """The names of a query's columns as pipelines know them; see the module for the rule."""
    names = [name.lower() if name.isupper() and name not in quoted else name for name in stored]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _refused(
            f"the query selects {', '.join(twice)} more than once", "give each column its own name"
        )
    return names


def arrow_type(field: Field) -> pa.DataType:
    """The one type of a column, whatever types its batches come in."""
    import pyarrow as pa

    if field.kind == "FIXED":
        # An INTEGER of Snowflake's is NUMBER(38, 0): its values fit or reading them fails.
        scale = field.scale or 0
        return pa.decimal128(field.precision or 38, scale) if scale else pa.int64()
    types = {
        "REAL": pa.float64(),
        "TEXT": pa.string(),
        "VARIANT": pa.string(),  # of JSON, as OBJECT and ARRAY are
        "OBJECT": pa.string(),
        "ARRAY": pa.string(),
        "BOOLEAN": pa.bool_(),
        "BINARY": pa.binary(),
        "DATE": pa.date32(),
        "TIME": pa.time64("us"),
        "TIMESTAMP_NTZ": pa.timestamp("us"),
        "TIMESTAMP_LTZ": pa.timestamp("us", tz="UTC"),
        "TIMESTAMP_TZ": pa.timestamp("us", tz="UTC"),
    }
    if field.kind not in types:
        raise _refused(
            f"the column {field.name} is a {field.kind}", f"cast {field.name} to a plain type"
        )
    return types[field.kind]


def _stored_name(stored: Sequence[str], names: Sequence[str], key: str) -> str:
    if key in names:
        return stored[names.index(key)]
    raise _refused(
        f"the query does not select {[key]}, of the key",
        f"add {[key]} to its SELECT list, which has {list(names)}",
    )


def _batches(tables: Iterator[pa.Table], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    for table in tables:
        columns = []
        for column, field in zip(table.columns, schema, strict=True):
            try:
                columns.append(_in_calendar(column.cast(field.type), field.name))
            except pa.ArrowInvalid as error:
                raise _refused(
                    f"the column {field.name} holds what is no {field.type}: {error}",
                    f"cast {field.name} in the query: to FLOAT, NUMBER(38, 1) or VARCHAR",
                ) from error
        yield from pa.Table.from_arrays(columns, schema=schema).to_batches()


def _in_calendar(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A column as it is; raises PermanentError where a date lies beyond the year 9999.

    Neither Python nor pandas has such a date, nor do all who read the predictions.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_date32(column.type):
        days = pc.min_max(column.cast(pa.int32())).as_py()
        first, last = _FIRST_DAY, _LAST_DAY
    elif pa.types.is_timestamp(column.type):
        days = pc.min_max(column.cast(pa.int64())).as_py()
        first, last = _FIRST_DAY * _DAY, (_LAST_DAY + 1) * _DAY - 1
    else:
        return column
    if days["min"] is None or first <= days["min"] <= days["max"] <= last:
        return column
    raise _refused(
        f"the column {name} has a date before the year 1 or after the year 9999",
        f"bound {name} in the query, as in LEAST({name}, '9999-12-31'), or cast it to VARCHAR",
    )


def _refused(found: str, do: str) -> PermanentError:
    return PermanentError(found, where=_WHERE, do=do)
