"""How far apart two distributions are, from histograms over the same bins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

# Quantile of the standard normal distribution at 0.999.
_NORMAL_999 = 3.0902323061678132


def psi(expected: ArrayLike, actual: ArrayLike) -> float:
    """Population stability index of `actual` against `expected`, in nats.

    Both hold counts over the same bins, shape (bins,). An empty bin counts as half a row, so the
    result is finite; bins that are empty on both sides say nothing and are left out.
    Source: Siddiqi, Credit Risk Scorecards (2006), ch. 10.
    """
    p, q = _counts(expected, actual)
    seen = (p > 0) | (q > 0)
    p, q = np.maximum(p[seen], 0.5), np.maximum(q[seen], 0.5)
    if not len(p):
        return 0.0
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((q - p) * np.log(q / p)))


def psi_noise(bins: int, n: int, m: int) -> float:
    """The PSI that two samples of one distribution, of n and m rows, exceed once in a thousand.

    The 0.999 quantile of the chi-square distribution with bins - 1 degrees of freedom, times
    (1/n + 1/m). Infinite where a side has no rows, zero where there is only one bin.
    Sources: Yurdakul, Statistical Properties of the Population Stability Index (2018); the
    quantile by Wilson and Hilferty (1931), which is at most 3.1 % too high (at two bins).
    """
    degrees = bins - 1
    if degrees <= 0:
        return 0.0
    if n <= 0 or m <= 0:
        return math.inf
    ninth = 2 / (9 * degrees)
    quantile = degrees * (1 - ninth + _NORMAL_999 * math.sqrt(ninth)) ** 3
    return quantile * (1 / n + 1 / m)


def js(expected: ArrayLike, actual: ArrayLike) -> float:
    """Jensen-Shannon divergence of two histograms, in nats: 0 where equal, ln 2 where apart.

    Zero where a side is empty. Source: Lin, IEEE Trans. Inf. Theory 37 (1991).
    """
    p, q = _counts(expected, actual)
    if p.sum() == 0 or q.sum() == 0:
        return 0.0
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    return max(0.0, float(_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2)


def ks(expected: ArrayLike, actual: ArrayLike) -> float:
    """Kolmogorov-Smirnov distance at the bins' edges, in [0, 1]; zero where a side is empty.

    It is at most the distance of the rows themselves, and short of it by at most the largest
    share that either side has in one bin.
    """
    p, q = _counts(expected, actual)
    if p.sum() == 0 or q.sum() == 0:
        return 0.0
    return float(np.abs(np.cumsum(p) / p.sum() - np.cumsum(q) / q.sum()).max())


def wasserstein(
    edges: Sequence[float],
    expected: ArrayLike,
    actual: ArrayLike,
    expected_range: tuple[float, float],
    actual_range: tuple[float, float],
) -> float:
    """Wasserstein-1 distance (earth mover's), in the values' own unit; zero where a side is empty.

    `edges`, ascending, shape (e,); the counts have shape (e + 1,): bin i holds
    edges[i - 1] < x <= edges[i], the first and the last bin are open. The ranges are each side's
    smallest and largest value. Rows are taken as spread evenly within a bin, so that it is off by
    at most the bins' width, each weighted with the larger of its two shares.
    """
    p, q = _counts(expected, actual)
    if p.sum() == 0 or q.sum() == 0:
        return 0.0
    cumulative_p = cumulative(edges, p, expected_range)
    cumulative_q = cumulative(edges, q, actual_range)
    knots = np.union1d(cumulative_p[0], cumulative_q[0])
    gap = np.interp(knots, *cumulative_p, left=0.0) - np.interp(knots, *cumulative_q, left=0.0)
    left, right = gap[:-1], gap[1:]
    # Where the gap changes its sign inside a bin, its absolute value is two triangles.
    total = np.abs(left) + np.abs(right)
    crossing = (left * right < 0) & (total > 0)
    safe = np.where(total > 0, total, 1.0)
    area = np.where(crossing, (left**2 + right**2) / (2 * safe), total / 2)
    with np.errstate(over="ignore"):  # values near the largest float are infinitely far apart
        return float(np.sum(area * np.diff(knots)))


def cumulative(
    edges: Sequence[float], counts: ArrayLike, limits: tuple[float, float]
) -> tuple[Array, Array]:
    """The cumulative share as a broken line: its knots, strictly ascending, and the share there.

    Bins as in `wasserstein`; the counts may not all be zero.
    """
    low, high = limits
    shares = np.cumsum(np.asarray(counts, dtype=np.float64))
    shares /= shares[-1]
    inside = np.asarray(edges, dtype=np.float64)
    at = shares[: len(inside)]
    within = (inside >= low) & (inside <= high)
    # The line starts just below the smallest value, so that many rows at that value are a jump.
    knots = np.concatenate(([np.nextafter(low, -np.inf)], inside[within], [high]))
    values = np.concatenate(([0.0], at[within], [1.0]))
    # Of knots that coincide (a range that ends on an edge) the last one has the whole share.
    last = np.append(np.diff(knots) > 0, True)
    return knots[last], values[last]


def _counts(expected: ArrayLike, actual: ArrayLike) -> tuple[Array, Array]:
    p, q = np.asarray(expected, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    if p.shape != q.shape or p.ndim != 1:
        raise ValueError(f"histograms of different bins: shapes {p.shape} and {q.shape}")
    return p, q


def _relative_entropy(p: Array, q: Array) -> Any:
    held = p > 0
    return np.sum(p[held] * np.log(p[held] / q[held]))
