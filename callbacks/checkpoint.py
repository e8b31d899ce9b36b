"""Checkpoints at optimizer steps only, and what becomes of a run that is asked to stop or cannot save."""

import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.distributed.checkpoint.api import CheckpointException

from callbacks.published import PublishedCheckpoint
from callbacks.stop_signals import StopSignals, say
from callbacks.whole_files import WholeFiles, use_whole_files
from tst_lightning.errors import UserError


class StepCheckpoint(PublishedCheckpoint):
    """Lightning's ``ModelCheckpoint`` that never saves between two micro-batches of an optimizer step.

    A resumed ``ModelCheckpoint`` does not remember which step it saved last and, under gradient accumulation,
    saves that step again in the middle of the next one; resuming from such a file skips data.

    A checkpoint appears whole or not at all, and what it replaces is there until then. At SIGTERM, Ctrl-C or SLURM's
    signal of pre-emption (``stop_signals``) the run saves ``last.ckpt`` at the end of the optimizer step and ends with
    128 + the signal's number as its status; under SLURM, having requeued its job.

    Args:
        every_n_steps: optimizer steps between checkpoints; the end of training is saved too.
        keep_all: keep every checkpoint as ``step=N.ckpt``; otherwise only ``last.ckpt``.
        dirpath: folder of the checkpoints, by default ``<default_root_dir>/checkpoints``.
        on_save_error: what to do where a checkpoint cannot be written, as on a full disk: ``stop`` the run, with the
            one before intact; or ``continue``, with a warning, and try again ``every_n_steps`` later. The end of
            training and of a run that was asked to stop have to be saved in either case.
    """

    def __init__(
        self,
        every_n_steps: int = 500,
        keep_all: bool = False,
        dirpath: str | None = None,
        on_save_error: Literal["stop", "continue"] = "stop",
    ) -> None:
        if on_save_error not in ("stop", "continue"):
            raise UserError(f"StepCheckpoint: on_save_error is {on_save_error!r}, and must be 'stop' or 'continue'")
        if every_n_steps < 1:
            raise UserError(f"StepCheckpoint: every_n_steps is {every_n_steps}, and must be at least 1")
        super().__init__(
            dirpath=dirpath,
            filename="{step}",
            every_n_train_steps=every_n_steps,
            save_top_k=-1 if keep_all else 0,
            save_last=True,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self.on_save_error = on_save_error
        self._must_save = False
        self._files: WholeFiles | None = None
        self._signals = StopSignals()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.dirpath is None:
            self.dirpath = f"{trainer.default_root_dir}/checkpoints"
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._files, self._must_save, self._signals = use_whole_files(trainer), False, StopSignals()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._signals.listen(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._signals.stop_listening(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not _at_step_end(trainer, batch_idx):
            return
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        signum = self._signals.agreed(trainer)
        if signum is not None and trainer.global_step != trainer.max_steps:
            self._save_end(trainer)
            self._stop(trainer, signum)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: validation may fall between two micro-batches of a step."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of training, which need not fall on a multiple of ``every_n_steps``.

        A run that was stopped in the middle of a step (``max_time``, early stopping) keeps its last checkpoint.
        """
        if _at_step_end(trainer, trainer.fit_loop.batch_idx):
            self._save_end(trainer)
        # Not Lightning's, which saves a run that has saved nothing yet in the middle of a step too.
        if (signum := self._signals.agreed(trainer)) is not None:
            self._stop(trainer, signum)  # what follows training is done when the run is resumed

    def _stop(self, trainer: Trainer, signum: int) -> None:
        if trainer.is_global_zero:
            say(
                f"stopped by {signal.Signals(signum).name} after optimizer step {trainer.global_step}, saved in "
                f"'{self._last_checkpoint_saved}': the same command with --ckpt_path last goes on from there"
            )
        self._signals.end(trainer, signum)

    def _save_end(self, trainer: Trainer) -> None:
        """Save the present step if that is not done; a failure ends the run whatever ``on_save_error`` says."""
        self._must_save = True
        if self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        before = self._last_global_step_saved, self._last_checkpoint_saved
        failure: Exception | None = None
        try:
            with self._files.keeping_failures() if self._files else nullcontext():
                super()._save_checkpoint(trainer, filepath)
            failure = self._files.failure if self._files else None
        except (OSError, CheckpointException) as error:  # of a sharded checkpoint: in all processes alike
            failure = error
        reason = trainer.strategy.broadcast(failure and (getattr(failure, "strerror", None) or str(failure)))
        if reason:
            self._last_global_step_saved, self._last_checkpoint_saved = before
            self._take_failure(trainer, filepath, reason, failure)

    def _take_failure(self, trainer: Trainer, filepath: str, reason: str, failure: Exception | None) -> None:
        last = Path(self.format_checkpoint_name(self._monitor_candidates(trainer), self.CHECKPOINT_NAME_LAST))
        kept = f"'{last}', saved before, is intact" if last.exists() else "there is no checkpoint before it"
        message = f"the checkpoint of step {trainer.global_step} cannot be written to '{filepath}' ({reason}); {kept}"
        if self.on_save_error == "stop" or self._must_save:
            resume = "resume with --ckpt_path last" if last.exists() else "start again"
            raise UserError(f"{message}. Make room, or choose another folder, and {resume}") from failure
        rank_zero_warn(f"{message}. Training goes on, and tries again in {self._every_n_train_steps} steps")


def _at_step_end(trainer: Trainer, batch_idx: int) -> bool:
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0
