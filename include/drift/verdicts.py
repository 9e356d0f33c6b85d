"""How far a version's columns have moved from their references, and which of it is news."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import numpy as np

from include.config import Drift
from include.drift.charts import Which
from include.drift.distances import js, ks, psi, psi_noise, wasserstein
from include.drift.histograms import CategoryColumn, NumberColumn
from include.drift.profiles import Profile
from include.run import ColumnDrift, DriftVerdict, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Counts = NDArray[np.float64]

PSI_BINS = 10
MIN_EXPECTED = 5  # rows that a bin should expect on the smaller side, for the noise to be right

_WORSE: dict[DriftVerdict, int] = {"unknown": 0, "stable": 1, "warn": 2, "alert": 3}


class Reference(Value):
    """What a version was compared with; `versions` are the trailing dates and their versions."""

    rows: int
    versions: tuple[tuple[dt.date, str], ...] = ()


def compare(
    current: Profile, reference: Profile, which: Which, config: Drift
) -> tuple[ColumnDrift, ...]:
    """Every column that both have, in the order of `current`; none where a side has no rows."""
    found = []
    for column in current.columns:
        other = reference.column(column.name)
        if other is not None and column.rows and other.rows:
            found.append(column_drift(column, other, which, config))
    return tuple(found)


def column_drift(
    current: NumberColumn | CategoryColumn,
    reference: NumberColumn | CategoryColumn,
    which: Which,
    config: Drift,
) -> ColumnDrift:
    """One column against one reference; both hold rows, in the same bins.

    PSI and JS are over ten bins of equal reference mass, or the categories, with missing values
    as a bin of their own. KS and Wasserstein are over the fine bins, without the missing values;
    they are None for categories and where a side has no values, and Wasserstein is None also
    where the reference does not vary, for then it has no unit.
    """
    n, m = reference.rows, current.rows
    expected, actual = _psi_bins(reference, current)
    index, noise = psi(expected, actual), psi_noise(len(expected), n, m)
    distance = shift = None
    if (
        isinstance(current, NumberColumn)
        and isinstance(reference, NumberColumn)
        and current.values
        and reference.values
    ):
        distance = ks(reference.counts, current.counts)
        shift = _shift(current, reference)
    warn, alert = config.limits_of(current.name)
    verdict: DriftVerdict = "stable"
    if index > max(alert, noise):
        verdict = "alert"
    elif index > max(warn, noise):
        verdict = "warn"
    return ColumnDrift(
        column=current.name,
        reference=which,
        psi=index,
        noise_psi=noise,
        js=js(expected, actual),
        ks=distance,
        wasserstein=shift,
        missing_share=current.missing / m,
        reference_missing_share=reference.missing / n,
        verdict=verdict,
    )


def overall(columns: tuple[ColumnDrift, ...], ignored: tuple[str, ...]) -> DriftVerdict:
    """The worst verdict of the columns that count; unknown where nothing was compared."""
    counting = [column.verdict for column in columns if column.column not in ignored]
    return max(counting, key=_WORSE.__getitem__, default="unknown")


def _psi_bins(
    reference: NumberColumn | CategoryColumn, current: NumberColumn | CategoryColumn
) -> tuple[Counts, Counts]:
    """Counts of both sides in the bins that PSI is taken over."""
    expected = np.asarray(reference.counts, dtype=np.float64)
    actual = np.asarray(current.counts, dtype=np.float64)
    smaller = min(reference.rows, current.rows)
    if isinstance(reference, NumberColumn) and expected.sum():
        bins = int(np.clip(smaller // MIN_EXPECTED, 2, PSI_BINS))
        middle = (np.cumsum(expected) - expected / 2) / expected.sum()
        group = np.minimum((middle * bins).astype(np.int64), bins - 1)
        expected = np.bincount(group, weights=expected, minlength=bins).astype(np.float64)
        actual = np.bincount(group, weights=actual, minlength=bins).astype(np.float64)
    expected = np.append(expected, reference.missing)
    actual = np.append(actual, current.missing)
    # Bins that are rare on both sides are one bin: few rows make PSI noisier than chi-square says.
    pooled = (expected + actual) / (expected.sum() + actual.sum())
    rare = pooled * smaller < MIN_EXPECTED
    rest = [[side[rare].sum()] if rare.any() else [] for side in (expected, actual)]
    expected = np.concatenate((expected[~rare], rest[0]))
    actual = np.concatenate((actual[~rare], rest[1]))
    held = (expected > 0) | (actual > 0)
    return expected[held], actual[held]


def _shift(current: NumberColumn, reference: NumberColumn) -> float | None:
    """Wasserstein distance in units of the reference's standard deviation."""
    limits, other = reference.limits, current.limits
    if limits is None or other is None or not reference.std:
        return None
    distance = wasserstein(reference.edges, reference.counts, current.counts, limits, other)
    scaled = distance / reference.std
    return scaled if np.isfinite(scaled) else None
