import itertools
import math

import numpy as np
import pytest
from scipy import stats

from tst_lightning.comparison.analysis.statistics import (
    correct,
    crossing,
    holm,
    mean_curve,
    paired_difference,
    summarize,
    x_at_step,
)


def test_summary_of_three_values_by_hand() -> None:
    summary = summarize([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.30265, standard error = 1 / sqrt(3)
    assert (summary.n, summary.mean, summary.sd) == (3, 2.0, 1.0)
    assert summary.low == pytest.approx(2 - 4.30265 / math.sqrt(3), abs=1e-5)
    assert summary.high == pytest.approx(2 + 4.30265 / math.sqrt(3), abs=1e-5)


def test_summary_of_one_value_has_no_spread() -> None:
    summary = summarize([1.5])
    assert (summary.n, summary.mean, summary.sd, summary.low, summary.high) == (1, 1.5, None, None, None)
    assert summarize([]) is None


def test_paired_difference_agrees_with_scipy() -> None:
    generator = np.random.default_rng(0)
    baseline = dict(enumerate(generator.normal(1.4, 0.02, 6)))
    arm = {seed: value - 0.03 + generator.normal(0, 0.005) for seed, value in baseline.items()}
    found = paired_difference(arm, baseline)
    reference = stats.ttest_rel(list(arm.values()), list(baseline.values()))
    interval = reference.confidence_interval(0.95)
    assert found.p_value == pytest.approx(reference.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.is_shown
    assert found.mean < 0


def test_pairs_are_made_by_seed_and_only_of_common_seeds() -> None:
    found = paired_difference({3: 1.0, 1: 2.0, 9: 50.0}, {1: 1.5, 3: 1.25, 7: 0.0})
    assert found.by_seed == {3: -0.25, 1: 0.5}
    assert found.mean == 0.125
    assert not found.is_shown
    assert paired_difference({1: 1.0}, {2: 1.0}) is None


def test_one_pair_shows_nothing_and_neither_do_equal_differences() -> None:
    single = paired_difference({1: 1.0}, {1: 2.0})
    assert (single.mean, single.p_value, single.is_shown) == (-1.0, None, False)
    equal = paired_difference({1: 1.0, 2: 2.0}, {1: 2.0, 2: 3.0})
    assert (equal.mean, equal.p_value, equal.low, equal.is_shown, equal.has_test) == (-1.0, 1.0, None, False, False)


@pytest.mark.parametrize("single", [False, True])
def test_differences_that_are_equal_but_for_rounding_are_no_proof(single: bool) -> None:
    arm, baseline = {1: 0.4, 2: 0.3, 3: 1.7}, {1: 0.3, 2: 0.2, 3: 1.6}
    if single:  # as event files hold them
        arm, baseline = ({seed: float(np.float32(value)) for seed, value in side.items()} for side in (arm, baseline))
    found = paired_difference(arm, baseline)
    assert found.sd > 0
    assert (found.p_value, found.low, found.is_shown) == (1.0, None, False)
    # It stays one of the comparisons that are corrected together.
    other = paired_difference({1: 1.0, 2: 1.1, 3: 1.3}, {1: 1.5, 2: 1.61, 3: 1.78})
    family = correct([found, other])
    assert family[1].p_holm == pytest.approx(2 * other.p_value)
    assert not family[0].is_shown
    assert summarize(list(found.by_seed.values())[:2] if not single else [0.1, 0.1]).low is None


def test_crossing_is_interpolated_between_validations() -> None:
    # The gap is +1 at x = 1 and -1 at x = 2: zero half-way.
    found = crossing([0, 1, 2, 3], [5, 3, 0, 0], [0, 1, 2, 3], [4, 2, 1, 1])
    assert (found.x, found.from_start) == (1.5, False)


def test_crossing_is_the_last_one() -> None:
    x = [0, 1, 2, 3, 4]
    assert crossing(x, [-1, -1, 1, -3, -1], x, [0] * 5).x == pytest.approx(2.25)


def test_no_crossing_when_the_arm_ends_above_or_level() -> None:
    x = [0, 1, 2]
    assert crossing(x, [-1, -1, 1], x, [0, 0, 0]) is None
    assert crossing(x, [-1, -1, 0], x, [0, 0, 0]) is None
    assert crossing([], [], x, [0, 0, 0]) is None


def test_crossing_from_the_start() -> None:
    assert crossing([1, 2], [0, 0], [1, 2], [1, 1]).from_start


def test_crossing_interpolates_the_baseline_and_keeps_to_its_range() -> None:
    # Baseline y = 4 - x at 0, 2, 4; the arm's point at 9 lies beyond it and does not count.
    assert crossing([1, 3, 9], [4, 0, -9], [0, 2, 4], [4, 2, 0]).x == pytest.approx(2.0)


def test_mean_curve_uses_common_steps_only() -> None:
    steps, x, y = mean_curve([([1, 2, 3], [10, 20, 30], [3.0, 2.0, 1.0]), ([2, 3, 4], [22, 32, 42], [4.0, 3.0, 9.0])])
    assert steps.tolist() == [2, 3]
    assert x.tolist() == [21, 31]
    assert y.tolist() == [3.0, 2.0]
    assert len(mean_curve([])[0]) == len(mean_curve([([1], [1], [1]), ([2], [2], [2])])[0]) == 0


def test_x_at_step_starts_at_zero_and_ends_with_the_curve() -> None:
    assert x_at_step(5, [10, 20], [100, 400]) == 50
    assert x_at_step(15, [10, 20], [100, 400]) == 250
    assert x_at_step(21, [10, 20], [100, 400]) is None
    assert x_at_step(1, [], []) is None


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; the last may not fall below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == [0.8, 0.9]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_the_closed_test_of_bonferroni(seed: int) -> None:
    generator = np.random.default_rng(seed)
    p_values = (generator.random(1 + seed % 5) ** 3).tolist()
    if seed % 3 == 0:
        p_values.append(p_values[0])
    places = range(len(p_values))
    sets = [chosen for size in places for chosen in itertools.combinations(places, size + 1)]
    # A hypothesis is rejected if every set of hypotheses that contains it is, as a whole.
    closed = [
        max(min(1.0, len(chosen) * min(p_values[other] for other in chosen)) for chosen in sets if place in chosen)
        for place in places
    ]
    assert holm(p_values) == pytest.approx(closed)


def test_correction_decides_what_is_shown() -> None:
    generator = np.random.default_rng(1)
    baseline = dict(enumerate(generator.normal(1.4, 0.02, 5)))
    clear = paired_difference(
        {seed: value - 0.05 for seed, value in baseline.items()} | {0: baseline[0] - 0.06}, baseline
    )
    weak = paired_difference(
        dict(enumerate(np.array([-0.010, -0.009, -0.002, -0.001, -0.008]))), dict.fromkeys(range(5), 0)
    )
    assert 0.01 < weak.p_value < 0.05
    assert weak.is_shown
    family = correct([clear, None, *[weak] * 4, paired_difference({1: 1.0}, {1: 2.0})])
    assert family[0].p_holm == pytest.approx(5 * clear.p_value)
    assert family[2].p_holm == pytest.approx(4 * weak.p_value)
    assert (family[0].is_shown, family[2].is_shown) == (True, False)
    assert family[1] is None
    assert family[6].p_holm is None


def test_values_that_are_not_finite_are_not_paired() -> None:
    found = paired_difference({1: math.nan, 2: 1.0, 3: math.inf, 4: 2.0}, {1: 1.0, 2: 1.5, 3: 1.0, 4: math.nan})
    assert (found.n, found.by_seed) == (1, {2: -0.5})
    assert paired_difference({1: math.nan}, {1: 1.0}) is None
