"""Receipts as they appear in storage, each once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from include import storage
from include.receipts import receipts
from include.run import Part, Receipt
from include.scoring import ScoringJob


class Arrivals:
    """What of `parts` is finished so far; `missing` are those that are not, by index."""

    def __init__(self, job: ScoringJob, parts: Sequence[Part]) -> None:
        self.job = job
        self.missing = {part.index: part for part in parts}
        self._seen: dict[str, object] = {}

    def there(self) -> Iterator[Receipt]:
        """Receipts of missing parts whose files are there too: reads all the receipts."""
        self._seen = {entry.uri: entry.modified_at for entry in self._listed()}
        for receipt in receipts(self.job):
            yield from self._arrived(receipt)

    def new(self) -> Iterator[Receipt]:
        """Receipts that were written since the last look: reads those alone.

        A part's file is written before its receipt.
        """
        for entry in self._listed():
            if self._seen.get(entry.uri) != entry.modified_at:
                self._seen[entry.uri] = entry.modified_at
                try:
                    content = storage.read(entry.uri)
                except FileNotFoundError:
                    continue  # Withdrawn by whoever scores the part anew.
                yield from self._arrived(Receipt.model_validate_json(content))

    def _listed(self) -> list[storage.Entry]:
        wanted = {self.job.receipt_uri(index) for index in self.missing}
        return [entry for entry in storage.entries(self.job.receipts_uri) if entry.uri in wanted]

    def _arrived(self, receipt: Receipt) -> Iterator[Receipt]:
        part = self.missing.get(receipt.part)
        if part is not None and part.rows == receipt.rows_in:
            del self.missing[receipt.part]
            yield receipt
