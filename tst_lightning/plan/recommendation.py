"""Which bag size and step ratio to begin with, from the paper's grids; and when the answer is to measure, or not to."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tst_lightning.plan.paper_grids import (
    BAG_SIZES,
    GRIDS,
    LARGEST_RUN_PARAMETERS,
    SMALLEST_PARAMETERS,
    Grid,
)

INDISTINCT_NATS = 0.002
"""Cells of one seed whose losses differ by less are taken as equal: neighbours in a grid scatter by as much."""
FAR_BELOW = 10
"""A model this many times smaller than the grids' smallest is not what they are about."""


@dataclass(frozen=True)
class Recommendation:
    """``s`` and ``r`` to begin with; ``bag_size`` 1 is the baseline."""

    bag_size: int
    step_ratio: float
    data_tokens: int
    """That the run then reads."""
    expected_gain_nats: float | None
    """Of the paper's grids at this ratio of tokens to parameters; None if nothing is expected."""
    output_only: bool
    """Whether superposing outputs alone is worth a try: it reads no more than the baseline."""
    reasons: tuple[str, ...]
    """Sentences: why, and how far to trust it."""


def recommend(positions: int, parameters: int, available_tokens: int | None = None) -> Recommendation:
    """Choose ``s`` and ``r`` for a run.

    Of the cells that the data suffice for, the best one and all within ``INDISTINCT_NATS`` of it count as equal, and
    the one that reads least is taken.

    Args:
        positions: of the whole run: what its FLOPs pay for, and the tokens that the baseline reads.
        parameters: active ones, if the model is a mixture of experts.
        available_tokens: that may be read; None if they are not known or not limited.
    """
    ratio = positions / parameters
    if parameters * FAR_BELOW < SMALLEST_PARAMETERS:
        return _baseline(positions, _far_below(parameters), short=_short(positions, available_tokens))
    if available_tokens is not None and available_tokens < positions:
        reason = (
            f"your data is too small for this: {available_tokens:,} tokens for {positions:,} positions, "
            "less than even the baseline reads: raise data.epochs, prepare more, or train for fewer steps; "
            "then output-only, or s=1"
        )
        return _baseline(positions, (reason,), short=True)
    cells = {cell: _gain(ratio, *cell) for cell in _cells()}
    affordable = {
        cell: gain
        for cell, gain in cells.items()
        if available_tokens is None or _data_tokens(positions, *cell) <= available_tokens
    }
    if not affordable:
        least = min(_data_tokens(positions, *cell) for cell in cells)
        reason = (
            f"your data is too small for this: {available_tokens:,} tokens, and the least that a cell of the paper's "
            f"grids reads is {least:,}: output-only, or s=1"
        )
        return _baseline(positions, (reason,), short=True)
    best = max(affordable.values())
    equal = [cell for cell, gain in affordable.items() if gain >= best - INDISTINCT_NATS]
    bag_size, step_ratio = min(equal, key=lambda cell: (_data_tokens(positions, *cell), cell))
    reasons = [_where(ratio), _among(equal)]
    if len(affordable) < len(cells) and best < max(cells.values()) - INDISTINCT_NATS:
        lost = max(cells.values()) - best
        reasons.append(f"your data rule out cells that gained {lost:.3f} nats more there")
    return Recommendation(
        bag_size, step_ratio, _data_tokens(positions, bag_size, step_ratio), cells[bag_size, step_ratio], False,
        (*reasons, *_limits(ratio, parameters)),
    )  # fmt: skip


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


def _where(ratio: float) -> str:
    low, high, share = _between(ratio)
    text = f"{ratio:,.3g} tokens (of the baseline) per active parameter"
    if share in (0, 1):
        grid = high if share else low
        return f"{text}: the paper's nearest grid is {grid.name} ({grid.tokens_per_parameter:.0f})"
    return (
        f"{text}: between the paper's grids of {low.name} ({low.tokens_per_parameter:.0f}) and {high.name} "
        f"({high.tokens_per_parameter:.0f})"
    )


def _among(equal: Sequence[tuple[int, float]]) -> str:
    sizes, ratios = sorted({size for size, _ in equal}), sorted({ratio for _, ratio in equal})
    if len(equal) == 1:
        return f"no other cell that your data suffice for comes within {INDISTINCT_NATS} nats of it"
    return (
        f"of {len(equal)} cells within {INDISTINCT_NATS} nats of the best one (s {sizes[0]} to {sizes[-1]}, "
        f"r {ratios[0]:g} to {ratios[-1]:g}) it reads least"
    )


def _limits(ratio: float, parameters: int) -> list[str]:
    limits = ["the grids have one seed a cell, so `tst-lightning compare` has the last word"]
    low, high = GRIDS[0].tokens_per_parameter, GRIDS[-1].tokens_per_parameter
    if not low <= ratio <= high:
        limits.append(f"extrapolated: the grids have {low:.0f} to {high:.0f} tokens per parameter")
    if parameters < SMALLEST_PARAMETERS:
        limits.append(f"extrapolated: {parameters:,} parameters, and the grids' smallest model has 270M")
    elif parameters > LARGEST_RUN_PARAMETERS:
        limits.append(f"extrapolated: {parameters:,} parameters, and the paper's largest model has 10B")
    return limits


def _far_below(parameters: int) -> tuple[str, ...]:
    return (
        f"{parameters:,} active parameters, and the paper's grids are of 270M and 600M and say nothing about it",
        "in this project's own runs on bytes (0.25M to 2M parameters, results/README.md) superposition ended behind "
        "the baseline or level with it",
        "to find out, run both with `tst-lightning compare`, several seeds each",
    )


def _short(positions: int, available_tokens: int | None) -> bool:
    return available_tokens is not None and available_tokens < _data_tokens(positions, 2, min(GRIDS[0].losses))


def _baseline(positions: int, reasons: tuple[str, ...], short: bool) -> Recommendation:
    return Recommendation(1, 0.0, positions, None, short, reasons)
