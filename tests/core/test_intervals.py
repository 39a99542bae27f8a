import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_realloc.core.intervals import rank_correlation


def test_rank_correlation_by_hand():
    assert rank_correlation(np.array([1, 2, 3, 4]), np.array([10, 20, 30, 90])) == pytest.approx(1)
    assert rank_correlation(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5 against 1, 2, 3: covariance 0.5 * 3 / (sqrt(1.5) * sqrt(2))
    assert rank_correlation(np.array([0, 5, 5]), np.array([1, 2, 3])) == pytest.approx(1.5 / 3**0.5)
    assert np.isnan(rank_correlation(np.ones(3), np.arange(3)))


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=20), st.integers(1, 9))
def test_rank_correlation_ignores_monotone_maps(values, factor):
    a = np.array(values, dtype=float)
    b = np.random.default_rng(0).permutation(a)
    np.testing.assert_allclose(rank_correlation(a, b), rank_correlation(factor * a + 3, np.exp(b)), equal_nan=True)
