"""The rows that the gate sets aside, with their reasons: one small Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from include.gates.validation import Outcome


def quarantined(
    outcomes: Sequence[Outcome], table: pa.Table, part_rows: Sequence[int], key: Sequence[str]
) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """The rows that failed checks set aside, one row each, and their positions in the snapshot.

    `table` holds the snapshot's rows and `part_rows` the number of them in each part. Columns:
    `part` int32, `row` int64 (the position inside the part), the key with the snapshot's types,
    `reason` string with the reasons joined by "; ". Without such rows the table is empty.
    """
    import numpy as np
    import pyarrow as pa

    setting_aside = [
        (one, one.failing) for one in outcomes if one.check.quarantines and one.failing is not None
    ]
    failing = [positions for _, positions in setting_aside]
    reasons = [_reasons(one, positions, table) for one, positions in setting_aside]
    entries = pa.table(
        {
            "position": np.concatenate([np.empty(0, np.int64), *failing]),
            "reason": pa.chunked_array(reasons, type=pa.string()),
        }
    )
    # One thread keeps the reasons of a row in the order of the suite.
    grouped = entries.group_by("position", use_threads=False).aggregate([("reason", "list")])
    grouped = grouped.sort_by("position")
    positions = grouped["position"].to_numpy()
    part, row = _places(positions, part_rows)
    keys = table.select(list(key)).take(grouped["position"])
    rows = pa.table(
        {
            "part": pa.array(part, pa.int32()),
            "row": pa.array(row, pa.int64()),
            **{name: keys[name] for name in key},
            "reason": _joined(grouped["reason_list"]),
        }
    )
    return rows, positions


def _places(
    positions: npt.NDArray[np.int64], part_rows: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The part of each position in the snapshot, and the position inside that part."""
    import numpy as np

    ends = np.cumsum(np.asarray(part_rows, dtype=np.int64))
    part = np.searchsorted(ends, positions, side="right")
    starts = np.concatenate([np.zeros(1, np.int64), ends])
    return part, positions - starts[part]


def _reasons(outcome: Outcome, positions: npt.NDArray[np.int64], table: pa.Table) -> pa.Array:
    """What each of these rows failed and what was found there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = table.select(list(outcome.expected.columns)).take(pa.array(positions))
    texts = [_texts(column) for column in rows.columns]
    if len(texts) > 1:
        texts = [
            pc.binary_join_element_wise(f"{name}=", text, "")
            for name, text in zip(rows.column_names, texts, strict=True)
        ]
    found = texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, ", ")
    reasons = pc.binary_join_element_wise(f"{outcome.expected.label}, found ", found, "")
    return reasons.combine_chunks() if isinstance(reasons, pa.ChunkedArray) else reasons


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values as people read them, cut to 100 characters; a missing one is `null`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    quoted = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    try:
        texts = column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # nested types and bytes
        values = [None if value is None else str(value) for value in column.to_pylist()]
        texts = pa.chunked_array([values], type=pa.string())
    texts = pc.utf8_slice_codeunits(texts, 0, 100)
    if quoted:
        texts = pc.binary_join_element_wise("'", texts, "'", "")
    return texts.fill_null("null")


def _joined(reasons: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pa.chunked_array(
        [pc.binary_join(chunk, "; ") for chunk in reasons.chunks], type=pa.string()
    )
