"""Student's interval of a mean, the interval of a median, and Spearman's rank correlation.

scipy.stats takes longer to import than all of `core`, so it is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, sqrt

import numpy as np


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation, ties at their mean rank; NaN where one side is constant or not finite.

    It is `scipy.stats.spearmanr` but for the last bits, which analyses that are on disk have as they are here.
    """
    from scipy.stats import rankdata

    if len(a) < 2 or not np.isfinite([a, b]).all() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the median, at the ranks that the binomial distribution gives; fewer than six: their range."""
    from scipy.stats import quantile_test

    found = quantile_test(values, p=0.5).confidence_interval(0.95)
    if isnan(found.low) or isnan(found.high):  # no two of so few values are far enough apart
        return float(np.min(values)), float(np.max(values))
    return float(found.low), float(found.high)


def guessing(classes: int, images: int) -> tuple[float, float]:
    """Share of so many images that guessing one of the classes gets right, and its standard error."""
    chance = 1 / classes
    return chance, sqrt(chance * (1 - chance) / images)


def is_near_chance(right: float, classes: int, images: int) -> bool:
    """Whether a share of right images is within two standard errors of guessing, or below; never of fewer than two."""
    if classes < 2 or not images:
        return False
    chance, error = guessing(classes, images)
    return right <= chance + 2 * error


def interval(values: Sequence[float]) -> float | None:
    """Half the width of Student's 95 % interval of the mean; None for fewer than two values."""
    from scipy.stats import t

    count = len(values)
    if count < 2:
        return None
    return float(t.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / sqrt(count)
