"""Against frontiers ``loss = a * flops ** -b``, of which everything is known in closed form."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats
from synthetic_runs import FLOPS_PER_POSITION, POSITIONS_PER_STEP, make_lengths_experiment, write_final

from tst_lightning.comparison.analysis.collect import collect
from tst_lightning.comparison.analysis.frontier import (
    Frontier,
    FrontierPoint,
    flops_at_loss,
    overtakings,
    speed_ups,
)
from tst_lightning.comparison.analysis.summary import ComparisonSummary, summarize_comparison

LENGTHS = (750, 1500, 3000, 6000)
FLOPS_PER_STEP = 1e10


def power_law(method: str, factors: dict[int, float], exponent: float, lengths: tuple[int, ...] = LENGTHS) -> Frontier:
    """Seed -> the factor a."""
    points = tuple(
        FrontierPoint(
            f"{method}-{steps}", steps, steps * FLOPS_PER_STEP,
            {seed: factor * (steps * FLOPS_PER_STEP) ** -exponent for seed, factor in factors.items()},
        )
        for steps in lengths
    )  # fmt: skip
    return Frontier(method, "", "one run per length", points)


def test_flops_at_a_loss_are_those_of_the_power_law() -> None:
    flops = [1e12, 3e12, 1e13]
    losses = [5 * place**-0.1 for place in flops]
    for place in (1e12, 1.7e12, 3e12, 9.9e12, 1e13):
        assert flops_at_loss(flops, losses, 5 * place**-0.1) == pytest.approx(place, rel=1e-9)
    assert flops_at_loss(flops, losses, losses[0] * 1.0001) is None
    assert flops_at_loss(flops, losses, losses[-1] * 0.9999) is None


def test_points_that_nobody_would_choose_are_passed_over() -> None:
    # The run of 2e12 ended above that of 1e12: a straight line from 1e12 to 4e12 instead.
    expected = math.exp((math.log(1e12) + math.log(4e12)) / 2)
    assert flops_at_loss([1e12, 2e12, 4e12], [4.0, 5.0, 1.0], 2.0) == pytest.approx(expected)
    assert flops_at_loss([1e12, 2e12, 4e12], [4.0, 1.0, 3.0], 1.0) == pytest.approx(2e12)


def test_speed_up_of_parallel_power_laws_is_their_constant_ratio() -> None:
    exponent = 0.12
    factors = {1: 40.0, 2: 41.0, 3: 40.5}
    gains = {1: 0.98, 2: 0.97, 3: 0.96}
    baseline = power_law("baseline", factors, exponent)
    method = power_law("tst", {seed: factors[seed] * gains[seed] for seed in factors}, exponent)
    found = {(one.of_method, one.of_length): one for one in speed_ups([baseline, method], "baseline")}
    assert len(found) == 8
    # a F^-b = g a F'^-b, so F / F' = g^(-1/b).
    logs = [-math.log(gain) / exponent for gain in gains.values()]
    interval = stats.t.interval(0.95, 2, sum(logs) / 3, stats.sem(logs))
    for key in (("baseline", 3000), ("baseline", 6000), ("tst", 750), ("tst", 1500)):
        one = found[key]
        assert (one.n, one.note) == (3, "")
        assert one.ratio == pytest.approx(math.exp(sum(logs) / 3), rel=1e-9)
        assert (one.low, one.high) == pytest.approx([math.exp(end) for end in interval], rel=1e-9)
    losses = baseline.points[2].loss_by_seed.values()
    assert found["baseline", 3000].loss == pytest.approx(sum(losses) / 3)


def test_nothing_is_extrapolated() -> None:
    baseline = power_law("baseline", {1: 40.0, 2: 40.0}, 0.12)
    # The baseline's longest run never reaches the loss of the method's longest; the method has none as bad as its
    # shortest.
    method = power_law("tst", {1: 39.0, 2: 39.0}, 0.12)
    found = {(one.of_method, one.of_length): one for one in speed_ups([baseline, method], "baseline")}
    for key in (("baseline", 750), ("tst", 6000)):
        assert (found[key].ratio, found[key].low) == (None, None)
        assert found[key].note == "outside the range of the frontiers: not extrapolated"
    mixed = power_law("tst", {1: 39.0, 2: 41.0}, 0.12)
    found = {(one.of_method, one.of_length): one for one in speed_ups([baseline, mixed], "baseline")}
    assert found["tst", 6000].note.endswith("not extrapolated, 1 of 2 seeds reach it")
    assert found["tst", 6000].ratio is None


def test_one_seed_has_a_ratio_and_no_interval() -> None:
    pair = [power_law("baseline", {4: 40.0}, 0.1), power_law("tst", {4: 39.0, 5: 1.0}, 0.1)]
    (one,) = (one for one in speed_ups(pair, "baseline") if (one.of_method, one.of_length) == ("baseline", 6000))
    assert one.ratio == pytest.approx((40 / 39) ** 10)
    assert (one.low, one.high, one.n) == (None, None, 1)
    assert speed_ups(pair[1:], "baseline") == ()


def test_lower_envelope_is_named() -> None:
    method = power_law("tst", {1: 39.0}, 0.1)
    bent = replace(method.points[1], loss_by_seed={1: 99.0})
    method = replace(method, points=(method.points[0], bent, *method.points[2:]))
    (one,) = (
        one
        for one in speed_ups([power_law("baseline", {1: 40.0}, 0.1), method], "baseline")
        if (one.of_method, one.of_length) == ("baseline", 6000)
    )
    # On the line in log-log between the points that are left, the law is the same.
    assert one.ratio == pytest.approx((40 / 39) ** 10)
    assert "lower envelope" in one.note


def test_overtaking_where_power_laws_cross() -> None:
    crossing_flops = 2000 * FLOPS_PER_STEP
    baseline = power_law("baseline", {1: 40.0, 2: 42.0}, 0.10)
    factors = {seed: factor * crossing_flops**0.05 for seed, factor in {1: 40.0, 2: 42.0}.items()}
    (one,) = overtakings([baseline, power_law("tst", factors, 0.15)], "baseline")
    assert one.steps == pytest.approx(2000, rel=1e-9)
    assert one.flops == pytest.approx(crossing_flops, rel=1e-9)
    assert one.by_seed == pytest.approx({1: 2000, 2: 2000})
    assert (one.agree, one.from_start, one.shortest, one.longest) == (2, False, 750, 6000)


def test_overtaking_from_the_start_never_and_by_some_seeds() -> None:
    baseline = power_law("baseline", {1: 40.0, 2: 40.0, 3: 40.0}, 0.1)
    (ahead,) = overtakings([baseline, power_law("tst", {1: 39.0, 2: 39.0, 3: 39.0}, 0.1)], "baseline")
    assert (ahead.steps, ahead.from_start, ahead.agree, ahead.by_seed[1]) == (None, True, 3, 750.0)
    (mostly,) = overtakings([baseline, power_law("tst", {1: 39.0, 2: 39.0, 3: 40.1}, 0.1)], "baseline")
    assert (mostly.from_start, mostly.agree, mostly.by_seed[3]) == (True, 2, None)
    (behind,) = overtakings([baseline, power_law("tst", {1: 41.0, 2: 41.0, 3: 39.0}, 0.1)], "baseline")
    assert (behind.steps, behind.flops, behind.from_start, behind.agree) == (None, None, False, 2)
    assert overtakings([baseline, power_law("tst", {9: 1.0}, 0.1)], "baseline") == ()


def of_losses(method: str, *losses: dict[int, float]) -> Frontier:
    """At 1,000, 2,000, 4,000, ... steps."""
    points = [FrontierPoint(method, 1000 * 2**n, 1e13 * 2**n, by_seed) for n, by_seed in enumerate(losses)]
    return Frontier(method, "", "one run per length", tuple(points))


def test_seeds_agree_only_if_the_same_is_true_of_them() -> None:
    baseline = of_losses("baseline", dict.fromkeys((1, 2, 3), 3.0), dict.fromkeys((1, 2, 3), 2.5))
    method = of_losses("tst", {1: 3.05, 2: 3.05, 3: 2.80}, dict.fromkeys((1, 2, 3), 2.4))
    (one,) = overtakings([baseline, method], "baseline")
    assert one.from_start
    assert one.by_seed[3] == 1000
    assert all(1000 < one.by_seed[seed] < 2000 for seed in (1, 2))
    assert one.agree == 1
    method = of_losses("tst", {1: 3.05, 2: 3.05, 3: 2.97}, dict.fromkeys((1, 2, 3), 2.4))
    (one,) = overtakings([baseline, method], "baseline")
    assert (one.from_start, one.steps is None, one.agree) == (False, False, 2)


def test_speed_ups_are_of_seeds_with_every_length() -> None:
    """Seed 3 lacks a length, over which its frontier is a wider, and here a wrong, interpolation."""
    baseline = of_losses("baseline", {1: 4.0, 2: 4.1, 3: 4.0}, {1: 3.0, 2: 3.1, 3: 3.0}, {1: 2.5, 2: 2.6, 3: 2.5})
    method = of_losses("tst", {1: 3.9, 2: 4.0, 3: 3.9}, {1: 2.95, 2: 3.0}, {1: 2.4, 2: 2.5, 3: 2.4})
    whole = [
        replace(side, points=tuple(
            replace(point, loss_by_seed={seed: point.loss_by_seed[seed] for seed in (1, 2)}) for point in side.points
        ))
        for side in (baseline, method)
    ]  # fmt: skip
    for one, expected in zip(speed_ups([baseline, method], "baseline"), speed_ups(whole, "baseline"), strict=True):
        assert (one.ratio, one.low, one.n, one.loss) == (expected.ratio, expected.low, 2, expected.loss)
        if one.ratio is not None:
            assert one.note == "without finished runs of all lengths of both, left out: seed 3"
    few = of_losses("tst", {1: 3.9}, {2: 3.0}, {3: 2.4})
    assert {one.note for one in speed_ups([baseline, few], "baseline")} == {
        "no seed with finished runs of all lengths of both"
    }


def test_lengths_that_one_side_lacks_are_interpolated() -> None:
    baseline = power_law("baseline", {1: 40.0}, 0.10, (1000, 6000))
    factor = 40.0 * (2000 * FLOPS_PER_STEP) ** 0.05
    (one,) = overtakings([baseline, power_law("tst", {1: factor}, 0.15, (500, 3000, 12000))], "baseline")
    assert one.steps == pytest.approx(2000, rel=1e-9)
    assert (one.shortest, one.longest) == (1000, 6000)


def finished(folder: Path, **options) -> ComparisonSummary:
    """A comparison in which loss is 10 * flops ** -0.1, of the method 2 % lower, of seed 2 1 % higher."""
    experiment = make_lengths_experiment(folder, (100, 200, 400), seeds=(1, 2), **options)
    for name, arm in experiment.arms.items():
        for seed in experiment.seeds:
            flops = arm.steps * POSITIONS_PER_STEP * FLOPS_PER_POSITION
            loss = 10 * flops**-0.1 * (0.98 if arm.method == "tst" else 1) * (1.01 if seed == 2 else 1)
            write_final(experiment, name, seed, loss, switch=30 if arm.method == "tst" else 0)
    return summarize_comparison(experiment, collect(experiment))


def test_frontiers_of_runs(tmp_path: Path) -> None:
    summary = finished(tmp_path / "plain", variants=("bytes", "words"))
    assert [(one.variant, one.method) for one in summary.frontiers] == [
        ("bytes", "baseline"), ("bytes", "tst"), ("words", "baseline"), ("words", "tst"),
    ]  # fmt: skip
    assert {one.kind for one in summary.frontiers} == {"one run per length"}
    assert [point.steps for point in summary.frontiers[0].points] == [100, 200, 400]
    (one,) = (
        one for one in summary.speed_ups if (one.variant, one.of_method, one.of_length) == ("words", "baseline", 400)
    )
    # Losses are logged in single precision.
    assert one.ratio == pytest.approx(0.98**-10, rel=1e-5)
    assert all(one.from_start and one.agree == 2 for one in summary.overtakings)


def test_kinds_of_frontiers(tmp_path: Path) -> None:
    summary = finished(tmp_path / "one", branch=("baseline",))
    assert [one.kind for one in summary.frontiers] == ["branches of one trunk", "one run per length"]
    summary = finished(tmp_path / "both", branch=("baseline", "tst"))
    assert summary.frontiers[1].kind == "branches of one trunk, recovery step fixed"


def test_one_length_is_no_frontier_and_equal_data_no_method(tmp_path: Path) -> None:
    experiment = make_lengths_experiment(tmp_path / "a", (100, 200), ("baseline", "tst", "same_data"), seeds=(1,))
    arms = dict(experiment.arms)
    for steps in (100, 200):
        arms[f"tst-{steps}"] = replace(arms[f"tst-{steps}"], references=(f"baseline-{steps}", f"same_data-{steps}"))
        arms[f"same_data-{steps}"] = replace(arms[f"same_data-{steps}"], references=())
    experiment = replace(experiment, arms=arms)
    for name in arms:
        if name != "tst-100":
            write_final(experiment, name, 1, 2.0)
    summary = summarize_comparison(experiment, collect(experiment))
    assert [one.method for one in summary.frontiers] == ["baseline"]
    assert summary.speed_ups == summary.overtakings == ()


def test_a_method_that_another_is_compared_with_has_a_frontier(tmp_path: Path) -> None:
    experiment = make_lengths_experiment(tmp_path, (100, 200), ("baseline", "tst", "both"), seeds=(1,))
    arms = dict(experiment.arms)
    for steps in (100, 200):
        arms[f"both-{steps}"] = replace(arms[f"both-{steps}"], references=(f"baseline-{steps}", f"tst-{steps}"))
    experiment = replace(experiment, arms=arms)
    for name in arms:
        write_final(experiment, name, 1, 2.0)
    summary = summarize_comparison(experiment, collect(experiment))
    assert [one.method for one in summary.frontiers] == ["baseline", "tst", "both"]
