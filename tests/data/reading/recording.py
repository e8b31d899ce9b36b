"""A module and callbacks that record what training is fed, for the tests of the data module."""

import hashlib
import json
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.schedule import Schedule


class Recorder(lightning.LightningModule):
    """Trains a small embedding on whatever comes, and writes down every batch."""

    def __init__(self, record_dir: Path | None = None, build_loader_early: bool = False) -> None:
        super().__init__()
        self.weights = torch.nn.Embedding(257, 4)
        self.record_dir = record_dir
        self.build_loader_early = build_loader_early
        self.rows: dict[int, list[str]] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.order: list[int] = []
        self.validation: list[torch.Tensor] = []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        tokens, micro = batch["tokens"], batch["micro"]
        assert type(micro) is int
        assert tokens.dtype == torch.int32
        self.order.append(micro)
        self.shapes[micro] = tuple(tokens.shape)
        self.rows[micro] = [hashlib.sha1(row.numpy().tobytes()).hexdigest() for row in tokens]
        return self.weights(tokens).square().mean() * (1 + micro)

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.validation.append(batch["tokens"])

    def on_train_end(self) -> None:
        if self.record_dir is not None:
            record = {"rows": self.rows, "order": self.order}
            (self.record_dir / f"rank{self.global_rank}.json").write_text(json.dumps(record))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.build_loader_early:
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.AdamW(self.parameters(), 1e-2)


class SetSchedule(lightning.Callback):
    """What the superposition callback does to the data module, and no more."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        trainer.datamodule.set_schedule(self.schedule)
        if stage == "fit":
            trainer.datamodule.check(trainer.max_steps, trainer.accumulate_grad_batches, trainer.world_size)


def trainer(folder: Path, max_steps: int, schedule: Schedule | None = None, **options) -> lightning.Trainer:
    """A quiet CPU trainer; with ``save_every`` it keeps a checkpoint every so many steps in ``folder``."""
    callbacks = [SetSchedule(schedule)] if schedule else []
    if save_every := options.pop("save_every", None):
        callbacks.append(ModelCheckpoint(folder, "{step}", every_n_train_steps=save_every, save_top_k=-1, monitor=None))
    return lightning.Trainer(
        default_root_dir=folder,
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=bool(save_every),
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def fit(data: TokenDataModule, run: lightning.Trainer, ckpt_path: str | Path | None = None, **options) -> Recorder:
    torch.manual_seed(0)
    module = Recorder(**options)
    run.fit(module, data, ckpt_path=ckpt_path)
    return module
