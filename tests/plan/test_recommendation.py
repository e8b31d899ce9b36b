"""tst_lightning.plan.recommendation: what the paper's grids say, and where they say nothing."""

import re
from pathlib import Path

import pytest
import yaml

from tst_lightning.plan.model_size import OutlinedModel, module_of
from tst_lightning.plan.paper_grids import BAG_SIZES, GRIDS, SINGLE_RUNS
from tst_lightning.plan.recommendation import INDISTINCT_NATS, recommend


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.name)
def test_at_a_grids_own_ratio_its_own_best_is_recommended(grid):
    found = recommend(grid.baseline_tokens, grid.parameters)
    best = max(grid.gain(size, ratio) for ratio in grid.losses for size in BAG_SIZES)
    assert best - INDISTINCT_NATS <= grid.gain(found.bag_size, found.step_ratio) <= best
    assert found.expected_gain_nats == pytest.approx(grid.gain(found.bag_size, found.step_ratio))
    assert found.data_tokens == round(grid.baseline_tokens * (1 + found.step_ratio * (found.bag_size - 1)))
    assert not found.extrapolated
    assert not any("extrapolated" in reason for reason in found.reasons)
    assert any(f"as in the paper's grid of {grid.name}" in reason for reason in found.reasons)
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


CONFIGS = Path(__file__).parents[2] / "configs"
MODELS = {"llama_270m": GRIDS[1].parameters, "llama_600m": GRIDS[0].parameters,
          "smollm3_3b": SINGLE_RUNS[0].active_parameters,
          "qwen3_moe_10b_a1b": SINGLE_RUNS[1].active_parameters}  # fmt: skip


@pytest.mark.parametrize(("name", "parameters"), MODELS.items())
def test_sizes_are_those_that_the_plan_counts(name, parameters):
    """Or the paper's own runs would be called extrapolated."""
    module = module_of(yaml.safe_load((CONFIGS / "model" / f"{name}.yaml").read_text()))
    assert OutlinedModel(module).size().active == parameters


def test_a_little_off_a_grid_is_not_extrapolated():
    """One position less, a vocabulary padded to a multiple of 128."""
    for grid in GRIDS:
        found = recommend(grid.baseline_tokens - 1, round(1.005 * grid.parameters))
        assert not found.extrapolated
        assert found.expected_gain_nats > 0


@pytest.mark.parametrize(
    ("positions", "parameters", "mixture", "first"),
    [
        (10**11, 10**8, False, "extrapolated: 1,000 tokens per active parameter"),
        (2 * 10**10, 10**9, False, "extrapolated: 20 tokens per active parameter"),
        (4 * 10**12, 2 * 10**10, False, "extrapolated: 20,000,000,000 active parameters"),
        (10**11, 7 * 10**8, False, "extrapolated: 700,000,000 active parameters"),
        (2 * 10**10, 10**8, False, "extrapolated: 100,000,000 active parameters"),
        (10**11, 5 * 10**8, True, "extrapolated: a mixture of experts"),
    ],
)
@pytest.mark.parametrize("share", [None, 1.5])
def test_beyond_the_grids_is_said_to_be_extrapolated_first_and_without_a_gain(
    positions, parameters, mixture, first, share
):
    found = recommend(positions, parameters, share and int(share * positions), mixture=mixture)
    assert found.bag_size > 1
    assert found.extrapolated
    assert found.expected_gain_nats is None
    assert found.reasons[0].startswith(first)
    assert "nats" not in " ".join(found.reasons)


@pytest.mark.parametrize("mixture", [False, True])
@pytest.mark.parametrize(
    ("positions", "parameters"), [(24 * 10**7, 3 * 10**9), (13 * 10**9, 10**9), (4 * 10**12, 10**9)]
)
def test_where_no_published_run_is_near_nothing_is_named(positions, parameters, mixture):
    """0.08, 13 and 4,000 tokens per parameter: the grids have 70 to 785."""
    found = recommend(positions, parameters, mixture=mixture)
    assert (found.bag_size, found.step_ratio, found.data_tokens, found.expected_gain_nats) == (None,) * 4
    assert found.reasons[0].startswith("no published run is like this: ")
    assert re.search(r": (0\.08|13|4,000) tokens per active parameter", found.reasons[0])
    assert "`tst-lightning compare`" in found.reasons[-1]
    # The project's own runs were short ones, and say nothing about long ones.
    assert any("results/README.md" in reason for reason in found.reasons) == (positions < 10**12)


def test_nothing_is_named_just_beyond_a_fifth_and_five_times_the_grids():
    parameters = 300_000_000
    low, high = GRIDS[0].tokens_per_parameter / 5, GRIDS[-1].tokens_per_parameter * 5
    for ratio, named in ((0.99 * low, False), (1.01 * low, True), (0.99 * high, True), (1.01 * high, False)):
        assert (recommend(int(ratio * parameters), parameters).bag_size is not None) == named


def test_the_papers_own_3b_is_not_said_to_be_unlike_any_run():
    """Its 12.6 tokens per parameter are below a fifth of the grids' 70, so nothing is named, and it is pointed at."""
    run = SINGLE_RUNS[0]
    found = recommend(run.positions, run.active_parameters)
    assert found.bag_size is None
    assert found.reasons[0].startswith("no grid is like this: 12.6 tokens")
    assert "s=6 and r=0.3" in found.reasons[0]


@pytest.mark.parametrize("parameters", [10**6, 10**8, 3 * 10**8, 3 * 10**9])
@pytest.mark.parametrize("ratio", [0.1, 150, 10**4])
@pytest.mark.parametrize("share", [0.5, 1.05])
def test_text_that_is_too_small_comes_first_whatever_the_model(parameters, ratio, share):
    positions = int(ratio * parameters)
    found = recommend(positions, parameters, int(share * positions))
    assert (found.bag_size, found.output_only) == (1, True)
    assert found.reasons[0].startswith("your data is too small for this")
    assert ("less than even the baseline reads" in found.reasons[0]) == (share < 1)
    assert any("compare" in reason for reason in found.reasons[1:]) == (parameters == 10**6 or ratio != 150)


def test_one_value_is_no_span():
    found = recommend(GRIDS[1].baseline_tokens, GRIDS[1].parameters)
    assert any("(s 7, r 0.2 to 0.4)" in reason for reason in found.reasons)
