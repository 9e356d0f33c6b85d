"""Whether the rows of a snapshot stand in the order of their keys, each key once and none null."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


class KeyOrder:
    """Fed with a snapshot's rows table by table, finds the first key that is out of place.

    Keys must rise strictly over all the tables: column by column, numbers and dates by value,
    texts by their UTF-8 bytes, as DuckDB and Snowflake sort them. In sorted rows that one
    comparison of neighbours finds every duplicate, in constant memory.
    """

    def __init__(self, key: Sequence[str]) -> None:
        self.key = tuple(key)
        self._last: pa.Table | None = None
        self._found: str | None = None

    def first_violation(self, table: pa.Table) -> str | None:
        """What is wrong with the first bad key of `table`, which follows the tables before it.

        A sentence that gives the key's values; None where the keys are good. Once a violation was
        found it is the answer to every later call. Raises KeyError where a key column is missing.
        """
        if self._found is None and table.num_rows:
            rows = table.select(list(self.key))
            if self._last is not None:
                self._found = _first_violation(_joined(self._last, rows.slice(0, 1)), self.key)
            self._found = self._found or _first_violation(rows, self.key)
            self._last = rows.slice(rows.num_rows - 1)
        return self._found


def key_text(table: pa.Table, row: int, key: Sequence[str]) -> str:
    """The key of one row as people read it: `(account_id=17, channel='web')`."""
    parts = (f"{name}={value_text(table[name][row].as_py())}" for name in key)
    return f"({', '.join(parts)})"


def _first_violation(rows: pa.Table, key: tuple[str, ...]) -> str | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [_comparable(rows[name]) for name in key]
    for name, column in zip(key, columns, strict=True):
        if pa.types.is_nested(column.type) or pa.types.is_null(column.type):
            return f"the key column {name} has the type {column.type}, which has no order"

    null = _first_true(_any([pc.is_null(column, nan_is_null=True) for column in columns]))
    # A row rises when, at the first column in which it differs from the row before, it is greater.
    rises, same = _greater_and_equal(columns[0])
    for column in columns[1:]:
        greater, equal = _greater_and_equal(column)
        rises = pc.or_(rises, pc.and_(same, greater))
        same = pc.and_(same, equal)
    # Where a key is null the comparison is null: that row is reported as null, not as misplaced.
    fall = _first_true(pc.invert(pc.fill_null(rises, True)))

    if null is not None and (fall is None or null <= fall + 1):
        return f"a key is null: {key_text(rows, null, key)}"
    if fall is None:
        return None
    found = key_text(rows, fall + 1, key)
    if same[fall].as_py():
        return f"the key {found} stands twice"
    return f"the rows are not sorted by key: {found} follows {key_text(rows, fall, key)}"


def _greater_and_equal(column: pa.ChunkedArray) -> tuple[Any, Any]:
    """How each value but the first compares with the one before it."""
    import pyarrow.compute as pc

    before, after = column.slice(0, len(column) - 1), column.slice(1)
    return pc.greater(after, before), pc.equal(after, before)


def _joined(first: pa.Table, second: pa.Table) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables([first, second], promote_options="permissive")


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column in a type that Arrow compares: decoded, and without an extension type."""
    import pyarrow as pa

    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array(
            [chunk.storage for chunk in column.chunks], type=column.type.storage_type
        )
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column


def _any(masks: list[Any]) -> Any:
    import pyarrow.compute as pc

    found = masks[0]
    for mask in masks[1:]:
        found = pc.or_(found, mask)
    return found


def _first_true(mask: Any) -> int | None:
    import pyarrow.compute as pc

    position: int = pc.index(mask, True).as_py()
    return None if position < 0 else position


def value_text(value: object) -> str:
    """A value as it stands in a sentence: texts in quotes, dates and numbers bare."""
    return str(value) if isinstance(value, dt.date | dt.time) else repr(value)
