"""Checkpoints at optimizer steps only, and what becomes of a run that is asked to stop or cannot save."""

import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.published import OnSaveError, prepare_saving, require_choice, save_whole, wait_until_written
from callbacks.stop_signals import StopSignals, say
from callbacks.whole_files import finish_writing, writes_in_a_thread
from tst_lightning.errors import UserError


class StepCheckpoint(ModelCheckpoint):
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
            training and of a run that was asked to stop have to be saved in either case. ``AsyncCheckpointIO`` tells of
            a failure only later, and goes with ``stop`` alone.
    """

    def __init__(
        self,
        every_n_steps: int = 500,
        keep_all: bool = False,
        dirpath: str | None = None,
        on_save_error: OnSaveError = "stop",
    ) -> None:
        require_choice("StepCheckpoint", on_save_error)
        if not isinstance(every_n_steps, int) or every_n_steps < 1:
            raise UserError(f"StepCheckpoint: every_n_steps is {every_n_steps}, and must be an integer of at least 1")
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
        self._signals = StopSignals()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.dirpath is None:
            self.dirpath = f"{trainer.default_root_dir}/checkpoints"
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            prepare_saving(trainer, "StepCheckpoint", self.on_save_error)
            self._must_save, self._signals = False, StopSignals()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._signals.listen(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._signals.stop_listening(trainer)
        try:
            finish_writing(trainer)
        except Exception as failure:  # in a thread; the run has ended for the other reason
            rank_zero_warn(f"besides, a checkpoint cannot be written ({failure})")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not _at_step_end(trainer, batch_idx):
            return
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        signum = self._signals.agreed(trainer)
        if signum is not None and trainer.global_step != trainer.max_steps:
            self._save_end(trainer)
            self._wait_until_written(trainer)  # before anything is said of it, and before the job is requeued
            self._stop(trainer, signum)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: validation may fall between two micro-batches of a step."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of training, which need not fall on a multiple of ``every_n_steps``.

        A run that was stopped in the middle of a step (``max_time``, early stopping) keeps its last checkpoint.
        """
        if _at_step_end(trainer, trainer.fit_loop.batch_idx):
            self._save_end(trainer)
        self._wait_until_written(trainer)
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

    def _wait_until_written(self, trainer: Trainer) -> None:
        try:
            wait_until_written(trainer)
        except OSError as failure:
            self._take_failure(trainer, self._last_checkpoint_saved, failure)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        save = super()._save_checkpoint
        before = self._last_global_step_saved, self._last_checkpoint_saved
        try:
            save_whole(trainer, filepath, lambda place: save(trainer, place))
            self._last_checkpoint_saved = filepath
        except OSError as failure:
            self._last_global_step_saved, self._last_checkpoint_saved = before
            self._take_failure(trainer, filepath, failure)

    def _take_failure(self, trainer: Trainer, filepath: str, failure: OSError) -> None:
        last = Path(self.format_checkpoint_name(self._monitor_candidates(trainer), self.CHECKPOINT_NAME_LAST))
        kept = f"'{last}', saved before, is intact" if last.exists() else "there is no checkpoint before it"
        what = f"the checkpoint of step {trainer.global_step}"
        if writes_in_a_thread(trainer):
            what += ", or one before it,"
        message = f"{what} cannot be written to '{filepath}' ({failure.strerror or failure}); {kept}"
        if self.on_save_error == "stop" or self._must_save:
            resume = "resume with --ckpt_path last" if last.exists() else "start again"
            raise UserError(f"{message}. Make room, or choose another folder, and {resume}") from failure
        rank_zero_warn(f"{message}. Training goes on, and tries again in {self._every_n_train_steps} steps")


def _at_step_end(trainer: Trainer, batch_idx: int) -> bool:
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0
