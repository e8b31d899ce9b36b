"""Sharded checkpoints that appear whole or not at all."""

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy

from tst_lightning.modeling.publishing import publish


class PublishedCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` that never leaves half of a sharded checkpoint, nor loses the one before it.

    Checkpoints of other strategies are files, see ``whole_files``.
    """

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if not isinstance(trainer.strategy, ModelParallelStrategy):
            super()._save_checkpoint(trainer, filepath)
            return
        save = super()._save_checkpoint
        publish(filepath, lambda aside: save(trainer, aside), trainer.strategy)
        self._last_checkpoint_saved = filepath
