"""Distances from histograms agree with what SciPy computes from the rows."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from include.drift.distances import js, ks, psi, psi_noise, wasserstein
from include.drift.histograms import NumberColumn, counted
from include.drift.profiles import profile


def _pair(reference: np.ndarray, actual: np.ndarray) -> tuple[NumberColumn, NumberColumn]:
    column = profile(pa.table({"x": reference})).columns[0]
    other = counted(column, pa.chunked_array([actual]))
    full = counted(column, pa.chunked_array([reference]))
    assert isinstance(full, NumberColumn)
    assert isinstance(other, NumberColumn)
    return full, other


def _wasserstein(a: NumberColumn, b: NumberColumn) -> float:
    assert a.limits is not None
    assert b.limits is not None
    return wasserstein(a.edges, a.counts, b.counts, a.limits, b.limits)


def test_psi_is_the_textbook_sum() -> None:
    expected, actual = [400, 300, 300], [200, 300, 500]
    by_hand = (0.2 - 0.4) * math.log(0.2 / 0.4) + (0.5 - 0.3) * math.log(0.5 / 0.3)
    assert psi(expected, actual) == pytest.approx(by_hand, rel=1e-12)


def test_psi_does_not_change_with_the_sides_or_the_scale() -> None:
    assert psi([10, 20, 70], [30, 30, 40]) == pytest.approx(psi([30, 30, 40], [10, 20, 70]))
    assert psi([10, 20, 70], [30, 30, 40]) == pytest.approx(psi([100, 200, 700], [3, 3, 4]))


def test_an_empty_bin_counts_as_half_a_row_and_psi_stays_finite() -> None:
    p, q = np.array([100, 0.5]) / 100.5, np.array([50, 50]) / 100
    assert psi([100, 0], [50, 50]) == pytest.approx(float(np.sum((q - p) * np.log(q / p))))


def test_bins_that_are_empty_on_both_sides_change_nothing() -> None:
    assert psi([10, 0, 20, 0], [20, 0, 10, 0]) == psi([10, 20], [20, 10])


def test_histograms_of_different_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="different bins"):
        psi([1, 2, 3], [1, 2])


@pytest.mark.parametrize("bins", [2, 3, 5, 10, 20, 42])
def test_the_noise_quantile_is_that_of_chi_square_within_four_percent(bins: int) -> None:
    exact = scipy.stats.chi2.ppf(0.999, bins - 1) * (1 / 1000 + 1 / 5000)
    assert exact <= psi_noise(bins, 1000, 5000) * 1.0005
    assert psi_noise(bins, 1000, 5000) <= exact * 1.04


@pytest.mark.parametrize(("bins", "n", "m"), [(10, 500, 500), (10, 20_000, 400), (5, 300, 3_000)])
def test_samples_of_one_distribution_exceed_the_noise_about_once_in_a_thousand(
    bins: int, n: int, m: int
) -> None:
    rng = np.random.default_rng(bins * n + m)
    rounds, even = 20_000, np.full(bins, 1 / bins)
    noise = psi_noise(bins, n, m)
    pairs = zip(rng.multinomial(n, even, rounds), rng.multinomial(m, even, rounds), strict=True)
    beyond = sum(psi(a, b) > noise for a, b in pairs)
    assert 3 <= beyond <= 45, f"{beyond} of {rounds}"


def test_noise_is_infinite_without_rows_and_zero_for_one_bin() -> None:
    assert psi_noise(10, 0, 100) == math.inf
    assert psi_noise(1, 100, 100) == 0.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=30))
def test_js_is_scipys_jensenshannon_squared(counts: list[tuple[int, int]]) -> None:
    p, q = (np.array(side) for side in zip(*counts, strict=True))
    if p.sum() == 0 or q.sum() == 0:
        assert js(p, q) == 0.0
        return
    exact = scipy.spatial.distance.jensenshannon(p, q) ** 2
    assert js(p, q) == pytest.approx(float(np.nan_to_num(exact)), abs=1e-12)
    assert 0.0 <= js(p, q) <= math.log(2) + 1e-12


def _samples(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two samples of shapes that real columns have: skewed, discrete, spiked, shifted, tiny."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 3_000)), int(rng.integers(1, 3_000))
    shift, scale = rng.normal(0, 1), rng.lognormal(0, 0.5)
    shape = seed % 5
    if shape == 0:
        return rng.normal(0, 1, n), rng.normal(shift, scale, m)
    if shape == 1:
        return rng.lognormal(0, 1, n), rng.lognormal(shift / 3, 1, m)
    if shape == 2:
        return rng.poisson(3, n).astype(float), rng.poisson(3 * scale, m).astype(float)
    if shape == 3:
        spiked = [
            np.where(rng.random(k) < 0.6, 0.0, rng.normal(s, 1, k))
            for k, s in ((n, 0.0), (m, shift))
        ]
        return spiked[0], spiked[1]
    return rng.integers(0, 2, n).astype(float), rng.integers(0, 2, m).astype(float)


@pytest.mark.parametrize("seed", range(40))
def test_ks_from_bins_is_short_of_the_rows_by_less_than_one_bin(seed: int) -> None:
    reference, actual = _samples(seed)
    full, other = _pair(reference, actual)
    exact = float(scipy.stats.ks_2samp(reference, actual).statistic)
    fullest = max(max(c.counts) / sum(c.counts) for c in (full, other))
    found = ks(full.counts, other.counts)
    assert found <= exact + 1e-12
    assert exact <= found + fullest + 1e-12


@pytest.mark.parametrize("seed", range(40))
def test_wasserstein_from_bins_is_within_the_bins_width_of_the_rows(seed: int) -> None:
    reference, actual = _samples(seed)
    full, other = _pair(reference, actual)
    exact = float(scipy.stats.wasserstein_distance(reference, actual))
    low, high = min(reference.min(), actual.min()), max(reference.max(), actual.max())
    widths = np.diff([min(low, full.edges[0]), *full.edges, max(high, full.edges[-1])])
    share = [np.asarray(c.counts) / sum(c.counts) for c in (full, other)]
    bound = float(np.sum(widths * np.maximum(*share)))
    assert abs(_wasserstein(full, other) - exact) <= bound + 1e-9


def test_columns_of_few_values_lose_nothing_to_their_bins() -> None:
    rng = np.random.default_rng(5)
    reference = rng.choice([0.0, 1.0, 2.5, 40.0], 5_000, p=[0.7, 0.1, 0.1, 0.1])
    actual = rng.choice([0.0, 1.0, 2.5, 40.0], 4_000, p=[0.2, 0.3, 0.3, 0.2])
    full, other = _pair(reference, actual)
    assert ks(full.counts, other.counts) == pytest.approx(
        float(scipy.stats.ks_2samp(reference, actual).statistic), abs=1e-12
    )
    exact = float(scipy.stats.wasserstein_distance(reference, actual))
    assert _wasserstein(full, other) == pytest.approx(exact, rel=1e-9)


def test_large_continuous_samples_agree_closely_with_scipy() -> None:
    rng = np.random.default_rng(11)
    reference, actual = rng.gamma(2, 3, 100_000), rng.gamma(2.2, 3, 80_000)
    full, other = _pair(reference, actual)
    assert ks(full.counts, other.counts) == pytest.approx(
        float(scipy.stats.ks_2samp(reference, actual).statistic), abs=2e-3
    )
    exact = float(scipy.stats.wasserstein_distance(reference, actual))
    assert _wasserstein(full, other) == pytest.approx(exact, rel=0.02)


def test_a_point_that_moved_is_as_far_as_it_moved() -> None:
    full, other = _pair(np.zeros(10), np.full(10, 3.0))
    assert ks(full.counts, other.counts) == 1.0
    assert _wasserstein(full, other) == pytest.approx(3.0)
