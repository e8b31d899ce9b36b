"""Sharded checkpoints for Lightning's strategies that only know files, such as that of one device."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy

from tst_lightning.errors import UserError
from tst_lightning.modeling.sharded_checkpoint import is_sharded_checkpoint, read_run, read_weights


class ShardedReading(TorchCheckpointIO):
    """Lightning's way of files, which reads sharded folders too: the whole weights, without the optimizer's state."""

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        if not is_sharded_checkpoint(path):
            return super().load_checkpoint(path, *args, **options)
        return read_run(path) | {"state_dict": read_weights(path, "")}


def let_read(trainer: Trainer, ckpt_path: str | None, command: str) -> None:
    """Let ``trainer`` read ``ckpt_path`` if it is sharded, whatever its strategy.

    Raises:
        UserError: a strategy that needs a file is to train on from it: the optimizer's state is sharded too.
    """
    if ckpt_path is None or not is_sharded_checkpoint(ckpt_path) or isinstance(trainer.strategy, ModelParallelStrategy):
        return
    if command == "fit":
        raise UserError(
            f"'{ckpt_path}' is a sharded checkpoint, which {type(trainer.strategy).__name__} does not resume from: use "
            "trainer.strategy ModelParallelStrategy, with any number of processes (one too); or export its weights, "
            "and start a new run from them with model.pretrained"
        )
    trainer.strategy.checkpoint_io = ShardedReading()
