"""The learning rate by optimizer step: a pure function, like the schedule of bags."""

import math
from dataclasses import dataclass
from typing import Literal

from tst_lightning.errors import UserError


@dataclass(frozen=True)
class Restart:
    """A step at which the learning rate begins anew.

    Args:
        step: the first optimizer step with the new rate.
        whole: whether each part of the run has a whole schedule of its own, as in patch-level training. If not,
            only the warm-up is repeated: until the step the rate is as without, and the decay stays where it is, at
            the end of the whole run, so that a restart changes nothing but this.
    """

    step: int
    whole: bool = False


@dataclass(frozen=True)
class WarmupStableDecay:
    """Learning-rate factor by optimizer step: linear warm-up, a plateau at 1, decay over the last steps.

    The cosine schedule is ``decay_ratio=1, decay_shape="cosine"``: no plateau.

    Args:
        warmup_steps: steps to reach the full rate.
        decay_ratio: share of the run, at its end, that decays (the paper: 0.1); not before the warm-up has ended.
        final_ratio: factor that the decay ends at.
        decay_shape: ``linear``, or ``cosine``, half a wave.

    Raises:
        UserError: a value out of range.
    """

    warmup_steps: int = 0
    decay_ratio: float = 0.1
    final_ratio: float = 0.0
    decay_shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        if self.warmup_steps is None or self.warmup_steps < 0:
            raise UserError(f"warmup_steps={self.warmup_steps}: give 0 or more steps")
        for name in ("decay_ratio", "final_ratio"):
            value = getattr(self, name)
            if value is None or not 0 <= value <= 1:
                raise UserError(f"{name}={value}: give a share between 0 and 1")
        if self.decay_shape not in ("linear", "cosine"):
            raise UserError(f"decay_shape={self.decay_shape!r}: choose linear or cosine")

    def factor(self, step: int, max_steps: int, restart: Restart | None = None) -> float:
        """Factor for optimizer step ``step`` (from 0) of a run of ``max_steps``."""
        if restart is None:
            return self._factor(step, max_steps)
        if restart.whole and step < restart.step:
            return self._factor(step, restart.step)
        if restart.whole:
            return self._factor(step - restart.step, max_steps - restart.step)
        factor = self._factor(step, max_steps)
        return factor if step < restart.step else min(factor, self._warmup(step - restart.step))

    def decay_start(self, max_steps: int) -> int:
        """Steps of a run of ``max_steps`` before its decay: from there on, runs of other lengths differ."""
        return max(max_steps - round(self.decay_ratio * max_steps), min(self.warmup_steps, max_steps))

    def _factor(self, step: int, max_steps: int) -> float:
        if step < self.warmup_steps:
            return self._warmup(step)
        decay_steps = max_steps - self.decay_start(max_steps)
        remaining = max(0, max_steps - step)
        if remaining >= decay_steps:
            return 1.0
        share = remaining / decay_steps
        if self.decay_shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.final_ratio + (1 - self.final_ratio) * share

    def _warmup(self, step: int) -> float:
        return (step + 1) / self.warmup_steps if step < self.warmup_steps else 1.0
