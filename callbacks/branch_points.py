"""Checkpoints from which shorter runs branch off a long one."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only

from tst_lightning.errors import UserError


class BranchPoints(Checkpoint):
    """Keeps ``step=N.ckpt`` at given optimizer steps, beside the checkpoints of the run itself.

    Under Warmup-Stable-Decay a run of ``n`` steps is a longer run up to where its own decay begins. Resumed
    from there with ``trainer.max_steps=n`` it is that run of ``n`` steps, bit for bit, at the cost of its
    decay alone.

    Args:
        steps: optimizer steps done at each point.

    Raises:
        UserError: no steps, or steps below 1.
    """

    def __init__(self, steps: list[int]) -> None:
        if not steps or any(isinstance(step, bool) or step < 1 for step in steps):
            raise UserError(f"BranchPoints: steps={steps}: give one or more steps of at least 1")
        self.steps = frozenset(steps)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A kill may have come between the run's own checkpoint of this step and this one.
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0:
            self._save(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        path = branch_point(trainer.default_root_dir, trainer.global_step)
        # A resumed run may come by again.
        if trainer.global_step in self.steps and not path.exists():
            aside = path.with_name(f".{path.name}")
            trainer.save_checkpoint(aside)
            _appear(aside, path)


def branch_point(root_dir: str | Path, step: int) -> Path:
    """Where the checkpoint of a run in ``root_dir`` lies."""
    return Path(root_dir) / "checkpoints" / f"step={step}.ckpt"


@rank_zero_only
def _appear(aside: Path, path: Path) -> None:
    os.replace(aside, path)
