"""An arm against a reference: the difference of their losses and scores, and at what budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tst_lightning.comparison.analysis.arm_summary import ArmSummary, mean_of_curves
from tst_lightning.comparison.analysis.score_pairs import ScoreDifference, score_differences
from tst_lightning.comparison.analysis.statistics import (
    Crossing,
    PairedDifference,
    correct,
    crossing,
    paired_difference,
)
from tst_lightning.comparison.design.comparability import differing_keys
from tst_lightning.comparison.design.experiment import Experiment

EQUAL_TOLERANCE = 0.005
"""Budgets that differ by a smaller share are called equal."""


@dataclass(frozen=True)
class PairSummary:
    """An arm against one reference."""

    arm: str
    reference: str
    budget: str
    """From measured costs: ``equal FLOPs``, ``equal data``, ``equal FLOPs and data`` or, for example, ``1.90 times
    the FLOPs``; ``unknown budget`` before both have finished runs."""
    difference: PairedDifference | None
    """Of final validation losses; None without common finished seeds, or if the two cannot be compared."""
    not_compared: str
    """Why losses are not compared, as ``key: value against value``; empty if they are."""
    crosses_at_step: Crossing | None
    """Where the mean curve passes below the reference's for good; None if never, or for the reason in
    ``curves_not_compared``."""
    crosses_at_flops: Crossing | None
    scores: tuple[ScoreDifference, ...]
    curves_not_compared: str = ""
    """Why the curves of runs whose final losses are compared are not: a run that has ended is not compared with one on
    its way. Empty if they are."""


def summarize_pairs(experiment: Experiment, arms: Mapping[str, ArmSummary]) -> tuple[PairSummary, ...]:
    """Compare every arm with its references, and correct for their number."""
    order = list(arms)
    names = sorted(experiment.pairs(), key=lambda pair: order.index(pair[0]))
    sides = [(arms[arm], arms[reference]) for arm, reference in names]
    differing = [_differing_keys(*side) for side in sides]
    pairs = [_summarize_pair(*side, keys) for side, keys in zip(sides, differing, strict=True)]
    corrected = correct([pair.difference for pair in pairs])
    # Scores do not depend on the validation text. All else that makes losses incomparable does the same to them.
    scored = [place for place, keys in enumerate(differing) if all(key.startswith("data.") for key in keys)]
    scores = dict(zip(scored, score_differences([sides[place] for place in scored]), strict=True))
    return tuple(
        replace(pair, difference=corrected[place], scores=scores.get(place, ())) for place, pair in enumerate(pairs)
    )


def budget(arm: Mapping[str, float | None], reference: Mapping[str, float | None]) -> str:
    """At what budget two arms are compared, told from their measured costs."""
    ratios = {
        cost: arm[cost] / reference[cost] for cost in ("flops", "data_tokens") if arm.get(cost) and reference.get(cost)
    }
    equal = [
        name
        for cost, name in (("flops", "FLOPs"), ("data_tokens", "data"))
        if cost in ratios and abs(ratios[cost] - 1) <= EQUAL_TOLERANCE
    ]
    if equal:
        return "equal " + " and ".join(equal)
    return f"{ratios['flops']:.2f} times the FLOPs" if "flops" in ratios else "unknown budget"


def _differing_keys(arm: ArmSummary, reference: ArmSummary) -> list[str]:
    """What makes the arms incomparable, told from a run of each: finished ones, whose configurations are whole."""
    configs = []
    for side in (arm, reference):
        runs = sorted(side.runs, key=lambda run: run.status != "finished")
        configs.append(next((run.config for run in runs if run.config), ""))
    return differing_keys(*configs)


def _summarize_pair(arm: ArmSummary, reference: ArmSummary, differing: Sequence[str]) -> PairSummary:
    difference, crossings, reason = None, (None, None), ""
    if not differing:
        difference = paired_difference(arm.final_by_seed, reference.final_by_seed)
        crossings, reason = _crossings(arm, reference)
    return PairSummary(
        arm=arm.arm,
        reference=reference.arm,
        budget=budget(arm.costs, reference.costs),
        difference=difference,
        not_compared="; ".join(differing),
        crosses_at_step=crossings[0],
        crosses_at_flops=crossings[1],
        scores=(),
        curves_not_compared=reason,
    )


def _crossings(arm: ArmSummary, reference: ArmSummary) -> tuple[tuple[Crossing | None, Crossing | None], str]:
    """At steps and at FLOPs, over the seeds that are compared; and why the curves are not, if they are not."""
    common = arm.final_by_seed.keys() & reference.final_by_seed.keys()
    sides = [[run.curve for run in side.averaged if run.seed in common] for side in (arm, reference)]
    if not common:
        return (None, None), ""
    if {curve.steps[-1] for curve in sides[0]} != {curve.steps[-1] for curve in sides[1]}:
        return (None, None), "runs of different lengths"
    found = []
    for x in ("steps", "flops"):
        (_, arm_x, arm_y), (_, base_x, base_y) = (mean_of_curves(curves, x) for curves in sides)
        if x == "steps" and not (len(arm_x) and len(base_x)):
            return (None, None), "seeds without a validation step in common"
        found.append(crossing(arm_x, arm_y, base_x, base_y))
    return (found[0], found[1]), ""
