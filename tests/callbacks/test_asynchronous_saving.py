"""Lightning's AsyncCheckpointIO under StepCheckpoint: files of the step they are named after, whole or not at all."""

import threading
import time

import pytest
import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from runs import tiny_data, tiny_module, tiny_trainer

from callbacks import StepCheckpoint, SuperpositionCallback

STEPS = 6


class Slow(TorchCheckpointIO):
    """Writes while training goes on: until the second save comes, or for a while."""

    def __init__(self):
        self.saved, self.training_thread = [], threading.get_ident()

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        assert threading.get_ident() != self.training_thread
        time.sleep(0.2)
        super().save_checkpoint(checkpoint, path, storage_options)
        self.saved.append(path)


class FullDisk(Slow):
    def save_checkpoint(self, checkpoint, path, storage_options=None):
        if self.saved:
            raise OSError("no space left on device")
        super().save_checkpoint(checkpoint, path, storage_options)


def fit(prepared_dir, folder, plugins=(), ckpt_path=None):
    callbacks = [StepCheckpoint(every_n_steps=2, keep_all=True), SuperpositionCallback(bag_size=4, recovery_step=3)]
    trainer = tiny_trainer(folder, STEPS, callbacks, enable_checkpointing=True, plugins=list(plugins))
    trainer.fit(tiny_module(), datamodule=tiny_data(prepared_dir), ckpt_path=ckpt_path)


def tensors(path):
    leaves = torch.utils._pytree.tree_leaves(torch.load(path, weights_only=True))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def assert_same(folder, expected, names):
    for name in names:
        values = tensors(folder / "checkpoints" / name)
        others = tensors(expected / "checkpoints" / name)
        assert len(values) == len(others) > 20
        assert all(torch.equal(value, other) for value, other in zip(values, others, strict=True)), name


def test_each_file_holds_its_step_and_a_resumed_run_ends_with_the_same_bits(prepared_dir, tmp_path):
    fit(prepared_dir, tmp_path / "plain")
    writer = Slow()
    fit(prepared_dir, tmp_path / "asynchronous", [AsyncCheckpointIO(writer)])
    every = ("step=2.ckpt", "step=4.ckpt", "step=6.ckpt", "last.ckpt")
    assert len(writer.saved) == 2 * STEPS // 2
    assert_same(tmp_path / "asynchronous", tmp_path / "plain", every)
    start = tmp_path / "asynchronous" / "checkpoints" / "step=2.ckpt"
    fit(prepared_dir, tmp_path / "resumed", [AsyncCheckpointIO(Slow())], start)
    assert_same(tmp_path / "resumed", tmp_path / "plain", every[1:])


def test_a_save_that_fails_ends_the_run_and_leaves_the_one_before(prepared_dir, tmp_path):
    with pytest.raises(OSError, match="no space left"):
        fit(prepared_dir, tmp_path / "run", [AsyncCheckpointIO(FullDisk())])
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step=2.ckpt"]
    fit(prepared_dir, tmp_path / "plain")
    assert_same(tmp_path / "run", tmp_path / "plain", ["step=2.ckpt"])
