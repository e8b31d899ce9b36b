"""Which bag size and step ratio to begin with, from the paper's grids; and when the answer is to measure, or not to."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tst_lightning.plan.paper_grids import BAG_SIZES, GRIDS, LARGEST_PARAMETERS, SINGLE_RUNS, SMALLEST_PARAMETERS, Grid

INDISTINCT_NATS = 0.002
"""Cells of one seed whose losses differ by less are taken as equal: neighbours in a grid scatter by as much."""
FAR_BELOW = 10
"""A model this many times smaller than the grids' smallest is not what they are about."""
FAR_RATIO = 5
"""Nor is a run with this many times fewer tokens per parameter than the grids' least, or more than their most."""
SAME = 1.02
"""Sizes and ratios within this factor of a grid's are the grid's: a padded vocabulary makes no other model."""
ALIKE = 2
"""A single run of the paper is like one whose size and ratio are within this factor of its own."""


@dataclass(frozen=True)
class Recommendation:
    """``s`` and ``r`` to begin with; ``bag_size`` 1 is the baseline."""

    bag_size: int | None
    """None where nothing that is published says what to begin with; so are then the other numbers."""
    step_ratio: float | None
    data_tokens: int | None
    """That the run then reads."""
    expected_gain_nats: float | None
    """Of the paper's grids at this ratio of tokens to parameters; None if nothing is expected, or extrapolated."""
    extrapolated: bool
    """Whether ``bag_size`` and ``step_ratio`` are for a size, kind of model or ratio that no grid has."""
    output_only: bool
    """Whether superposing outputs alone is worth a try: it reads no more than the baseline."""
    reasons: tuple[str, ...]
    """Sentences: why, and how far to trust it."""


def recommend(
    positions: int, parameters: int, available_tokens: int | None = None, *, mixture: bool = False
) -> Recommendation:
    """Choose ``s`` and ``r`` for a run.

    Of the cells that the data suffice for, the best one and all within ``INDISTINCT_NATS`` of it count as equal, and
    the one that reads least is taken.

    Args:
        positions: of the whole run: what its FLOPs pay for, and the tokens that the baseline reads.
        parameters: active ones, if the model is a mixture of experts.
        available_tokens: that may be read; None if they are not known or not limited.
        mixture: whether it is one.
    """
    ratio = positions / parameters
    is_tiny, is_far = parameters * FAR_BELOW < SMALLEST_PARAMETERS, _outside(ratio, FAR_RATIO)
    beyond = _far_below(parameters) if is_tiny else _far_ratio(ratio, parameters) if is_far else ()
    if shortage := _shortage(positions, available_tokens):
        return Recommendation(1, 0.0, positions, None, False, True, (shortage, *beyond))
    if is_tiny:
        return Recommendation(1, 0.0, positions, None, False, False, beyond)
    if is_far:
        return Recommendation(None, None, None, None, False, False, beyond)
    limits = _limits(ratio, parameters, mixture)
    cells = {cell: _gain(ratio, *cell) for cell in _cells()}
    affordable = {
        cell: gain
        for cell, gain in cells.items()
        if available_tokens is None or _data_tokens(positions, *cell) <= available_tokens
    }
    best = max(affordable.values())
    equal = [cell for cell, gain in affordable.items() if gain >= best - INDISTINCT_NATS]
    chosen = min(equal, key=lambda cell: (_data_tokens(positions, *cell), cell))
    reasons = [*limits, _where(ratio), _among(equal, bool(limits)), *_lost(cells, affordable, bool(limits))]
    reasons.append("the grids have one seed a cell, so `tst-lightning compare` has the last word")
    gain = None if limits else cells[chosen]
    return Recommendation(*chosen, _data_tokens(positions, *chosen), gain, bool(limits), False, tuple(reasons))


def _cells() -> list[tuple[int, float]]:
    return [(bag_size, ratio) for ratio in GRIDS[0].losses for bag_size in BAG_SIZES]


def _data_tokens(positions: int, bag_size: int, step_ratio: float) -> int:
    """``B*L*N * (r*s + 1 - r)``."""
    return round(positions * (1 + step_ratio * (bag_size - 1)))


def _gain(ratio: float, bag_size: int, step_ratio: float) -> float:
    """Of a cell, linear in the logarithm of tokens per parameter; beyond the grids that of the nearest."""
    low, high, share = _between(ratio)
    return (1 - share) * low.gain(bag_size, step_ratio) + share * high.gain(bag_size, step_ratio)


def _between(ratio: float) -> tuple[Grid, Grid, float]:
    for low, high in itertools.pairwise(GRIDS):
        if ratio <= high.tokens_per_parameter or high is GRIDS[-1]:
            width = math.log(high.tokens_per_parameter / low.tokens_per_parameter)
            return low, high, min(1.0, max(0.0, math.log(ratio / low.tokens_per_parameter) / width))
    raise AssertionError("there are two grids and more")


def _outside(ratio: float, factor: float) -> bool:
    """Whether tokens per parameter are further from the grids' than by ``factor``."""
    return not GRIDS[0].tokens_per_parameter / factor <= ratio <= GRIDS[-1].tokens_per_parameter * factor


def _within(value: float, other: float, factor: float) -> bool:
    return other / factor <= value <= other * factor


def _short(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"


def _shortage(positions: int, available_tokens: int | None) -> str:
    """Why the text suffices for no cell of the grids; empty if it does."""
    least = min(_data_tokens(positions, *cell) for cell in _cells())
    if available_tokens is None or available_tokens >= least:
        return ""
    if available_tokens < positions:
        return (
            f"your data is too small for this: {available_tokens:,} tokens for {positions:,} positions, "
            "less than even the baseline reads: raise data.epochs, prepare more, or train for fewer steps; "
            "then output-only, or s=1"
        )
    return (
        f"your data is too small for this: {available_tokens:,} tokens, and the least that a cell of the paper's "
        f"grids reads is {least:,}: output-only, or s=1"
    )


def _where(ratio: float) -> str:
    low, high, share = _between(ratio)
    text = f"{_short(ratio)} tokens (of the baseline) per active parameter"
    for grid in (low, high):
        if _within(ratio, grid.tokens_per_parameter, SAME):
            return f"{text}, as in the paper's grid of {grid.name}"
    if share in (0, 1):
        grid = high if share else low
        return f"{text}: the paper's nearest grid is {grid.name} ({grid.tokens_per_parameter:.0f})"
    return (
        f"{text}: between the paper's grids of {low.name} ({low.tokens_per_parameter:.0f}) and {high.name} "
        f"({high.tokens_per_parameter:.0f})"
    )


def _among(equal: Sequence[tuple[int, float]], extrapolated: bool) -> str:
    """What else was as good. Extrapolated, no difference in nats is named: the grids' are of other runs."""
    close = "that the grids do not tell from" if extrapolated else f"within {INDISTINCT_NATS} nats of"
    if len(equal) == 1:
        verb = "is one" if extrapolated else "comes"
        return f"no other cell that your data suffice for {verb} {close} it"
    sizes, ratios = (_span(values) for values in zip(*equal, strict=True))
    return f"of {len(equal)} cells {close} the best one (s {sizes}, r {ratios}) it reads least"


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _lost(cells: Mapping, affordable: Mapping, extrapolated: bool) -> list[str]:
    lost = max(cells.values()) - max(affordable.values())
    if lost <= INDISTINCT_NATS:
        return []
    return [f"your data rule out cells that gained {'' if extrapolated else f'{lost:.3f} nats '}more there"]


def _limits(ratio: float, parameters: int, mixture: bool) -> list[str]:
    """In what the run is like no grid; empty if it is within them."""
    limits = []
    if _outside(ratio, SAME):
        low, high = GRIDS[0].tokens_per_parameter, GRIDS[-1].tokens_per_parameter
        limits.append(
            f"extrapolated: {_short(ratio)} tokens per active parameter, and the grids have {low:.0f} to {high:.0f}"
        )
    if mixture:
        limits.append("extrapolated: a mixture of experts, and the paper's grids are of dense models")
    if parameters > LARGEST_PARAMETERS * SAME:
        limits.append(f"extrapolated: {parameters:,} active parameters, and the grids' largest model has 600M")
    elif parameters < SMALLEST_PARAMETERS / SAME:
        limits.append(f"extrapolated: {parameters:,} active parameters, and the grids' smallest model has 270M")
    if mixture or parameters > LARGEST_PARAMETERS * SAME:
        runs = (f"{run.name} (s={run.bag_size}, r={run.step_ratio:g})" for run in SINGLE_RUNS)
        limits.append(f"the paper's single runs, which ended below their baselines: {', '.join(runs)}")
    return limits


_OWN_RUNS = (
    "in this project's own short runs on bytes (0.25M to 2M parameters, results/README.md) superposition ended behind "
    "the baseline or level with it"
)
_MEASURE = "to find out, run both with `tst-lightning compare`, several seeds each"


def _far_below(parameters: int) -> tuple[str, ...]:
    return (
        f"{parameters:,} active parameters, and the paper's grids are of 270M and 600M and say nothing about it",
        _OWN_RUNS,
        _MEASURE,
    )


def _far_ratio(ratio: float, parameters: int) -> tuple[str, ...]:
    """Why nothing is named. Of one run of the paper it would be wrong to say that there is none like it."""
    low, high = GRIDS[0].tokens_per_parameter, GRIDS[-1].tokens_per_parameter
    text = f"{_short(ratio)} tokens per active parameter, and the paper's grids have {low:.0f} to {high:.0f}"
    for run in SINGLE_RUNS:
        if _within(ratio, run.tokens_per_parameter, ALIKE) and _within(parameters, run.active_parameters, ALIKE):
            only = f"{run.name}, with s={run.bag_size} and r={run.step_ratio:g}, which ended below its baseline"
            return f"no grid is like this: {text}; one published run is: {only}", _OWN_RUNS, _MEASURE
    shorter = ratio < low
    trend = _OWN_RUNS if shorter else "in the paper's 270M grids the longer runs gained less"
    return f"no published run is like this: {text}", trend, _MEASURE
