"""Checkpoints at optimizer steps only."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class StepCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` that never saves between two micro-batches of an optimizer step.

    A resumed ``ModelCheckpoint`` does not remember which step it saved last and, under gradient accumulation,
    saves that step again in the middle of the next one; resuming from such a file skips data.

    Args:
        every_n_steps: optimizer steps between checkpoints; the end of training is saved too.
        keep_all: keep every checkpoint as ``step=N.ckpt``; otherwise only ``last.ckpt``.
        dirpath: folder of the checkpoints, by default ``<default_root_dir>/checkpoints``.
    """

    def __init__(self, every_n_steps: int = 500, keep_all: bool = False, dirpath: str | None = None) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="{step}",
            every_n_train_steps=every_n_steps,
            save_top_k=-1 if keep_all else 0,
            save_last=True,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.dirpath is None:
            self.dirpath = f"{trainer.default_root_dir}/checkpoints"
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if _at_step_end(trainer, batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: validation may fall between two micro-batches of a step."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of training, which need not fall on a multiple of ``every_n_steps``.

        A run that was stopped in the middle of a step (``max_time``, early stopping) keeps its last checkpoint.
        """
        if self._last_global_step_saved != trainer.global_step and _at_step_end(trainer, trainer.fit_loop.batch_idx):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        super().on_train_end(trainer, pl_module)


def _at_step_end(trainer: Trainer, batch_idx: int) -> bool:
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0
