"""Welch's t of two samples, against the textbook's formula."""

import random

import pytest
from two_reports import welch_by_hand

from tst_lightning.comparison.against.welch import welch_difference


@pytest.mark.parametrize("sizes", [(2, 2), (3, 5), (6, 2)])
def test_welch_is_the_textbook_formula(sizes: tuple[int, int]) -> None:
    rng = random.Random(sum(sizes))
    one, other = [rng.gauss(1.5, 0.01) for _ in range(sizes[0])], [rng.gauss(1.49, 0.04) for _ in range(sizes[1])]
    found = welch_difference(one, other)
    assert (found.mean, found.low, found.high, found.p_value) == pytest.approx(welch_by_hand(one, other))
    assert found.n == sizes


def test_welch_without_spread_tells_nothing() -> None:
    assert welch_difference([], [1.0]) is None
    for one, other in (([1.0], [2.0, 2.1]), ([1.0, 1.0], [2.0, 2.0]), ([0.4 - 0.3, 0.3 - 0.2], [0.2, 0.2])):
        found = welch_difference(one, other)
        assert (found.low, found.high, found.p_value, found.is_shown) == (None, None, None, False)
        assert found.mean == pytest.approx(one[0] - sum(other) / 2)
