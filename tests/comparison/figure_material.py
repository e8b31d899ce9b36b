"""Summaries with numbers that a test chooses, without runs on disk."""

import random
from pathlib import Path

from tst_lightning.comparison.analysis.collect import Curve, RunResult
from tst_lightning.comparison.analysis.pair_summary import PairSummary
from tst_lightning.comparison.analysis.statistics import PairedDifference, paired_difference, summarize
from tst_lightning.comparison.analysis.summary import COSTS, ArmSummary, ComparisonSummary
from tst_lightning.comparison.reporting.figures.looks import method_looks
from tst_lightning.comparison.reporting.figures.shared import Material

FLOPS_PER_STEP = 1e10


def make_arm(method: str, losses: dict[int, float], steps: int | None = None, **options) -> ArmSummary:
    """An arm with these final losses, seed by seed; ``options`` are fields of its summary."""
    variant = options.pop("variant", "")
    name = "-".join(str(part) for part in (variant, method, steps) if part)
    curves = options.pop("curves", {seed: {100: loss} for seed, loss in losses.items()})
    config = options.pop("config", "")
    runs = tuple(
        RunResult(name, seed, Path(name), "finished", make_curve(curve), (), None, {}, {}, "", config)
        for seed, curve in curves.items()
    )
    values = {
        "factors": {},
        "runs": runs,
        "final_by_seed": losses,
        "final": summarize(list(losses.values())),
        "bits_per_byte": None,
        "costs": dict.fromkeys(COSTS) | {"flops": (steps or 100) * FLOPS_PER_STEP},
        "scores": (),
        "switch_step": 0,
        "diverged": (),
    }
    return ArmSummary(arm=name, method=method, variant=variant, steps=steps, **(values | options))


def make_curve(losses: dict[int, float]) -> Curve:
    """Validation losses by step, at a FLOP count and a second for each."""
    steps = list(losses)
    flops = [step * FLOPS_PER_STEP for step in steps]
    return Curve(steps, list(losses.values()), flops, steps, steps, [float(step) for step in steps])


def make_pair(arm: ArmSummary, reference: ArmSummary, scores=(), p_holm: float | None = None) -> PairSummary:
    difference = paired_difference(arm.final_by_seed, reference.final_by_seed)
    if difference is not None:
        difference = PairedDifference(**(vars(difference) | {"p_holm": p_holm}))
    return PairSummary(arm.arm, reference.arm, "equal FLOPs", difference, "", None, None, tuple(scores))


def make_material(arms: list[ArmSummary], pairs: list[PairSummary], **options) -> Material:
    """The first arm is of the baseline's method."""
    values = {"frontiers": (), "speed_ups": (), "overtakings": ()} | options
    summary = ComparisonSummary({arm.arm: arm for arm in arms}, tuple(pairs), **values)
    return Material(summary, arms[0].method, method_looks(summary, arms[0].method))


def make_grid(bag_sizes=(2, 4, 6, 8, 16), ratios=(0.1, 0.2, 0.3, 0.4, 0.5), seeds=(1, 2, 3)) -> Material:
    """Arms over bag size and ratio; each is its own amount below the baseline, and significant if s is 4."""
    noise = random.Random(0)
    base = make_arm("baseline", {seed: 1.5 + 0.01 * seed for seed in seeds})
    arms, pairs = [base], []
    for bag_size in bag_sizes:
        for ratio in ratios:
            gain = grid_gain(bag_size, ratio)
            losses = {seed: loss - gain + noise.gauss(0, 1e-3) for seed, loss in base.final_by_seed.items()}
            arm = make_arm(f"tst_s{bag_size}_r{ratio}", losses, factors={"s": bag_size, "r": ratio})
            arms.append(arm)
            pairs.append(make_pair(arm, base, p_holm=0.01 if bag_size == 4 else 0.3))
    return make_material(arms, pairs)


def grid_gain(bag_size: float, ratio: float) -> float:
    return 0.05 - 0.003 * abs(bag_size - 6) - 0.1 * abs(ratio - 0.3)
