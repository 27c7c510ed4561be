"""How sure is a number? Every interval, test and correction of the library, thin over scipy.

All intervals are 95%. Means over samples have t intervals, shares of texts Wilson's (1927),
everything else percentile bootstrap intervals. Tests are two-sided, and many at once are held to a
false discovery rate of 5% (Benjamini and Hochberg 1995).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

FALSE_DISCOVERIES = 0.05
"""Share of false discoveries that is accepted among tests that are judged together."""

NUMBERS_AT_ONCE = 2**22
"""Resamples are made in blocks of at most this many weights (32 MB)."""

_NORMAL_REACH = 1.96  # half an interval in standard errors, where n is large


# --- means ---------------------------------------------------------------------------------------


def standard_error(values: Array) -> Any:
    """Of the mean over the first axis, n values: NaN below two."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


def t_quantile(freedom: ArrayLike) -> Any:
    """Half a t interval in standard errors; of a mean of n values freedom is n - 1, and 0 has none:
    NaN."""
    from scipy.stats import t

    return t.ppf(0.975, freedom)


def welch(first: Array, n_first: int, second: Array, n_second: int) -> tuple[Array, Array]:
    """Standard error of a difference of means of unequal spread, and its degrees of freedom.

    Args:
        first, second: standard errors of both means (Welch 1947; Satterthwaite's freedom).
    """
    a, b = first**2, second**2
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = (a + b) ** 2 / (a**2 / max(n_first - 1, 1) + b**2 / max(n_second - 1, 1))
    return np.sqrt(a + b), np.where(np.isfinite(freedom), freedom, 1.0)


def normal_error(lower: Any, upper: Any) -> Any:
    """The standard error behind an interval over many tweets."""
    return (upper - lower) / (2 * _NORMAL_REACH)


# --- tests ---------------------------------------------------------------------------------------


def p_values(
    mean: Array, error: Array, freedom: ArrayLike | None, zero: NDArray[np.bool_]
) -> Array:
    """Two-sided tests of means against zero, by t, or by the normal law where freedom is None.

    Args:
        zero: means that are zero but for rounding: 1. Without any spread another mean is what it
            is: 0.
    """
    from scipy.stats import norm, t

    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.abs(mean / error)
        p = 2 * (norm.sf(size) if freedom is None else t.sf(size, freedom))
    found: Array = np.where(zero, 1.0, np.where(error == 0, 0.0, p))
    return found


def adjusted(p: Array, weights: NDArray[np.int64] | None = None) -> Array:
    """P values by Benjamini and Hochberg's procedure among those that are not NaN.

    Args:
        weights: how many tests each stands for (Benjamini and Hochberg 1997, "Multiple hypotheses
            testing with weights"); None: one.
    """
    from scipy.stats import false_discovery_control

    found, tested = np.full(p.shape, np.nan), ~np.isnan(p)
    if tested.any():
        times = np.ones_like(p, dtype=int)[tested] if weights is None else weights[tested]
        all_tests = false_discovery_control(np.repeat(p[tested], times), method="bh")
        found[tested] = all_tests[np.cumsum(times) - 1]
    return found


def bonferroni_quantile(tests: int) -> float:
    """Standard errors that one of so many normal means must be from zero, for 5% in all."""
    from scipy.stats import norm

    return float(norm.ppf(1 - 0.025 / max(tests, 1)))


# --- shares, ranks -------------------------------------------------------------------------------


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The interval of a share, hits of n."""
    from scipy.stats import binomtest

    found = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def spearman(first: Array, second: Array) -> float:
    """Spearman's rank correlation; NaN where one side has no two different values."""
    from scipy.stats import rankdata

    x, y = rankdata(first), rankdata(second)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


# --- bootstrap -----------------------------------------------------------------------------------


def percentile_interval(drawn: Array) -> tuple[Any, Any]:
    """The middle 95% of draws, over the first axis; those that are NaN are left out."""
    lower, upper = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return lower, upper


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float], n: int, *, draws: int, seed: int = 0
) -> tuple[float, float]:
    """The interval of a statistic of chosen rows of n, which are drawn anew.

    Draws in which it is not defined (a correlation of equal values) are left out; one row, or
    mostly such draws, have no interval: NaN.
    """
    generator = np.random.default_rng(seed)
    drawn = np.array([statistic(generator.integers(n, size=n)) for _ in range(draws * (n > 1))])
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < draws / 2:
        return float("nan"), float("nan")
    lower, upper = percentile_interval(drawn)
    return float(lower), float(upper)


def group_resamples(groups: NDArray[np.int64], draws: int) -> Iterator[Array]:
    """Blocks of weights (draws, texts): how often each text is in a draw of whole groups.

    The same groups give the same draws, so that scores on the same texts can be compared.

    Args:
        groups: (texts,), numbers from 0; texts of a group are drawn together.
    """
    count = int(groups.max()) + 1
    random = np.random.default_rng(0)
    size = max(1, NUMBERS_AT_ONCE // len(groups))
    for start in range(0, draws, size):
        block = min(size, draws - start)
        drawn = random.integers(count, size=(block, count)) + count * np.arange(block)[:, None]
        times = np.bincount(drawn.ravel(), minlength=block * count).reshape(block, count)
        yield times[:, groups].astype(np.float64)
