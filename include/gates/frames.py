"""Columns of a snapshot as the pandas columns that Great Expectations compares right and fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def frame_of(table: pa.Table, filled: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """A frame of `columns` with the values of `filled`; the others are there in name only.

    Its index is the position of the row. The columns without values take no memory.
    """
    import numpy as np
    import pandas as pd

    nothing = np.broadcast_to(np.int8(0), (table.num_rows,))
    data = {name: _series(table[name]) if name in filled else nothing for name in columns}
    return pd.DataFrame(data, index=pd.RangeIndex(table.num_rows), copy=False)


def _series(column: pa.ChunkedArray) -> Any:
    """Widened without loss: Great Expectations compares int64, float64 and datetime64[ns] in bulk.

    Every other type it compares value by value in Python: integers with nulls among them, which
    stay integers all the same.
    """
    import pandas as pd
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_integer(kind):
        column = column if pa.types.is_uint64(kind) else column.cast(pa.int64())
        nullable: Any = pd.UInt64Dtype() if pa.types.is_uint64(kind) else pd.Int64Dtype()
    elif pa.types.is_boolean(kind):
        nullable = pd.BooleanDtype()
    else:
        if pa.types.is_floating(kind):
            column = column.cast(pa.float64())
        elif pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            column = _timestamps(column)
        return column.to_pandas()
    if column.null_count:
        return column.to_pandas(types_mapper={column.type: nullable}.get)
    return column.to_pandas()


def _timestamps(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    try:
        return column.cast(pa.timestamp("ns", tz=zone))
    except pa.ArrowInvalid:  # before 1677 or after 2262: slower, and still right
        return column.cast(pa.timestamp("us", tz=zone))


def set_problem(kind: pa.DataType, values: object) -> str | None:
    """Why no value of a column of this type can be in the set: pandas would just find none there.

    So a misspelt set would pass as `not_in_set` in silence.
    """
    import pyarrow as pa

    if not isinstance(values, list):
        return None
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    temporal = pa.types.is_date(kind) or pa.types.is_timestamp(kind)
    text = str(kind) in ("string", "large_string", "string_view")
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    for value in values:
        if isinstance(value, bool):
            fits = pa.types.is_boolean(kind)
        elif isinstance(value, int | float):
            fits = numeric or pa.types.is_decimal(kind)
        elif isinstance(value, str):
            moment = _timestamp(value) if temporal else None
            zoned = pa.types.is_timestamp(kind) and kind.tz is not None
            fits = text or (moment is not None and (moment.tzinfo is not None) == zoned)
        else:
            fits = value is None
        if not fits:
            return f"value_set holds {value!r}, which a column of type {kind} never equals"
    return None


def with_timestamps(kwargs: Mapping[str, Any], types: Mapping[str, pa.DataType]) -> dict[str, Any]:
    """The arguments with the texts of `value_set` as timestamps where the column is of time."""
    import pyarrow as pa

    given = dict(kwargs)
    temporal = any(pa.types.is_date(kind) or pa.types.is_timestamp(kind) for kind in types.values())
    if temporal and isinstance(given.get("value_set"), list):
        given["value_set"] = [
            _timestamp(value) if isinstance(value, str) else value for value in given["value_set"]
        ]
    return given


def _timestamp(text: str) -> pd.Timestamp | None:
    import pandas as pd

    try:
        return pd.Timestamp(text)
    except ValueError:
        return None
