"""Rows set aside, with their reasons: small Parquet files, one of the gate's and one a part's.

Columns: `part` int32, `row` int64 (the position inside the part), the key with the snapshot's
types, `reason` string. One row a row that was set aside, in the order of (part, row).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from include import storage
from include.errors import CorruptData
from include.run import Receipt

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


def quarantine_table(
    rows: pa.Table, part: int, reasons: Mapping[int, str], key: Sequence[str]
) -> pa.Table:
    """The rows of a part that `reasons` names by their position in it; `rows` is the whole part."""
    import pyarrow as pa

    positions = sorted(reasons)
    keys = rows.select(list(key)).take(pa.array(positions, pa.int64()))
    return pa.table(
        {
            "part": pa.repeat(pa.scalar(part, pa.int32()), len(positions)),
            "row": pa.array(positions, pa.int64()),
            **{name: keys[name] for name in key},
            "reason": pa.array([reasons[position] for position in positions], pa.string()),
        }
    )


def write_quarantine(uri: str, rows: pa.Table) -> None:
    """Write the file; the same rows give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(rows, buffer, compression="zstd")
    storage.write(uri, buffer.getvalue().to_pybytes())


def read_quarantine(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a quarantine file; CorruptData where it is gone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = storage.read(uri)
    except FileNotFoundError:
        raise CorruptData(
            f"the quarantined rows {uri} are gone", do="run the partition again"
        ) from None
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        return file.read(columns=None if columns is None else list(columns), use_threads=False)


def positions_by_part(rows: pa.Table) -> dict[int, NDArray[np.int64]]:
    """The positions of a quarantine file, ascending, by part; other parts are not there."""
    import numpy as np

    parts, positions = rows["part"].to_numpy(), rows["row"].to_numpy()
    return {int(part): np.sort(positions[parts == part]) for part in np.unique(parts)}


def quarantine_files(quarantine_uri: str | None, parts: Iterable[Receipt]) -> list[str]:
    """Every quarantine file of a version: the gate's, and those of the parts in their order."""
    own = [receipt.failed_uri for receipt in sorted(parts, key=lambda receipt: receipt.part)]
    return [uri for uri in (quarantine_uri, *own) if uri is not None]
