"""A version's Parquet parts as Delta's add actions, with the statistics that let readers skip."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from include import storage
from include.errors import CorruptData
from include.run import Receipt
from include.stores import VersionManifest
from include.stores.part_files import examine

if TYPE_CHECKING:
    from deltalake.transaction import AddAction

FOOTER_THREADS = 8
FOOTER_BYTES = 64 * 1024  # more than most footers have


def add_actions(
    table_uri: str, manifest: VersionManifest, added_at: dt.datetime
) -> list[AddAction]:
    """One action per part, in the order of the parts.

    Reads each part's footer, not its rows: it shows that the file is there in the size and with
    the rows of its receipt, and has the least and the greatest key. Raises CorruptData where a
    part is missing or another file.
    """

    def action(receipt: Receipt) -> AddAction:
        return _add_action(table_uri, manifest, receipt, added_at)

    with ThreadPoolExecutor(min(FOOTER_THREADS, max(1, len(manifest.parts)))) as pool:
        return list(pool.map(action, sorted(manifest.parts, key=lambda receipt: receipt.part)))


def verify(manifest: VersionManifest) -> None:
    """Read every part of a version; CorruptData where one is gone or not what was scored."""

    def wrong(receipt: Receipt) -> str | None:
        _, fault = examine(receipt)
        return f"part {receipt.part} {fault} ({receipt.uri})" if fault is not None else None

    with ThreadPoolExecutor(min(FOOTER_THREADS, max(1, len(manifest.parts)))) as pool:
        damage = list(filter(None, pool.map(wrong, manifest.parts)))
    if damage:
        more = f" (and {len(damage) - 3} more parts)" if len(damage) > 3 else ""
        raise CorruptData(
            f"version {manifest.version} of {manifest.as_of} is not whole: "
            + "; ".join(damage[:3])
            + more,
            do="nothing was changed; choose another version, or run the partition again",
        )


def _add_action(
    table_uri: str, manifest: VersionManifest, receipt: Receipt, added_at: dt.datetime
) -> AddAction:
    from deltalake.transaction import AddAction

    if not receipt.uri.startswith(f"{table_uri}/"):
        raise CorruptData(
            f"part {receipt.part} lies outside the table {table_uri}: {receipt.uri}",
            do="score the partition again",
        )
    path = receipt.uri.removeprefix(f"{table_uri}/")
    try:
        footer = _footer(receipt)
    except FileNotFoundError:
        raise CorruptData(
            f"part {receipt.part} of version {manifest.version} is gone: {receipt.uri}",
            do="run the partition again; it scores what is missing",
        ) from None
    if footer is None or footer.num_rows != receipt.scored:
        raise CorruptData(
            f"part {receipt.part} of version {manifest.version} is not the file of its receipt "
            f"({receipt.bytes} bytes, {receipt.scored} rows)",
            where=receipt.uri,
            do="delete the part and its receipt and run the partition again",
        )
    return AddAction(
        path=path,
        size=receipt.bytes,
        partition_values={"as_of": str(manifest.as_of), "version": manifest.version},
        # Of the logical file, so the time at which it entered the table.
        modification_time=int(added_at.timestamp() * 1000),
        data_change=True,
        stats=json.dumps(_statistics(footer, manifest.key)),
    )


def _footer(receipt: Receipt) -> Any:
    """Parquet's metadata of a part, from the end of its file; None where it is another file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    length = FOOTER_BYTES
    while True:
        end, size = storage.read_end(receipt.uri, length)
        # The last eight bytes are the metadata's length and the magic number.
        needed = int.from_bytes(end[-8:-4], "little") + 8
        if size != receipt.bytes or end[-4:] != b"PAR1" or needed > size:
            return None
        if needed <= len(end):
            break
        length = needed
    try:
        return pq.read_metadata(pa.BufferReader(end))
    except pa.ArrowInvalid:
        return None


def _statistics(footer: Any, key: Sequence[str]) -> dict[str, Any]:
    """numRecords, and the range of the key columns whose type has a plain form in JSON."""
    least: dict[str, Any] = {}
    greatest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    positions = {footer.schema.column(i).name: i for i in range(footer.num_columns)}
    for name in key:
        groups = [
            footer.row_group(i).column(positions[name]).statistics
            for i in range(footer.num_row_groups)
        ]
        ranges = [(group.min, group.max) for group in groups if group and group.has_min_max]
        if len(ranges) != len(groups) or not ranges:
            continue
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        if type(low) in (int, str):
            least[name], greatest[name] = low, high
        elif type(low) is dt.date:
            least[name], greatest[name] = low.isoformat(), high.isoformat()
        if all(group.has_null_count for group in groups):
            nulls[name] = sum(group.null_count for group in groups)
    return {
        "numRecords": footer.num_rows,
        "minValues": least,
        "maxValues": greatest,
        "nullCount": nulls,
    }
