"""Features as one matrix of numbers, straight from Arrow: what the libraries of trees take.

A column that was a pandas category in training becomes the category's position in the list that the
model keeps; missing values and categories that training did not see become NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from include.errors import PermanentError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


def feature_matrix(
    batch: pa.RecordBatch, columns: Sequence[str], categories: Mapping[str, Sequence[Any]]
) -> NDArray[np.float64]:
    """Shape (batch.num_rows, len(columns)); `categories` are by column, in training's order."""
    import numpy as np

    matrix = np.empty((batch.num_rows, len(columns)), dtype=np.float64)
    for position, name in enumerate(columns):
        column = batch.column(name)
        if name in categories:
            column = _positions(name, column, list(categories[name]))
        matrix[:, position] = _numbers(name, column)
    return matrix


def _positions(name: str, column: pa.Array, categories: list[Any]) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        known = pa.array(categories).cast(column.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise PermanentError(
            f"the column {name!r} is {column.type}, and the model's categories of it are "
            f"{categories[:3]}…",
            do="give the column the type that it had in training",
        ) from error
    return pc.index_in(column, value_set=known)


def _numbers(name: str, column: pa.Array) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (
        pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
        or pa.types.is_boolean(column.type)
        or pa.types.is_decimal(column.type)
    ):
        raise PermanentError(
            f"the column {name!r} is {column.type}, and the model takes a number",
            do="cast it in features.sql",
        )
    # safe=False: an integer beyond 2**53 is rounded, as in pandas.
    return pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
