"""Intervals and rank correlation against values by hand and from tables."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from prune_realloc.core.intervals import interval, median_interval, rank_correlation


def test_rank_correlation_by_hand():
    assert rank_correlation(np.array([1, 2, 3, 4]), np.array([10, 20, 30, 90])) == pytest.approx(1)
    assert rank_correlation(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5 against 1, 2, 3: covariance 0.5 * 3 / (sqrt(1.5) * sqrt(2))
    assert rank_correlation(np.array([0, 5, 5]), np.array([1, 2, 3])) == pytest.approx(1.5 / 3**0.5)
    assert np.isnan(rank_correlation(np.ones(3), np.arange(3)))
    assert np.isnan(rank_correlation(np.array([1.0, np.inf, 3.0]), np.arange(3)))


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=20), st.integers(1, 9))
def test_rank_correlation_ignores_monotone_maps(values, factor):
    a = np.array(values, dtype=float)
    b = np.random.default_rng(0).permutation(a)
    np.testing.assert_allclose(rank_correlation(a, b), rank_correlation(factor * a + 3, np.exp(b)), equal_nan=True)


@pytest.mark.parametrize(
    ("count", "quantile"), [(2, 12.7062047362), (3, 4.3026527297), (6, 2.5705818356), (12, 2.2009851601)]
)
def test_students_interval_by_its_table(count, quantile):
    values = np.arange(float(count)) ** 2
    assert interval(values) == pytest.approx(quantile * np.std(values, ddof=1) / count**0.5, rel=1e-9)


def test_one_value_has_no_interval():
    assert interval([0.5]) is None
    assert interval([]) is None


def test_median_interval_against_the_binomial():
    values = np.arange(100.0)
    # ranks 40 and 61 of 100 (from 1): Conover's table
    assert median_interval(values) == (39.0, 60.0)
    assert median_interval(values[:1]) == (0.0, 0.0)


@given(st.integers(6, 300))
def test_median_interval_is_the_narrowest_that_holds_95_percent(count):
    low, high = map(int, median_interval(np.random.default_rng(0).permutation(count).astype(float)))
    assert low + high == count - 1
    assert binom.cdf(high, count, 0.5) - binom.cdf(low, count, 0.5) >= 0.95
    assert binom.cdf(high - 1, count, 0.5) - binom.cdf(low + 1, count, 0.5) < 0.95


def test_few_values_have_their_range():
    assert median_interval(np.array([3.0, 1.0, 2.0, 5.0, 4.0])) == (1.0, 5.0)


def test_importing_the_room_does_not_import_scipy():
    line = "import prune_realloc.core.intervals, sys; sys.exit('scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", line], check=True)
