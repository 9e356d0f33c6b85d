"""The bars of one column, drawn over the same bins for a version and its references."""

from __future__ import annotations

from typing import Literal

import numpy as np

from include.drift.distances import cumulative
from include.drift.histograms import CategoryColumn, NumberColumn
from include.drift.profiles import Profile
from include.run import Value

CHART_BINS, SCORE_BINS = 24, 40
CHART_CATEGORIES = 12

Which = Literal["training", "trailing"]


class Chart(Value):
    """One column's shares, drawn over the same bars: this version's and its references'.

    `edges` has one more entry than there are bars, and the first and the last bar hold the tails
    as well; `labels` names the bars of categories. One of the two is empty.
    """

    column: str
    kind: Literal["number", "time", "category"]
    edges: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    current: tuple[float, ...]
    training: tuple[float, ...] | None = None
    trailing: tuple[float, ...] | None = None


def chart(
    current: NumberColumn | CategoryColumn, references: dict[Which, Profile], bars: int
) -> Chart:
    """The bars of one column; a reference without the column, or without values, has none."""
    others = {which: profile.column(current.name) for which, profile in references.items()}
    present = {which: column for which, column in others.items() if column and column.rows}
    if isinstance(current, CategoryColumn):
        return _category_chart(current, present)
    numbers = {which: side for which, side in present.items() if isinstance(side, NumberColumn)}
    edges = _chart_edges([current, *numbers.values()], bars)
    return Chart(
        column=current.name,
        kind=current.kind,
        edges=edges,
        current=_shares(current, edges) or (0.0,) * (len(edges) - 1),
        **{which: _shares(side, edges) for which, side in numbers.items()},
    )


def _chart_edges(columns: list[NumberColumn], bars: int) -> tuple[float, ...]:
    """Even bars between the outermost 0.5 % quantiles, so that one outlier does not flatten all."""
    lows, highs = [], []
    for column in columns:
        limits = column.limits
        if limits is not None and column.values:
            knots, shares = cumulative(column.edges, column.counts, limits)
            lows.append(float(np.interp(0.005, shares, knots)))
            highs.append(float(np.interp(0.995, shares, knots)))
    if not lows:
        return (0.0, 1.0)
    low, high = min(lows), max(highs)
    if not high - low > abs(low) * 1e-9 or not np.isfinite(high - low):
        half = max(abs(low) * 1e-3, 0.5)
        low, high = low - half, low + half
    return tuple(float(edge) for edge in np.linspace(low, high, bars + 1))


def _shares(column: NumberColumn, edges: tuple[float, ...]) -> tuple[float, ...] | None:
    limits = column.limits
    if limits is None or not column.values:
        return None
    at = np.interp(edges, *cumulative(column.edges, column.counts, limits), left=0.0)
    at[0], at[-1] = 0.0, 1.0
    return tuple(float(share) for share in np.round(np.diff(at), 6))


def _category_chart(
    current: CategoryColumn, others: dict[Which, NumberColumn | CategoryColumn]
) -> Chart:
    """The most frequent categories of any side, the rest in one bar, and missing values in one."""
    sides = [current, *(side for side in others.values() if isinstance(side, CategoryColumn))]
    shares = [np.asarray(side.counts, dtype=np.float64) / max(side.rows, 1) for side in sides]
    peak = np.max(shares, axis=0)[:-1]
    shown = np.sort(np.argsort(-peak, kind="stable")[:CHART_CATEGORIES])
    names = [current.categories[i] for i in shown]
    other = any(
        1 - share[shown].sum() - side.missing / max(side.rows, 1) > 1e-9
        for side, share in zip(sides, shares, strict=True)
    )
    missing = any(side.missing for side in sides)

    def bars(side: NumberColumn | CategoryColumn) -> tuple[float, ...]:
        total = max(side.rows, 1)
        share = np.asarray(side.counts, dtype=np.float64)[shown] / total
        lost = side.missing / total
        tail = ([max(0.0, 1 - share.sum() - lost)] if other else []) + ([lost] if missing else [])
        return tuple(float(each) for each in np.round([*share, *tail], 6))

    return Chart(
        column=current.name,
        kind="category",
        labels=(*names, *(["(other)"] if other else []), *(["(missing)"] if missing else [])),
        current=bars(current),
        **{which: bars(side) for which, side in others.items() if side.bins == current.bins},
    )
