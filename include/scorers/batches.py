"""A few rows at a time, for a process that has too little memory for a part at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from include.scorers import Scorer


class InBatches:
    """A scorer that asks another for at most `rows` rows at a time.

    The scores are the other's own. Trees give the same bits however many rows stand beside a row; a
    model that multiplies matrices may round the last bit of a score in another way.
    """

    def __init__(self, scorer: Scorer, rows: int) -> None:
        self.scorer, self.rows = scorer, rows
        self.columns, self.releases_gil = scorer.columns, scorer.releases_gil
        self.device = scorer.device

    def score(self, batch: pa.RecordBatch) -> pa.Array:
        """See `Scorer`."""
        import pyarrow as pa

        starts = range(0, max(batch.num_rows, 1), self.rows)
        return pa.concat_arrays([self.scorer.score(batch.slice(i, self.rows)) for i in starts])
