"""Callbacks that end one process of a run, for configs of tests: ``class_path: ending_callbacks.Killed``."""

import os
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tst_lightning.errors import UserError


class Killed(Callback):
    """SIGKILL for one rank, as the kernel sends it when memory runs out; only once, so that the run can go on.

    Args:
        marker: a file, made before.
    """

    def __init__(self, rank: int, step: int, marker: str) -> None:
        self.rank, self.step, self.marker = rank, step, Path(marker)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.global_rank, trainer.global_step) == (self.rank, self.step) and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Refuses(Callback):
    """A user's mistake that the given ranks see."""

    def __init__(self, ranks: list[int]) -> None:
        self.ranks = ranks

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_rank in self.ranks:
            raise UserError("the cup is empty: fill it")
