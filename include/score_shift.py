"""How far a version's scores moved from those of the version that it follows."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from include.drift.distances import psi, psi_noise
from include.run import Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]

BINS = 10


@dataclass(frozen=True)
class Reference:
    """The version that another one follows, with all its scores (8 bytes a row)."""

    as_of: dt.date
    version: str
    scores: Scores


class Shift(Value):
    """The PSI of one version's scores against another's, in nats, and both means.

    `noise_psi` is what two samples of one distribution, of these sizes, exceed once in a thousand.
    """

    psi: float
    noise_psi: float
    limit: float
    mean: float
    reference_mean: float
    against_as_of: dt.date
    against_version: str

    @property
    def too_large(self) -> bool:
        """Above the limit, and more than chance: a small sample has a large PSI without a shift."""
        return self.psi > max(self.limit, self.noise_psi)

    def __str__(self) -> str:
        moved = (
            f"the scores moved by a PSI of {self.psi:.3f} from version {self.against_version} of "
            f"{self.against_as_of} (mean {self.reference_mean:.4g} → {self.mean:.4g})"
        )
        if self.too_large:
            return f"{moved}, above max_score_psi = {self.limit:g}"
        if self.psi > self.limit:
            return f"{moved}; so few rows differ by {self.noise_psi:.3f} by chance"
        return f"{moved}, within max_score_psi = {self.limit:g}"


class ShiftCounter:
    """Counts scores, part by part, in the deciles of the reference."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        scores = reference.scores[np.isfinite(reference.scores)]
        self.edges = decile_edges(scores)
        self.expected = self._counted(scores)
        self.actual = np.zeros_like(self.expected)
        self.reference_mean = float(scores.mean()) if len(scores) else 0.0
        self._sum = 0.0

    def add(self, scores: Scores) -> None:
        """Finite scores."""
        self.actual += self._counted(scores)
        self._sum += float(scores.sum())

    def shift(self, limit: float) -> Shift | None:
        """None where a side has no score."""
        n, m = int(self.expected.sum()), int(self.actual.sum())
        if n == 0 or m == 0:
            return None
        return Shift(
            psi=psi(self.expected, self.actual),
            noise_psi=psi_noise(len(self.expected), n, m),
            limit=limit,
            mean=self._sum / m,
            reference_mean=self.reference_mean,
            against_as_of=self.reference.as_of,
            against_version=self.reference.version,
        )

    def _counted(self, scores: Scores) -> NDArray[np.int64]:
        """Bin i holds edges[i - 1] < score <= edges[i]; the first and the last one are open."""
        bins = np.searchsorted(self.edges, scores, side="left")
        return np.bincount(bins, minlength=len(self.edges) + 1)


def decile_edges(scores: Scores) -> Scores:
    """The edges between the deciles of `scores`, ascending, shape (e,); empty without scores.

    A value that takes up several deciles, such as the one output of a small tree, gets a bin of
    its own; otherwise a move away from it to one side would change no count.
    """
    if not len(scores):
        return np.empty(0)
    quantiles = np.quantile(scores, np.arange(1, BINS) / BINS, method="inverted_cdf")
    values, counts = np.unique(quantiles, return_counts=True)
    heavy = values[counts > 1]
    return np.unique(np.concatenate((values, np.nextafter(heavy, -np.inf))))
