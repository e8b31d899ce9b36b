"""Callbacks that damage a run, for configs of tests: ``class_path: faulty_callbacks.BadLoss``."""

import errno
import os
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.checkpoint import FileSystemWriter


class BadLoss(Callback):
    """Makes the loss of one micro-batch NaN, on one rank."""

    def __init__(self, micro: int, rank: int) -> None:
        self.micro = micro
        self.rank = rank

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: dict, batch_idx: int) -> None:
        if batch["micro"] == self.micro and trainer.global_rank == self.rank:
            loss = pl_module.loss
            del pl_module.loss  # a submodule, which torch does not let a function replace
            pl_module.loss = lambda *inputs: loss(*inputs) * float("nan")


class FailingSave(Callback):
    """The disk of one rank is full while sharded checkpoints are saved.

    Args:
        steps: after which the first rank fails with the ``meta.pt`` beside the shards or with the ``rename`` of the
            folder, or the second one with its ``shard``.
    """

    def __init__(self, steps: dict[str, int]) -> None:
        self.steps = steps
        self._ordinary = torch.save, os.rename, FileSystemWriter.write_data

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        torch.save, os.rename, FileSystemWriter.write_data = self._ordinary
        failing = [what for what, step in self.steps.items() if step == trainer.global_step]
        failing = [what for what in failing if (what == "shard") == (trainer.global_rank == 1)]
        if "meta" in failing:
            save = torch.save
            # Without a Python file in between, so that the error is torch's alone.
            torch.save = lambda content, file: save(content, "/dev/full" if "meta.pt" in str(file) else file)
        if "rename" in failing:
            os.rename = _full
        if "shard" in failing:
            FileSystemWriter.write_data = _full


def _full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
