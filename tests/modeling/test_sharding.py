"""What sharded weights do not go with. What they train: ``tests/parallel``."""

from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from runs import tiny_data, tiny_module, tiny_trainer

from callbacks import DownstreamEvaluation
from tst_lightning.errors import UserError


def test_fsdp_1_is_refused(prepared_dir, tmp_path):
    """Asked of the module itself, because Lightning has no such strategy without a GPU."""
    module = tiny_module()
    trainer = tiny_trainer(tmp_path, 6)
    trainer.datamodule = tiny_data(prepared_dir)
    trainer.strategy._lightning_module = module
    module.trainer = trainer
    trainer._accelerator_connector.strategy = FSDPStrategy()
    with pytest.raises(UserError, match=r"FSDPStrategy is not supported.*fsdp2\.yaml"):
        module.setup("fit")


def test_downstream_tasks_on_sharded_weights_are_refused():
    """Its forward passes go past the module's, which is what gathers the weights."""
    trainer = SimpleNamespace(strategy=ModelParallelStrategy())
    with pytest.raises(UserError, match=r"weights are sharded.*tst-lightning evaluate"):
        DownstreamEvaluation(tasks=["heldout_last_word"]).setup(trainer, tiny_module(), "fit")
