"""The progress bar of a fit: optimizer steps of ``max_steps``, whether the run is fresh or resumed."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from tst_lightning.schedule import Schedule


class StepProgressBar(TQDMProgressBar):
    """Lightning's bar, counting steps: ``Superposition:  40%|####      | 400/1000 [00:50<01:15, 8.00step/s]``.

    Lightning's own counts micro-batches from the run's first one, against the optimizer steps that are left. So its
    total is lost in a resumed run, and under gradient accumulation; and what was done before the checkpoint counts as
    done in this session, so rate and time left are wrong. Here the rate is of this session.

    A datamodule with a ``schedule.Schedule`` named ``schedule`` has its phase named in front, as of the last step.
    """

    def init_train_tqdm(self) -> Tqdm:
        if self.trainer.max_steps < 1:
            return super().init_train_tqdm()
        return Tqdm(
            desc=_phase(self.trainer),
            total=self.trainer.max_steps,
            initial=self.trainer.global_step,
            unit="step",
            position=2 * self.process_position,
            disable=self.is_disabled,
            dynamic_ncols=True,
            file=sys.stdout,
            smoothing=0,  # the rate is the mean, which a validation does not throw off
            bar_format=self.BAR_FORMAT,
        )

    def on_train_epoch_start(self, trainer: Trainer, *arguments: Any) -> None:
        # Not called where a resumed run goes on within its epoch, and there is one: the bar is of the whole fit.
        if trainer.max_steps < 1:
            super().on_train_epoch_start(trainer, *arguments)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.max_steps < 1:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        elif (batch_idx + 1) % trainer.accumulate_grad_batches == 0:  # the last micro-batch of a step
            bar, step = self.train_progress_bar, trainer.global_step
            if self._should_update(step, bar.total) and not bar.disable:
                bar.n = step
                bar.set_description(_phase(trainer), refresh=False)
                bar.set_postfix(self.get_metrics(trainer, pl_module))


def count_steps(trainer: Trainer, callbacks: Any = ()) -> None:
    """Have ``StepProgressBar`` where the Trainer has Lightning's ``TQDMProgressBar``, or its default; others stay.

    Args:
        trainer: built, and not running yet.
        callbacks: of the config. A ``RichProgressBar`` that is not among them is Lightning's own choice.
    """
    for place, callback in enumerate(trainer.callbacks):
        if type(callback) is TQDMProgressBar:
            rate, position = callback.refresh_rate, callback.process_position
            trainer.callbacks[place] = StepProgressBar(rate, position, leave=callback._leave)
        elif type(callback) is RichProgressBar and "RichProgressBar" not in str(callbacks):
            trainer.callbacks[place] = StepProgressBar()


def _phase(trainer: Trainer) -> str:
    schedule = getattr(trainer.datamodule, "schedule", None)
    if not isinstance(schedule, Schedule) or not any(stage.superposed for stage in schedule.stages):
        return "Training"
    return "Superposition" if schedule.stage(max(0, trainer.global_step - 1)).superposed else "Recovery"
