"""A training step never makes the host wait for the device."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from runs import tiny_data, tiny_llama, tiny_module, tiny_trainer
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks import SuperpositionCallback
from tst_lightning.module import CausalLMModule
from tst_lightning.step_losses import StepLosses


class NoQuestions(TorchDispatchMode):
    """Refuses what would make the host wait for a device: reading a tensor's value."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise AssertionError(f"{function} within a training step")
        return function(*args, **(kwargs or {}))


@pytest.fixture
def _nothing_is_packed(monkeypatch):
    """Transformers looks for packed rows in each forward pass that is not compiled, and reads one value for it."""
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)


class Watch(Callback):
    """Watches each micro-batch from its start to the optimizer, whose own step counter is on the host."""

    def __init__(self):
        self.watched = 0

    def on_train_batch_start(self, *arguments):
        self.mode = NoQuestions()
        self.mode.__enter__()

    def on_before_optimizer_step(self, *arguments):
        self.mode.__exit__(None, None, None)
        self.watched += 1


@pytest.mark.usefixtures("_nothing_is_packed")
@pytest.mark.parametrize("recomputed", [False, True])
def test_a_training_step_does_not_wait_for_the_device(recomputed, prepared_dir, tmp_path):
    watch = Watch()
    trainer = tiny_trainer(tmp_path, 4, [SuperpositionCallback(bag_size=2, recovery_step=2), watch])
    trainer.fit(tiny_module(activation_checkpointing=recomputed), datamodule=tiny_data(prepared_dir))
    assert watch.watched == 4


def test_the_losses_of_a_step_are_averaged_without_waiting():
    losses = StepLosses()
    with NoQuestions():
        for micro in range(3):
            losses.add({"train/loss": torch.tensor(2.0 + micro), "train/router_loss": torch.tensor(0.5)})
        means = losses.take(1)
    assert means == {"train/loss": 3.0, "train/router_loss": 0.5}
    losses.add({"train/loss": torch.tensor(7.0)})
    assert losses.take(1) == {"train/loss": 7.0}
    assert losses.take(1) == {}


def test_processes_do_not_stop_to_average_their_losses(monkeypatch):
    """A collective is queued for the device; a barrier before it, as of Lightning's reductions, is waited for."""
    monkeypatch.setattr("torch.distributed.barrier", lambda *_, **__: pytest.fail("waits"))
    monkeypatch.setattr("torch.distributed.all_reduce", lambda values: values.add_(5.0 / 2))  # of another process
    losses = StepLosses()
    losses.add({"train/loss": torch.tensor(3.0)})
    with NoQuestions():
        means = losses.take(2)
    assert means == {"train/loss": 4.0}


@pytest.mark.usefixtures("_nothing_is_packed")
@pytest.mark.parametrize("question", [float, lambda loss: loss.item(), lambda loss: bool(loss > 0)])
def test_the_watch_sees_a_step_that_waits(prepared_dir, tmp_path, question):
    class Asking(CausalLMModule):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            question(loss)
            return loss

    watch = Watch()
    with pytest.raises(AssertionError, match="within a training step"):
        tiny_trainer(tmp_path, 1, [watch]).fit(Asking(config=tiny_llama()), datamodule=tiny_data(prepared_dir))
    watch.mode.__exit__(None, None, None)


@pytest.mark.gpu
@pytest.mark.usefixtures("_nothing_is_packed")
def test_a_training_step_does_not_synchronise_a_gpu(prepared_dir, tmp_path):
    class Strict(Callback):
        def on_train_batch_start(self, trainer, *arguments):
            # The first steps compile and allocate.
            torch.cuda.set_sync_debug_mode("error" if trainer.global_step > 1 else "default")

        def on_before_optimizer_step(self, *arguments):
            torch.cuda.set_sync_debug_mode("default")

    trainer = tiny_trainer(tmp_path, 6, [SuperpositionCallback(bag_size=2, recovery_step=3), Strict()],
                           accelerator="gpu", precision="bf16-mixed")  # fmt: skip
    trainer.fit(tiny_module(), datamodule=tiny_data(prepared_dir))
