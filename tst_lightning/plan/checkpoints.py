"""How many checkpoints a run keeps, how often it writes them, and how large they are."""

from collections.abc import Mapping
from dataclasses import dataclass

from tst_lightning.comparison.design.configured import callback_options
from tst_lightning.plan.run import FitPlan


@dataclass(frozen=True)
class Checkpoints:
    """Of one run."""

    count: int
    """Kept at its end, ``last.ckpt`` included."""
    bytes_each: int | None
    """Weights and optimizer state of all devices together; None if not known."""
    every_n_steps: int | None = None
    """Optimizer steps between two; None if there is none before the end."""

    @property
    def disk_bytes(self) -> int | None:
        """Kept at the end, and one more that is being written."""
        if self.bytes_each is None:
            return None
        return (self.count + 1) * self.bytes_each if self.count else 0


def checkpoints(plan: FitPlan, bytes_each: int | None) -> Checkpoints:
    """Of ``StepCheckpoint`` and ``BranchPoints``, as configured.

    Args:
        plan: of the run.
        bytes_each: weights, buffers and optimizer state.
    """
    count, often = 0, None
    if (options := callback_options(plan.config, "StepCheckpoint")) is not None:
        every = options.get("every_n_steps", 500)
        often = every if 0 < every < plan.max_steps else None
        # The end of training is `last.ckpt`; `keep_all` keeps the others beside it.
        count = 1 + (plan.max_steps // every if options.get("keep_all") and every > 0 else 0)
    branches: Mapping = callback_options(plan.config, "BranchPoints") or {}
    count += len({step for step in branches.get("steps") or () if step <= plan.max_steps})
    return Checkpoints(count, bytes_each, often)
