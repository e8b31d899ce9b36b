"""Steps, positions, data tokens and FLOPs of each phase of a run, counted as the run logs them (``progress/*``)."""

from collections.abc import Callable
from dataclasses import dataclass

from tst_lightning.plan.prepared import Prepared
from tst_lightning.plan.run import FitPlan
from tst_lightning.schedule import Schedule, Stage


@dataclass(frozen=True)
class Phase:
    """A part of a run, over all devices. Phases of a length curriculum alternate, and come together here."""

    name: str
    steps: int
    positions: int
    data_tokens: int
    flops: int


def phases(plan: FitPlan, corpus: Prepared, flops_per_position: Callable[[int], int]) -> tuple[Phase, ...]:
    """The phases of a run in order.

    Args:
        plan: of the run.
        corpus: if it is there, what it holds decides (packed rows, lengths of rows).
        flops_per_position: of a row of so many positions.
    """
    schedule = corpus.data.schedule if corpus.data is not None else plan.schedule
    counted: dict[str, list[int]] = {}
    first = 0
    for stage, steps in schedule.spans(plan.max_steps):
        length = stage.sequence_length or plan.sequence_length
        name = _name(stage, schedule)
        positions, tokens = _counts(plan, corpus, stage, first, first + steps)
        row = counted.setdefault(name, [0, 0, 0, 0])
        for place, value in enumerate((steps, positions, tokens, positions * flops_per_position(length))):
            row[place] += value
        first += steps
    return tuple(Phase(name, *row) for name, row in counted.items() if row[0])


def _counts(plan: FitPlan, corpus: Prepared, stage: Stage, first: int, end: int) -> tuple[int, int]:
    """Positions and data tokens of the steps ``[first, end)``."""
    if stage.sequence_length is None and corpus.data is not None:
        positions, tokens = corpus.data.positions, corpus.data.data_tokens
        return positions(end) - positions(first), tokens(end) - tokens(first)
    # Rows of a curriculum are as many times more as they are shorter, all of text.
    positions = plan.rows_per_step // stage.row_divisor * plan.sequence_length * (end - first)
    return positions, positions * stage.bag_size


def _name(stage: Stage, schedule: Schedule) -> str:
    if stage.sequence_length is not None:
        return f"rows of {stage.sequence_length}"
    if stage.row_divisor > 1:
        return f"patches of {stage.bag_size}"
    if stage.superposed:
        return f"superposition s={stage.target_bag_size}" + ("" if stage.bag_size > 1 else ", outputs only")
    return "recovery" if len(schedule.stages) > 1 else "training"
