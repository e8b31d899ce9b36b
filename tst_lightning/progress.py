"""Where a run is after so many optimizer steps: plain integers, known without asking the device."""

from collections.abc import Callable
from typing import Any

from tst_lightning.accounting import Counts
from tst_lightning.schedule import Schedule


def progress_after(steps: int, trainer: Any, flops_per_position: Callable[[int], int]) -> dict[str, int]:
    """``data_tokens``, ``positions`` and ``flops`` over all devices, exact; ``bag_size`` and ``superposed`` (0 or 1).

    A data module that knows better than its schedule (padding, another number of devices before) has
    ``positions(steps)`` and ``data_tokens(steps)``; one with rows of several lengths, ``positions_by_length(steps)``.

    Args:
        steps: optimizer steps.
        trainer: with its ``datamodule``.
        flops_per_position: of a row of so many positions.
    """
    data = trainer.datamodule
    schedule = getattr(data, "schedule", Schedule())
    if hasattr(data, "data_tokens") and hasattr(data, "positions"):
        counts = Counts(data.data_tokens(steps), data.positions(steps))
    else:
        rows = data.batch_size * trainer.accumulate_grad_batches * trainer.world_size
        counts = Counts.of_schedule(schedule, rows * data.sequence_length, steps)
    values = counts.with_flops(flops_per_position(data.sequence_length))
    if hasattr(data, "positions_by_length"):  # a position of a shorter row costs less
        parts = data.positions_by_length(steps).items()
        values["flops"] = sum(positions * flops_per_position(length) for length, positions in parts)
    last_stage = schedule.stage(max(0, steps - 1))
    return values | {"bag_size": last_stage.bag_size, "superposed": int(last_stage.superposed)}
