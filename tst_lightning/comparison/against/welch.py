"""Welch's t test: the difference of two means of independent runs, whose spread may differ."""

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from tst_lightning.comparison.analysis.statistics import CONFIDENCE, NO_SPREAD


@dataclass(frozen=True)
class WelchDifference:
    """Mean of one sample minus mean of another."""

    n: tuple[int, int]
    mean: float
    low: float | None
    """Lower end of the 95 % interval; None where a side has one value, or neither side has any spread."""
    high: float | None
    p_value: float | None
    """Two-sided."""
    p_holm: float | None = None
    """``p_value`` corrected for the comparisons made with it; None where it was made alone."""

    @property
    def is_shown(self) -> bool:
        """Whether the difference is told from zero at the level of 5 %, corrected where it is one of several."""
        p_value = self.p_value if self.p_holm is None else self.p_holm
        return p_value is not None and p_value < 1 - CONFIDENCE


def welch_difference(one: Sequence[float], other: Sequence[float]) -> WelchDifference | None:
    """Compare the means of independent values; None where a side has none."""
    from scipy import stats

    if not one or not other:
        return None
    sizes = (len(one), len(other))
    mean = math.fsum(one) / len(one) - math.fsum(other) / len(other)
    size = max(map(abs, (*one, *other)))
    if min(sizes) < 2 or max(statistics.stdev(side) for side in (one, other)) <= NO_SPREAD * size:
        return WelchDifference(sizes, mean, None, None, None)
    with warnings.catch_warnings():
        # Accuracies of one side are often equal to the last digit; the other side's spread is enough.
        warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
        test = stats.ttest_ind(one, other, equal_var=False)
    interval = test.confidence_interval(CONFIDENCE)
    return WelchDifference(sizes, mean, float(interval.low), float(interval.high), float(test.pvalue))
