"""The largest micro-batch that fits a device, with as many rows a step: found by rehearsing a few of them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tst_lightning.plan.memory import Memory
from tst_lightning.plan.run import FitPlan
from tst_lightning.schedule import Schedule

SAFE_SHARE = 0.9
"""Of a device's memory: the rest is for what the driver takes and fragmentation loses."""
MAX_REHEARSALS = 3
"""Beside that of the run: each builds the model anew, which takes seconds."""


@dataclass(frozen=True)
class BatchSize:
    """A micro-batch in place of the configured one; ``fits`` in ``SAFE_SHARE`` of a device, or is the smallest."""

    batch_size: int
    accumulate: int
    total_bytes: int
    fits: bool


def with_batch_size(plan: FitPlan, batch_size: int) -> FitPlan:
    """The same run with other micro-batches and as many rows a step; ``batch_size`` divides those of a device."""
    config = dict(plan.config) | {"data": dict(plan.config["data"]) | {"batch_size": batch_size}}
    rows = plan.config["data"]["batch_size"] * plan.accumulate
    return replace(plan, config=config, accumulate=rows // batch_size)


def possible_batch_sizes(plan: FitPlan, schedule: Schedule) -> list[int]:
    """Batch sizes with which a step has exactly the rows that it has, in ascending order.

    They divide a device's rows of a step. A stage with fewer rows a step divides them in turn, and so do the places
    in the text from which rows are read in parallel.
    """
    rows = plan.config["data"]["batch_size"] * plan.accumulate
    divisors = {stage.row_divisor for stage in schedule.stages}
    streams = plan.config["data"].get("streams", 1)

    def is_possible(size: int) -> bool:
        if rows % size or size % math.lcm(*divisors):
            return False
        return all(plan.devices.data_parallel * size // divisor % streams == 0 for divisor in divisors)

    return [size for size in range(1, rows + 1) if is_possible(size)]


def largest_batch(
    plan: FitPlan, schedule: Schedule, configured: Memory, limit_bytes: float, rehearsed: Callable[[FitPlan], Memory]
) -> BatchSize | None:
    """The largest micro-batch in place of the configured one, whose fullest moment stays below a limit.

    Memory grows with the rows of a micro-batch, nearly on a line. So the line through what is rehearsed names a
    batch size, which is rehearsed, until the one that is named is known to fit.

    Args:
        plan: of the run.
        schedule: with the lengths of a curriculum, if they are known.
        configured: the memory of the run as it is.
        limit_bytes: of a device.
        rehearsed: the memory of another run.

    Returns:
        The batch size; the smallest possible, which does not fit, if none does; None if it is the configured one.
    """
    sizes = possible_batch_sizes(plan, schedule)
    now = plan.config["data"]["batch_size"]
    if now not in sizes:
        return None
    known = {now: configured.peak.total_bytes}
    growing = sum(configured.peak.by_kind.get(kind, 0) for kind in ("activations", "working"))
    for _ in range(MAX_REHEARSALS):
        chosen = _named(sizes, known, growing / now, limit_bytes)
        if chosen in known:
            break
        known[chosen] = rehearsed(with_batch_size(plan, chosen)).peak.total_bytes
    fitting = [size for size, total in known.items() if total <= limit_bytes]
    best = max(fitting, default=sizes[0])
    if best not in known or (fitting and best == now):
        return None
    return BatchSize(best, with_batch_size(plan, best).accumulate, known[best], bool(fitting))


def _named(sizes: list[int], known: Mapping[int, int], slope: float, limit_bytes: float) -> int:
    """The largest size that should fit, by what is known; the smallest if none should."""
    fitting = [size for size, total in known.items() if total <= limit_bytes]
    too_large = [size for size, total in known.items() if total > limit_bytes]
    lowest, beyond = max(fitting, default=0), min(too_large, default=math.inf)
    good = [
        size
        for size in sizes
        if size in fitting or (lowest < size < beyond and _estimate(size, known, slope) <= limit_bytes)
    ]
    return max(good, default=sizes[0])


def _estimate(size: int, known: Mapping[int, int], slope: float) -> float:
    """Bytes by the line through the two nearest that are known; of one, with ``slope`` bytes a row."""
    nearest = sorted(known, key=lambda other: abs(other - size))[:2]
    if len(nearest) == 2:
        slope = (known[nearest[0]] - known[nearest[1]]) / (nearest[0] - nearest[1])
    return known[nearest[0]] + slope * (size - nearest[0])
