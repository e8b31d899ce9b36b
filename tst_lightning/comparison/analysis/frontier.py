"""Finished models of several run lengths: loss against FLOPs, and how much less training reaches the same loss.

Between two lengths, the logarithm of the loss is taken to be linear in the logarithm of the FLOPs, as it is for power
laws. Nothing is extrapolated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tst_lightning.comparison.analysis.arm_summary import ArmSummary
from tst_lightning.comparison.analysis.statistics import Crossing, crossing, summarize
from tst_lightning.comparison.design.experiment import Experiment

_Curve = tuple[Sequence[float], Sequence[float]]
"""FLOPs, ascending, and losses."""

OUTSIDE = "outside the range of the frontiers: not extrapolated"
_NOT_MONOTONE = "a longer run ended higher than a shorter one: the lower envelope was taken"


@dataclass(frozen=True)
class FrontierPoint:
    """The finished models of one run length."""

    arm: str
    steps: int
    flops: float
    loss_by_seed: dict[int, float]
    """Final validation losses; seeds that have diverged are left out."""


@dataclass(frozen=True)
class Frontier:
    """One method's finished models, FLOPs ascending."""

    method: str
    variant: str
    kind: str
    """How the models came about: ``one run per length``, ``branches of one trunk`` or ``branches of one trunk,
    recovery step fixed`` (then the superposed share of the run falls along the frontier)."""
    points: tuple[FrontierPoint, ...]


@dataclass(frozen=True)
class SpeedUp:
    """How many times the method's FLOPs the baseline needs for the same loss."""

    method: str
    variant: str
    loss: float
    """Mean over seeds of the losses at which the two are compared, in nats per token."""
    of_length: int
    """It is the final loss of runs of so many steps ..."""
    of_method: str
    """... of this method: the baseline, or ``method`` itself."""
    ratio: float | None
    """FLOPs of the baseline / FLOPs of the method, the geometric mean over seeds."""
    low: float | None
    """Lower end of its 95 % interval (Student t on logarithms); None below two seeds."""
    high: float | None
    n: int
    """Seeds that were looked at: those with a finished run of every length of both."""
    note: str
    """Why there is no ratio, or what was done to get it."""


@dataclass(frozen=True)
class Overtaking:
    """From which run length on a method's finished models are better than the baseline's."""

    method: str
    variant: str
    steps: float | None
    """The length, from means over seeds, interpolated in log-log; None if there is no crossing in the range."""
    flops: float | None
    from_start: bool
    """The method is ahead at every length."""
    by_seed: dict[int, float | None]
    """The same seed by seed, in steps; the shortest length for a seed that is ahead at all of them."""
    agree: int
    """Seeds of which the same is true as of the mean: ahead at every length, overtaking on the way, or neither."""
    shortest: int
    """The range: steps of the shortest run of both ..."""
    longest: int
    """... and of the longest."""


def frontiers(experiment: Experiment, arms: Mapping[str, ArmSummary]) -> tuple[Frontier, ...]:
    """Of every method and variant with finished runs of two lengths or more; the baseline of a variant first."""
    # An arm that reads as much data as another is a reference at one length, not a method of its own; one that
    # another arm is compared with (compare_with) has references itself.
    other_references = {
        reference
        for _, reference in experiment.pairs()
        if arms[reference].method != experiment.baseline and not experiment.arms[reference].references
    }
    grouped: dict[tuple[str, str], list[ArmSummary]] = {}
    for arm in arms.values():
        if arm.steps is not None and arm.arm not in other_references:
            grouped.setdefault((arm.variant, arm.method), []).append(arm)
    variants = list(dict.fromkeys(variant for variant, _ in grouped))
    found = []
    for variant, method in sorted(grouped, key=lambda key: (variants.index(key[0]), key[1] != experiment.baseline)):
        members = [arm for arm in grouped[variant, method] if arm.final_by_seed and arm.costs["flops"]]
        points = [
            FrontierPoint(arm.arm, arm.steps, arm.costs["flops"], _positive(arm.final_by_seed)) for arm in members
        ]
        if len(points) > 1:
            points.sort(key=lambda point: point.flops)
            found.append(Frontier(method, variant, _kind(experiment, members), tuple(points)))
    return tuple(found)


def speed_ups(found: Sequence[Frontier], baseline: str) -> tuple[SpeedUp, ...]:
    """Every method against the baseline of its variant, at the final losses of both."""
    result = []
    for method, reference in _with_baseline(found, baseline):
        for owner in (reference, method):
            result += [_speed_up(method, reference, owner, point) for point in owner.points]
    return tuple(result)


def overtakings(found: Sequence[Frontier], baseline: str) -> tuple[Overtaking, ...]:
    """From which run length on each method is ahead of the baseline of its variant."""
    result = [_overtaking(method, reference) for method, reference in _with_baseline(found, baseline)]
    return tuple(overtaking for overtaking in result if overtaking is not None)


def flops_at_loss(flops: Sequence[float], losses: Sequence[float], loss: float) -> float | None:
    """FLOPs at which a frontier reaches a loss, linear in logarithms between its points.

    Args:
        flops: ascending.
        losses: positive. Where a later one is not lower than all before it, it is passed over: nobody would choose
            that length.
        loss: positive.

    Returns:
        None if the loss is above the first or below the lowest of the frontier's.
    """
    flops, losses = _envelope(flops, losses)
    if not losses[-1] <= loss <= losses[0]:
        return None
    # np.interp wants ascending places, so the falling losses are turned round.
    return math.exp(float(np.interp(-math.log(loss), -np.log(losses), np.log(flops))))


def _positive(losses: Mapping[int, float]) -> dict[int, float]:
    """Those that have a logarithm; a loss of zero is no trained language model's."""
    return {seed: loss for seed, loss in losses.items() if loss > 0}


def _kind(experiment: Experiment, members: Sequence[ArmSummary]) -> str:
    if not any(experiment.arms[arm.arm].trunk for arm in members):
        return "one run per length"
    superposed = any(arm.switch_step for arm in members)
    return "branches of one trunk" + (", recovery step fixed" if superposed else "")


def _with_baseline(found: Sequence[Frontier], baseline: str) -> list[tuple[Frontier, Frontier]]:
    references = {frontier.variant: frontier for frontier in found if frontier.method == baseline}
    return [
        (frontier, references[frontier.variant])
        for frontier in found
        if frontier.method != baseline and frontier.variant in references
    ]


def _speed_up(method: Frontier, reference: Frontier, owner: Frontier, point: FrontierPoint) -> SpeedUp:
    """Seed by seed, at the loss that the owner's run of that seed ended with."""
    # A frontier with fewer points is interpolated over wider gaps: its ratio is not of one kind with the others'.
    points = [*method.points, *reference.points]
    seeds = [seed for seed in point.loss_by_seed if all(seed in other.loss_by_seed for other in points)]
    left_out = sorted({seed for other in points for seed in other.loss_by_seed}.difference(seeds))
    losses = [point.loss_by_seed[seed] for seed in seeds]
    logs, notes = [], []
    for seed, loss in zip(seeds, losses, strict=True):
        curves = [_of_seed(side, seed) for side in (reference, method)]
        reached = [flops_at_loss(*curve, loss) for curve in curves]
        if None not in reached:
            logs.append(math.log(reached[0] / reached[1]))
        if any(len(_envelope(*curve)[0]) < len(curve[0]) for curve in curves):
            notes.append(_NOT_MONOTONE)
    if len(logs) < len(seeds) or not seeds:
        # The seeds left would be those that suit one side: no mean of them is fair.
        reached_by = f", {len(logs)} of {len(seeds)} seeds reach it" if logs else ""
        notes = [OUTSIDE + reached_by if seeds else "no seed with finished runs of all lengths of both"]
        logs = []
    if seeds and left_out:
        notes.append(f"without finished runs of all lengths of both, left out: seed {', '.join(map(str, left_out))}")
    over_seeds = summarize(logs, size=1.0)
    ratio, low, high = (
        (None, None, None)
        if over_seeds is None
        else (
            None if value is None else math.exp(value) for value in (over_seeds.mean, over_seeds.low, over_seeds.high)
        )
    )
    loss = float(np.mean(losses)) if losses else float(np.mean(list(point.loss_by_seed.values())))
    note = "; ".join(dict.fromkeys(notes))
    return SpeedUp(
        method.method, method.variant, loss, point.steps, owner.method, ratio, low, high, len(seeds), note
    )  # fmt: skip


def _overtaking(method: Frontier, reference: Frontier) -> Overtaking | None:
    # A mean over other seeds at one length than at the next would be bent by the seeds.
    seeds = set.intersection(*(set(point.loss_by_seed) for side in (method, reference) for point in side.points))
    if not seeds:
        return None
    curves = {seed: (_of_seed(method, seed), _of_seed(reference, seed)) for seed in sorted(seeds)}
    means = [
        (sides[0][0], np.mean([losses for _, losses in sides], axis=0)) for sides in zip(*curves.values(), strict=True)
    ]
    shortest = max(method.points[0].steps, reference.points[0].steps)
    found = _crossing(*means)
    by_seed: dict[int, float | None] = {}
    outcomes = []
    for seed, sides in curves.items():
        one = _crossing(*sides)
        outcomes.append(_outcome(one))
        by_seed[seed] = None if one is None else float(shortest) if one.from_start else _steps_at(method, one.x)
    crosses = found is not None and not found.from_start
    return Overtaking(
        method=method.method,
        variant=method.variant,
        steps=_steps_at(method, found.x) if crosses else None,
        flops=math.exp(found.x) if crosses else None,
        from_start=found is not None and found.from_start,
        by_seed=by_seed,
        agree=outcomes.count(_outcome(found)),
        shortest=shortest,
        longest=min(method.points[-1].steps, reference.points[-1].steps),
    )


def _crossing(method: _Curve, reference: _Curve) -> Crossing | None:
    """In logarithms of FLOPs, over the range that both cover."""
    (x, y), (other_x, other_y) = ((np.log(flops), np.log(losses)) for flops, losses in (method, reference))
    places = np.union1d(x, other_x)
    places = places[(places >= max(x[0], other_x[0])) & (places <= min(x[-1], other_x[-1]))]
    return crossing(places, np.interp(places, x, y), places, np.interp(places, other_x, other_y))


def _outcome(found: Crossing | None) -> str:
    return "never" if found is None else "from the start" if found.from_start else "crosses"


def _steps_at(frontier: Frontier, log_flops: float) -> float:
    steps = np.log([point.steps for point in frontier.points])
    return math.exp(float(np.interp(log_flops, np.log([point.flops for point in frontier.points]), steps)))


def _of_seed(frontier: Frontier, seed: int) -> _Curve:
    """FLOPs and losses of one seed."""
    points = [point for point in frontier.points if seed in point.loss_by_seed]
    return [point.flops for point in points], [point.loss_by_seed[seed] for point in points]


def _envelope(flops: Sequence[float], losses: Sequence[float]) -> _Curve:
    """Without the points that no longer run needs: each loss is lower than all before it."""
    kept: _Curve = ([], [])
    for place, loss in zip(flops, losses, strict=True):
        if not kept[1] or loss < kept[1][-1]:
            kept[0].append(place)
            kept[1].append(loss)
    return kept
