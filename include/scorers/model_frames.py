"""A batch of features as the pandas frame that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from include.run import ModelInput

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def model_frame(batch: pa.RecordBatch, inputs: Sequence[ModelInput]) -> pd.DataFrame:
    """The columns of `inputs`, in their order, numbers in the width that the signature says.

    Fixed types make a row's score independent of the other rows of its batch. A missing string is
    None, as in a frame that was read from Arrow or SQL; a missing number is NaN, and makes its
    column float64.
    """
    import pyarrow as pa

    columns = [_widened(batch.column(column.name), column.type) for column in inputs]
    names = [column.name for column in inputs]
    frame: pd.DataFrame = pa.RecordBatch.from_arrays(columns, names=names).to_pandas(
        use_threads=False
    )
    return frame


def _widened(column: pa.Array, wanted: str) -> pa.Array:
    """`column` in the signature's type, where that loses nothing but digits of a decimal."""
    import pyarrow as pa
    import pyarrow.compute as pc

    types = pa.types
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    if wanted == "double" and number:
        return pc.cast(column, pa.float64(), safe=False)
    if wanted == "float" and number and not types.is_float64(kind):
        return pc.cast(column, pa.float32(), safe=False)
    if wanted in ("long", "integer") and types.is_integer(kind):
        target = pa.int64() if wanted == "long" else pa.int32()
        return pc.cast(column, target) if kind.bit_width <= target.bit_width else column
    return column
