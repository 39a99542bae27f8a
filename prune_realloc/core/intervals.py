"""Student's interval of a mean, the interval of a median, and Spearman's rank correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import sqrt

import numpy as np


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation, ties at their mean rank; NaN where one side is constant or not finite."""
    if len(a) < 2 or not np.isfinite([a, b]).all() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the median by order statistics (ranks n / 2 -+ 0.98 sqrt(n)); few values: their range."""
    n = len(values)
    ordered = np.sort(values)
    low = math.floor((n - 1.96 * math.sqrt(n)) / 2) - 1
    high = math.ceil((n + 1.96 * math.sqrt(n)) / 2)
    return float(ordered[max(low, 0)]), float(ordered[min(high, n - 1)])


_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Two-sided 95 % quantiles of Student's t for 1 to 10 degrees of freedom."""
_Z = 1.959964
"""And of the normal distribution."""


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of the mean; None for fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    return _quantile(count - 1) * float(np.std(values, ddof=1)) / sqrt(count)


def _quantile(freedom: int) -> float:
    """Of Student's t; beyond the table by Abramowitz and Stegun 26.7.5, to 2e-4 there."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    terms = (
        _Z,
        (_Z**3 + _Z) / 4,
        (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96,
        (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
