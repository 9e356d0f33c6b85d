"""The rows of one version out of <table>_ROWS, as they were before they were loaded."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from include.errors import CorruptData, PermanentError
from include.run import Column
from include.snowflake.session import Session
from include.stores import VersionManifest
from include.stores.snowflake_tables import Names, arrow_type, quoted, snowflake_type

if TYPE_CHECKING:
    import pyarrow as pa

_PARTITION = (Column(name="as_of", type="date32[day]"), Column(name="version", type="string"))


def read_rows(
    session: Session,
    names: Names,
    manifest: VersionManifest,
    columns: list[str] | None,
    key: Mapping[str, Any] | None = None,
) -> pa.Table:
    """All columns, or some, in the order of the key, which is the order of the parts.

    With a `key` only the rows that have it, of which there should be one. Without it CorruptData is
    raised where rows are gone. Raises PermanentError for an unknown column.
    """
    import pyarrow as pa

    version, as_of = manifest.version, manifest.as_of
    own = {column.name: column for column in (*manifest.columns, *_PARTITION)}
    unknown = sorted(set(columns or ()) - set(own))
    if unknown:
        raise PermanentError(
            f"version {version} of {as_of} has no column {unknown}",
            do=f"choose among {list(own)}",
        )
    wanted = [own[name] for name in columns] if columns is not None else list(own.values())
    schema = pa.schema([(column.name, arrow_type(column)) for column in wanted])
    selected = ", ".join(quoted(column.name) for column in wanted)
    ordered = ", ".join(quoted(name) for name in manifest.key)
    # Names and types come from configuration and Arrow; what a person typed is bound.
    equal = [f"{quoted(name)} = CAST(? AS {snowflake_type(own[name])})" for name in key or ()]
    where = " AND ".join(["AS_OF = ?", "VERSION = ?", *equal])
    sql = f"SELECT {selected} FROM {names.rows} WHERE {where} ORDER BY {ordered}"  # noqa: S608
    values = (as_of, version, *map(_bound, (key or {}).values()))
    with session.arrow(sql, values) as (_, tables):
        pieces = [
            pa.Table.from_arrays(
                [
                    column.cast(field.type)
                    for column, field in zip(table.columns, schema, strict=True)
                ],
                schema=schema,
            )
            for table in tables
        ]
    rows = pa.concat_tables(pieces) if pieces else schema.empty_table()
    if key is None and rows.num_rows != manifest.rows:
        raise CorruptData(
            f"version {version} of {as_of} has {manifest.rows:,} rows, and {rows.num_rows:,} are "
            f"in {names.rows}",
            do="see who deleted rows beside Daybreak; run the partition again or choose another "
            "version",
        )
    return rows


def _bound(value: Any) -> Any:
    """A value as it is bound: a moment as text, whose type the statement says."""
    moment = isinstance(value, dt.datetime)
    return value.isoformat(sep=" ", timespec="microseconds") if moment else value
