"""tst_lightning.plan.recommendation: what the paper's grids say, and where they say nothing."""

import pytest

from tst_lightning.plan.paper_grids import BAG_SIZES, GRIDS
from tst_lightning.plan.recommendation import INDISTINCT_NATS, recommend


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.name)
def test_at_a_grids_own_ratio_its_own_best_is_recommended(grid):
    found = recommend(grid.baseline_tokens, grid.parameters)
    best = max(grid.gain(size, ratio) for ratio in grid.losses for size in BAG_SIZES)
    assert best - INDISTINCT_NATS <= grid.gain(found.bag_size, found.step_ratio) <= best
    assert found.expected_gain_nats == pytest.approx(grid.gain(found.bag_size, found.step_ratio))
    assert found.data_tokens == round(grid.baseline_tokens * (1 + found.step_ratio * (found.bag_size - 1)))
    assert not any("extrapolated" in reason for reason in found.reasons)
    cheaper = [
        (size, ratio)
        for ratio in grid.losses
        for size in BAG_SIZES
        if grid.gain(size, ratio) >= best - INDISTINCT_NATS
        and ratio * (size - 1) < found.step_ratio * (found.bag_size - 1) - 1e-9
    ]
    assert cheaper == []


def test_the_published_numbers():
    """By hand: the paper's losses at s=6, r=0.3, and its baselines."""
    by_name = {grid.name: grid for grid in GRIDS}
    assert by_name["270M, 20,000 steps"].gain(6, 0.3) == pytest.approx(3.2124 - 3.1423)
    assert by_name["270M, 100,000 steps"].gain(6, 0.3) == pytest.approx(3.0921 - 3.0480)
    assert by_name["600M, 20,000 steps"].gain(6, 0.3) == pytest.approx(3.0186 - 2.9439)
    assert [round(grid.tokens_per_parameter) for grid in GRIDS] == [70, 157, 785]
    assert all(len(row) == len(BAG_SIZES) for grid in GRIDS for row in grid.losses.values())


def test_between_grids_the_gain_lies_between():
    low, high = GRIDS[1:]
    parameters = 300_000_000
    middle = (low.tokens_per_parameter * high.tokens_per_parameter) ** 0.5
    found = recommend(int(middle * parameters), parameters)
    expected = [grid.gain(found.bag_size, found.step_ratio) for grid in (low, high)]
    assert found.expected_gain_nats == pytest.approx(sum(expected) / 2, abs=1e-6)


def test_little_data_changes_the_answer():
    positions, parameters = GRIDS[1].baseline_tokens, GRIDS[1].parameters
    free = recommend(positions, parameters)
    limited = recommend(positions, parameters, int(1.5 * positions))
    assert limited.data_tokens <= 1.5 * positions < free.data_tokens
    assert limited.expected_gain_nats < free.expected_gain_nats
    assert any("rule out" in reason for reason in limited.reasons)
    for available in (int(1.05 * positions), int(0.5 * positions)):
        none = recommend(positions, parameters, available)
        assert (none.bag_size, none.output_only) == (1, True)
        assert "your data is too small for this" in none.reasons[0]
        assert "output-only, or s=1" in none.reasons[0]


def test_far_below_the_grids_nothing_is_pretended():
    found = recommend(10**7, 10**6)
    assert (found.bag_size, found.step_ratio, found.expected_gain_nats) == (1, 0.0, None)
    text = " ".join(found.reasons)
    assert "say nothing about it" in text
    assert "compare" in text


@pytest.mark.parametrize(
    ("positions", "parameters"), [(10**11, 10**8), (10**10, 10**9), (10**13, 10**9), (4 * 10**12, 2 * 10**10)]
)
def test_beyond_the_grids_is_said_to_be_extrapolated(positions, parameters):
    found = recommend(positions, parameters)
    assert found.bag_size > 1
    assert any(reason.startswith("extrapolated") for reason in found.reasons)
