"""How far the parts of a run are, how fast they go and when the last one is expected."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from include.run import Receipt


@dataclass
class Pace:
    """Counts finished parts. `rows` and `parts` are of the whole; what was finished before this
    began is counted as done and left out of the speed.
    """

    rows: int
    parts: int
    rows_done: int = 0
    parts_done: int = 0
    _began: float = field(default_factory=time.monotonic)
    _rows_here: int = 0

    def add(self, receipt: Receipt) -> None:
        self.rows_done += receipt.rows_in
        self.parts_done += 1
        self._rows_here += receipt.rows_in

    @property
    def rows_per_second(self) -> float:
        """Since it began; 0 before the first part is finished."""
        return self._rows_here / max(time.monotonic() - self._began, 1e-6)

    @property
    def seconds_left(self) -> float | None:
        """At the speed so far; None where there is none yet."""
        left = self.rows - self.rows_done
        return left / self.rows_per_second if self._rows_here else None

    def fields(self) -> dict[str, object]:
        """For a line of JSON."""
        left = self.seconds_left
        return {
            "parts_done": self.parts_done,
            "parts": self.parts,
            "rows_done": self.rows_done,
            "rows": self.rows,
            "rows_per_second": round(self.rows_per_second),
            "seconds_left": None if left is None else round(left, 1),
        }
