"""The rows of one version as the model saw them: features beside scores, part by part."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from include import storage
from include.drift.profiles import Profile, Tally, with_scores
from include.errors import CorruptData
from include.quarantine import positions_by_part, quarantine_files, read_quarantine
from include.run import Receipt, SnapshotManifest
from include.snapshots import read_part

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True)
class VersionRows:
    """Where the rows of a version are: its snapshot less the quarantined, and its scored parts.

    `features` are the model's inputs; those that the snapshot lacks are left out. The scores are
    in the files under `stored_score_column` and come out under `score_column`.
    """

    as_of: dt.date
    version: str
    snapshot: SnapshotManifest
    quarantine_uri: str | None
    receipts: tuple[Receipt, ...]
    features: tuple[str, ...]
    stored_score_column: str
    score_column: str

    @property
    def rows(self) -> int:
        return sum(receipt.scored for receipt in self.receipts)

    def tables(self) -> Iterator[pa.Table]:
        """One table per part: the features and the score, in the order of the key.

        Raises CorruptData where a file is gone, is another one, or lacks rows.
        """
        import pyarrow as pa

        held = {column.name for column in self.snapshot.columns}
        names = [name for name in self.features if name in held and name != self.score_column]
        set_aside = self._quarantined()
        receipts = {receipt.part: receipt for receipt in self.receipts}
        for part in self.snapshot.parts:
            if part.index not in receipts:
                raise CorruptData(
                    f"part {part.index} of version {self.version} has no receipt",
                    do="run the partition again",
                )
            features = read_part(part, names)
            keep = np.ones(part.rows, dtype=bool)
            keep[set_aside.get(part.index, [])] = False
            if not keep.all():
                features = features.filter(pa.array(keep))
            scores = self._scores(receipts[part.index])
            if len(scores) != keep.sum():
                raise CorruptData(
                    f"part {part.index} of version {self.version} has {len(scores):,} scores for "
                    f"{part.rows:,} rows less those in quarantine",
                    do="run the partition again",
                )
            if names:
                yield with_scores(features, scores, self.score_column)
            else:
                yield pa.table({self.score_column: scores.cast(pa.float64())})

    def _quarantined(self) -> dict[int, NDArray[np.int64]]:
        """The positions of the quarantined rows, by part."""
        import pyarrow as pa

        files = quarantine_files(self.quarantine_uri, self.receipts)
        if not files:
            return {}
        tables = [read_quarantine(uri, ["part", "row"]) for uri in files]
        return positions_by_part(pa.concat_tables(tables))

    def _scores(self, receipt: Receipt) -> pa.ChunkedArray:
        import pyarrow as pa
        import pyarrow.parquet as pq

        content = _read(receipt.uri, f"scored part {receipt.part}")
        if hashlib.sha256(content).hexdigest() != receipt.digest:
            raise CorruptData(
                f"scored part {receipt.part} is not the file that was written: {receipt.uri}",
                do="delete it and its receipt and run the partition again",
            )
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            return file.read(columns=[self.stored_score_column], use_threads=False).column(0)


def profile_of(
    rows: VersionRows, template: Profile, sample_rows: int
) -> tuple[Profile, pa.Table | None]:
    """The profile of all the rows in the template's bins, and an even sample of at most so many.

    One pass, one part in memory at a time. The sample is None where `sample_rows` is 0.
    """
    tally = Tally(template, rows.score_column)
    picker = _Picker(rows.rows, sample_rows)
    for table in rows.tables():
        tally.add(table)
        picker.add(table)
    return tally.profile(), picker.sample()


def sample_of(rows: VersionRows, sample_rows: int) -> pa.Table | None:
    """An even sample of a version's rows, the same each time; None where it has none."""
    picker = _Picker(rows.rows, sample_rows)
    for table in rows.tables():
        picker.add(table)
    return picker.sample()


def even_positions(rows: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` positions below `rows`, evenly spaced, ascending."""
    if rows <= wanted:
        return np.arange(rows, dtype=np.int64)
    return (np.arange(wanted, dtype=np.int64) * rows) // wanted


class _Picker:
    """Takes evenly spaced rows out of a stream of tables whose total length is known."""

    def __init__(self, rows: int, wanted: int) -> None:
        self._positions = even_positions(rows, wanted)
        self._passed = 0
        self._picked: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        first, last = np.searchsorted(
            self._positions, [self._passed, self._passed + table.num_rows], side="left"
        )
        if last > first:
            self._picked.append(table.take(self._positions[first:last] - self._passed))
        self._passed += table.num_rows

    def sample(self) -> pa.Table | None:
        import pyarrow as pa

        return pa.concat_tables(self._picked) if self._picked else None


def _read(uri: str, what: str) -> bytes:
    try:
        return storage.read(uri)
    except FileNotFoundError:
        raise CorruptData(f"{what} is gone: {uri}", do="run the partition again") from None
