"""Throughput: how fast the run is and how far, in a file that others may watch."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tst_lightning.errors import UserError
from tst_lightning.files import write_atomically


class Throughput(Callback):
    """Measure training time without validation and keep ``progress.json`` in the run's folder current.

    Lightning's ``ThroughputMonitor`` synchronises the device on every batch; this reads a clock every
    ``every_n_seconds`` instead, so rates are means over that time and cost nothing.

    Logs ``progress/train_seconds`` at every validation. The file holds ``step``, ``max_steps``, ``phase``,
    ``bag_size``, ``data_tokens``, ``positions``, ``flops`` (exact integers), ``train_seconds``,
    ``positions_per_second`` (since the last writing), ``recovery_step``, ``val_loss`` (the last one) and ``done``.

    The module needs ``progress(steps)``, which gives the counts after so many optimizer steps under the names of
    ``CausalLMModule.progress``, with ``progress/positions`` among them; the data module needs ``schedule``, a
    ``tst_lightning.schedule.Schedule``.

    Args:
        every_n_seconds: least time between two writings of the file.
    """

    def __init__(self, every_n_seconds: float = 5.0) -> None:
        if every_n_seconds is None or not 0 <= every_n_seconds < math.inf:
            raise UserError(f"Throughput: every_n_seconds={every_n_seconds}: give a number of seconds of at least 0")
        self.every_n_seconds = every_n_seconds
        self._train_seconds = 0.0
        self._running_since: float | None = None
        self._last_written: tuple[float, int, int] | None = None  # training seconds, step, positions
        self._val_loss: float | None = None

    @property
    def train_seconds(self) -> float:
        """Seconds spent training, over all sessions of a resumed run, validation left out."""
        running = 0.0 if self._running_since is None else time.monotonic() - self._running_since
        return self._train_seconds + running

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time within the block is not training time: for callbacks that do other work between two steps."""
        running = self._running_since is not None
        self._stop_clock()
        try:
            yield
        finally:
            if running:
                self._resume_clock()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._resume_clock()
        self._last_written = (self.train_seconds, trainer.global_step, _positions(trainer, pl_module))
        self._write(trainer, pl_module, rate=None)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        seconds, step, positions_before = self._last_written
        elapsed = self.train_seconds - seconds
        if elapsed < self.every_n_seconds or trainer.global_step == step:
            return
        positions = _positions(trainer, pl_module)  # not in proportion to the steps: some stages have fewer rows
        self._last_written = (self.train_seconds, trainer.global_step, positions)
        self._write(trainer, pl_module, (positions - positions_before) / elapsed)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if "val/loss" in trainer.callback_metrics:
            self._val_loss = float(trainer.callback_metrics["val/loss"])
        for logger in trainer.loggers:
            logger.log_metrics({"progress/train_seconds": self.train_seconds}, step=trainer.global_step)
            # What was measured before a checkpoint must survive a kill after it.
            if hasattr(logger.experiment, "flush"):
                logger.experiment.flush()
        self._resume_clock()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_clock()
        self._write(trainer, pl_module, rate=None)

    def state_dict(self) -> dict[str, Any]:
        return {"version": 1, "train_seconds": self.train_seconds, "val_loss": self._val_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._train_seconds = state_dict["train_seconds"]
        self._val_loss = state_dict.get("val_loss")

    def _resume_clock(self) -> None:
        self._running_since = time.monotonic()

    def _stop_clock(self) -> None:
        self._train_seconds = self.train_seconds
        self._running_since = None

    def _write(self, trainer: Trainer, pl_module: LightningModule, rate: float | None) -> None:
        if not trainer.is_global_zero:
            return
        step, schedule = trainer.global_step, trainer.datamodule.schedule
        numbers = {name.removeprefix("progress/"): n for name, n in pl_module.progress(step).items()}
        superposed = any(stage.superposed for stage in schedule.stages)  # or a curriculum of row lengths
        recovery = schedule.last_switch if superposed else 0
        if rate is None and self.train_seconds > 0 and step > 0:
            rate = numbers["positions"] / self.train_seconds
        content = {
            "step": step,
            "max_steps": trainer.max_steps,
            "phase": "superposition" if schedule.stage(step).superposed else "next-token",
            **numbers,
            "train_seconds": self.train_seconds,
            "positions_per_second": rate,
            "recovery_step": recovery,
            "val_loss": self._val_loss,
            "done": step >= trainer.max_steps,
        }
        write_atomically(Path(trainer.default_root_dir) / "progress.json", json.dumps(content, indent=1))


def _positions(trainer: Trainer, pl_module: LightningModule) -> int:
    """Positions that the run has seen so far."""
    return pl_module.progress(trainer.global_step)["progress/positions"]
