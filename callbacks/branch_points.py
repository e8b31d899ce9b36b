"""Checkpoints from which shorter runs branch off a long one."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.published import OnSaveError, prepare_saving, require_choice, save_whole, wait_until_written
from tst_lightning.errors import UserError


class BranchPoints(Checkpoint):
    """Keeps ``step=N.ckpt`` at given optimizer steps, beside the checkpoints of the run itself.

    Under Warmup-Stable-Decay a run of ``n`` steps is a longer run up to where its own decay begins. Resumed
    from there with ``trainer.max_steps=n`` it is that run of ``n`` steps, bit for bit, at the cost of its
    decay alone.

    Args:
        steps: optimizer steps done at each point.
        on_save_error: what to do where a point cannot be written, as on a full disk: ``stop`` the run, which keeps the
            point when it is resumed; or ``continue`` without the point, with a warning.

    Raises:
        UserError: no steps, or steps below 1.
    """

    def __init__(self, steps: list[int], on_save_error: OnSaveError = "stop") -> None:
        if not steps or any(isinstance(step, bool) or step < 1 for step in steps):
            raise UserError(f"BranchPoints: steps={steps}: give one or more steps of at least 1")
        require_choice("BranchPoints", on_save_error)
        self.steps = frozenset(steps)
        self.on_save_error = on_save_error

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            prepare_saving(trainer, "BranchPoints", self.on_save_error)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A kill may have come between the run's own checkpoint of this step and this one.
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0:
            self._save(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that files which a thread writes are there."""
        try:
            wait_until_written(trainer)
        except OSError as failure:
            self._take_failure(trainer, "a checkpoint", failure)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step not in self.steps:
            return
        path = branch_point(trainer.default_root_dir, trainer.global_step)
        # A resumed run may come by again. One process looks: if another one saw it later, it would not save with it.
        if trainer.strategy.broadcast(path.exists()):
            return
        try:
            save_whole(trainer, str(path), trainer.save_checkpoint)
        except OSError as failure:
            self._take_failure(trainer, f"the branch point '{path}'", failure)

    def _take_failure(self, trainer: Trainer, what: str, failure: OSError) -> None:
        message = f"{what} cannot be written at step {trainer.global_step} ({failure.strerror or failure})"
        if self.on_save_error == "stop":
            raise UserError(
                f"{message}. Make room, and resume with --ckpt_path last, or start again if there is no checkpoint yet"
            ) from failure
        rank_zero_warn(f"{message}. Training goes on without it")


def branch_point(root_dir: str | Path, step: int) -> Path:
    """Where the checkpoint of a run in ``root_dir`` lies."""
    return Path(root_dir) / "checkpoints" / f"step={step}.ckpt"
