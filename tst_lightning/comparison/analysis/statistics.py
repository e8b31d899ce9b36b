"""The arithmetic of a comparison: summaries over seeds, paired differences, where one curve passes another.

Pure functions of numbers. Losses are in nats per token, and a negative difference to the baseline means
*ahead*.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

CONFIDENCE = 0.95
NO_SPREAD = 1e-6
"""Values whose standard deviation is a smaller share of their size are equal but for rounding: event files hold losses
in single precision. A t test would take such a spread for certainty."""


@dataclass(frozen=True)
class Summary:
    """Values over seeds. ``sd`` is None below two values, ``low`` and ``high`` also where the values have no spread."""

    n: int
    mean: float
    sd: float | None
    """Sample standard deviation (n - 1)."""
    low: float | None
    """Lower end of the 95 % interval of the mean (Student t)."""
    high: float | None


@dataclass(frozen=True)
class PairedDifference:
    """Arm minus baseline, paired by seed."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    p_value: float | None
    """Two-sided paired t test; None below two pairs. 1 where all differences are equal: nothing tells how far chance
    moves them, and the pair still counts among those that are corrected together."""
    by_seed: dict[int, float]
    p_holm: float | None = None
    """``p_value`` corrected for the comparisons made with it (``holm``); None where it was made alone."""

    @property
    def is_shown(self) -> bool:
        """Whether the difference is told from zero at the level of 5 %, corrected where it is one of several."""
        if self.p_holm is not None:
            return self.p_holm < 1 - CONFIDENCE
        return self.low is not None and (self.low > 0 or self.high < 0)

    @property
    def has_test(self) -> bool:
        """There are two pairs or more, and their differences are not all equal."""
        return self.low is not None


@dataclass(frozen=True)
class Crossing:
    """From here to the end an arm's curve lies below the baseline's."""

    x: float
    from_start: bool
    """The arm was below at every point that both curves have."""


def summarize(values: Sequence[float], size: float | None = None) -> Summary | None:
    """Mean, standard deviation and 95 % interval over seeds; None without values.

    Args:
        values: one per seed.
        size: of the numbers that rounding has touched, for ``NO_SPREAD``; the largest value by default.
    """
    from scipy import stats

    n = len(values)
    if n == 0:
        return None
    mean = float(np.mean(values))
    if n == 1:
        return Summary(1, mean, None, None, None)
    sd = float(np.std(values, ddof=1))
    if sd <= NO_SPREAD * (max(map(abs, values)) if size is None else size):
        return Summary(n, mean, sd, None, None)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def paired_difference(arm: Mapping[int, float], baseline: Mapping[int, float]) -> PairedDifference | None:
    """Compare two arms on the seeds for which both have a finite value.

    Pairing takes out what the seeds share: the same initial weights and the same order of the data.

    Args:
        arm: Seed -> value.
        baseline: Seed -> value.

    Returns:
        None without a common seed.
    """
    from scipy import stats

    differences = {seed: arm[seed] - baseline[seed] for seed in arm if seed in baseline}
    by_seed = {seed: difference for seed, difference in differences.items() if math.isfinite(difference)}
    size = max((abs(side[seed]) for side in (arm, baseline) for seed in by_seed), default=0.0)
    summary = summarize(list(by_seed.values()), size)
    if summary is None:
        return None
    p_value = None if summary.n == 1 else 1.0
    if summary.low is not None:
        p_value = float(stats.ttest_1samp(list(by_seed.values()), 0.0).pvalue)
    return PairedDifference(summary.n, summary.mean, summary.sd, summary.low, summary.high, p_value, by_seed)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: the chance of one or more false findings stays below the level that these are held to.

    The smallest of m p values is multiplied by m, the next by m - 1, and so on; none falls below one before it.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def correct(tests: Sequence[Any]) -> list[Any]:
    """The tests of one family with ``holm``'s correction as their ``p_holm``.

    Args:
        tests: Dataclasses with ``p_value`` and ``p_holm``. None, and tests without a p value, stay as they are.
    """
    places = [place for place, test in enumerate(tests) if test is not None and test.p_value is not None]
    corrected = list(tests)
    for place, p_holm in zip(places, holm([tests[place].p_value for place in places]), strict=True):
        corrected[place] = replace(tests[place], p_holm=p_holm)
    return corrected


def mean_curve(
    curves: Sequence[tuple[Sequence[float], Sequence[float], Sequence[float]]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average curves over seeds at the steps that all of them have.

    Args:
        curves: Per seed ``(steps, x, y)`` of equal lengths, steps ascending; ``x`` is FLOPs or seconds.

    Returns:
        Arrays ``(steps, x, y)``; ``x`` is averaged too, because seconds differ from seed to seed.
    """
    tables = [{step: (x, y) for step, x, y in zip(*curve, strict=True)} for curve in curves]
    common = sorted(set.intersection(*map(set, tables))) if tables else []
    if not common:
        return np.array([]), np.array([]), np.array([])
    means = np.array([[table[step] for step in common] for table in tables], dtype=float).mean(axis=0)
    return np.array(common), means[:, 0], means[:, 1]


def crossing(
    arm_x: Sequence[float], arm_y: Sequence[float], baseline_x: Sequence[float], baseline_y: Sequence[float]
) -> Crossing | None:
    """Where an arm's loss curve passes below the baseline's for good.

    The baseline is interpolated linearly at the arm's points, within the range that both curves cover, and
    the crossing linearly between the last point at or above and the first of those below.

    Returns:
        None if the arm is not below at the last common point, or no point is common.
    """
    arm_x, arm_y = np.asarray(arm_x, float), np.asarray(arm_y, float)
    baseline_x, baseline_y = np.asarray(baseline_x, float), np.asarray(baseline_y, float)
    if not len(arm_x) or not len(baseline_x):
        return None
    # A run's last point may overshoot the other's by rounding alone: compare it with the last value.
    slack = 1e-6 * abs(baseline_x[-1])
    inside = (arm_x >= baseline_x[0] - slack) & (arm_x <= baseline_x[-1] + slack)
    x, gap = arm_x[inside], arm_y[inside] - np.interp(arm_x[inside], baseline_x, baseline_y)
    if not len(x) or gap[-1] >= 0:
        return None
    above = np.flatnonzero(gap >= 0)
    if not len(above):
        return Crossing(float(x[0]), True)
    last = above[-1]
    share = gap[last] / (gap[last] - gap[last + 1])
    return Crossing(float(x[last] + share * (x[last + 1] - x[last])), False)


def x_at_step(step: int, steps: Sequence[float], x: Sequence[float]) -> float | None:
    """FLOPs or seconds at an optimizer step, linear between validations, from zero at step zero."""
    if not len(steps) or step > steps[-1]:
        return None
    if steps[0] > 0:
        steps, x = [0, *steps], [0, *x]
    return float(np.interp(step, steps, x))
