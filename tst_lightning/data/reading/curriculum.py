"""In which order rows of different lengths are read: a schedule over ``L``, as superposition has one over ``s``."""

from bisect import bisect_right
from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from itertools import accumulate
from typing import Literal

import numpy as np

from tst_lightning.data.reading.mixture import shared_out
from tst_lightning.schedule import Schedule, Stage

Curriculum = Literal["grow_p2", "uniform"]


def length_schedule(
    tokens: Mapping[int, int], max_steps: int, curriculum: Curriculum, cycles: int, random: np.random.Generator
) -> Schedule:
    """One length of rows for every optimizer step.

    Each length has a part of the steps in proportion to its text, because steps have equally many tokens, and an
    equal part of those in every cycle. Within a cycle lengths are drawn step by step, without replacement: a length
    with ``n`` steps of the cycle comes with odds ``n * o`` until they are used up. With ``grow_p2`` ``o`` is 1 for
    the longest and doubles with every shorter one, so a cycle goes from short rows to long ones; with ``uniform`` it
    is 1 for all.

    Cycles, odds and the factor ``n`` are those of the program by the authors of arXiv 2405.13226
    (``get_dd_params.py``, whose factor is the bucket's tokens in the cycle; with equal buckets it makes no
    difference). Ours is that steps are dealt out exactly, where the program rounds to whole shards.

    Args:
        tokens: text by length of its rows, in powers of two. A length without text, or with too little for a step of
            the run, is not read.
        max_steps: optimizer steps of the run.
        curriculum: see above.
        cycles: how often it goes from short to long.
        random: draws the lengths; the schedule is a function of its state and the other arguments.
    """
    lengths = sorted(tokens)
    steps = np.array(_steps_of(tokens, max_steps))
    odds = [lengths[-1] // length if curriculum == "grow_p2" else 1 for length in lengths]
    drawn: list[int] = []
    for cycle in range(cycles):
        drawn += _draw(steps * (cycle + 1) // cycles - steps * cycle // cycles, odds, random)
    stages = [
        Stage(step, 1, 1, sequence_length=lengths[now])
        for step, (before, now) in enumerate(zip([None, *drawn], drawn, strict=False))
        if before != now
    ]
    return Schedule(tuple(stages), of_length=partial(_in_order, dict(tokens)))


def _steps_of(tokens: Mapping[int, int], max_steps: int) -> tuple[int, ...]:
    """Steps of each length, from the shortest: in proportion to its text."""
    lengths = sorted(tokens)
    return shared_out(max_steps, tuple(Fraction(tokens[length], sum(tokens.values())) for length in lengths))


def _in_order(tokens: Mapping[int, int], max_steps: int) -> Schedule:
    """Reads what a curriculum of this length does, one length after the other: drawing them takes time."""
    first, stages = 0, []
    for length, steps in zip(sorted(tokens), _steps_of(tokens, max_steps), strict=True):
        if steps:
            stages.append(Stage(first, 1, 1, sequence_length=length))
        first += steps
    return Schedule(tuple(stages))


def _draw(steps: np.ndarray, odds: list[int], random: np.random.Generator) -> list[int]:
    """Numbers of the lengths in one cycle, each as often as ``steps`` says."""
    left = steps.tolist()
    weights = [count * odd for count, odd in zip(left, odds, strict=True)]
    drawn = []
    for point in random.random(sum(left)).tolist():
        sums = list(accumulate(weight if count else 0 for weight, count in zip(weights, left, strict=True)))
        number = bisect_right(sums, point * sums[-1])
        left[number] -= 1
        drawn.append(number)
    return drawn
