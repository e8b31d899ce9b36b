"""Callbacks that damage a run, for configs of tests: ``class_path: faulty_callbacks.BadLoss``."""

from lightning.pytorch import Callback, LightningModule, Trainer


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
