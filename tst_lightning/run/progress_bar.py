"""The progress bar of a fit: optimizer steps of ``max_steps``, whether the run is fresh or resumed."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from tst_lightning.run.own_lines import OwnLines
from tst_lightning.schedule import Schedule


class _Bar(Tqdm):
    """One that knows whether the cursor stands behind it, and is drawn where a terminal has no width either.

    A pseudo-terminal that nobody has given a size has 0 columns and rows, which tqdm takes for -1 and draws nothing in.
    """

    behind_it = False

    def display(self, *arguments: Any, **options: Any) -> bool:
        self.nrows = _if_known(self.nrows)
        shown = super().display(*arguments, **options)
        self.behind_it = True
        return shown

    def close(self) -> None:
        super().close()
        self.behind_it = False

    def end_line(self) -> None:
        """Go to the next line if the cursor is behind the bar."""
        if self.behind_it and not self.disable:
            self.behind_it = False
            self.fp.write("\n")
            self.fp.flush()

    @property
    def format_dict(self) -> dict[str, Any]:
        values = super().format_dict
        return values | {"ncols": _if_known(values["ncols"])}


def _if_known(size: int | None) -> int | None:
    return size if size is not None and size > 0 else None


class StepProgressBar(TQDMProgressBar):
    """Lightning's bar, counting steps: ``Superposition:  40%|####      | 400/1000 [00:50<01:15, 8.00step/s]``.

    Lightning's own counts micro-batches from the run's first one, against the optimizer steps that are left. So its
    total is lost in a resumed run, and under gradient accumulation; and what was done before the checkpoint counts as
    done in this session, so rate and time left are wrong. Here the rate is of this session.

    A datamodule with a ``schedule.Schedule`` named ``schedule`` has its phase named in front, as of the last step.

    While it is there, what goes to standard error begins on a line of its own.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._messages = OwnLines(self._end_line)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_messages": OwnLines(self._end_line)}  # streams are not copied

    def on_train_start(self, *arguments: Any) -> None:
        super().on_train_start(*arguments)
        self._messages.begin()

    def on_train_end(self, *arguments: Any) -> None:
        super().on_train_end(*arguments)
        self._messages.end()

    def on_exception(self, *arguments: Any) -> None:
        self._end_line()  # for what is said of it when the Trainer has ended
        self._messages.end()

    def _end_line(self) -> None:
        if isinstance(self._train_progress_bar, _Bar):
            self._train_progress_bar.end_line()

    def init_train_tqdm(self) -> Tqdm:
        if self.trainer.max_steps < 1:
            return super().init_train_tqdm()
        return _Bar(
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
