"""Lightning's AsyncCheckpointIO under StepCheckpoint: files of the step they are named after, whole or not at all."""

import os
import signal
import threading
import time

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from runs import tiny_data, tiny_module, tiny_trainer

from callbacks import BranchPoints, StepCheckpoint, SuperpositionCallback
from callbacks.stop_signals import TrainingStopped
from callbacks.whole_files import WholeFiles
from tst_lightning.errors import UserError

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
            time.sleep(0.1)  # until the call that handed it over has returned
            raise OSError("no space left on device")
        super().save_checkpoint(checkpoint, path, storage_options)


class Signalled(L.Callback):
    """SIGTERM in the middle of step 4, the second that is saved."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def fit(prepared_dir, folder, plugins=(), ckpt_path=None, callbacks=(), every_n_steps=2):
    callbacks = [*callbacks, SuperpositionCallback(bag_size=4, recovery_step=3)]
    if every_n_steps:
        callbacks.append(StepCheckpoint(every_n_steps, keep_all=True))
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


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_save_that_fails_ends_the_run_and_leaves_the_one_before(prepared_dir, tmp_path):
    with pytest.raises(UserError, match=r"cannot be written .*no space left on device"):
        fit(prepared_dir, tmp_path / "run", [AsyncCheckpointIO(FullDisk())])
    assert names(tmp_path / "run") == ["step=2.ckpt"]
    fit(prepared_dir, tmp_path / "plain")
    assert_same(tmp_path / "run", tmp_path / "plain", ["step=2.ckpt"])


@pytest.mark.parametrize("every_n_steps", [4, 100])
def test_a_stopped_run_says_that_it_is_saved_when_it_is(prepared_dir, tmp_path, monkeypatch, capfd, every_n_steps):
    writer = Slow()
    said, end = [], StepCheckpoint._stop
    monkeypatch.setattr(StepCheckpoint, "_stop", lambda *args: (said.append(len(writer.saved)), end(*args)))
    with pytest.raises(TrainingStopped):
        fit(prepared_dir, tmp_path, [AsyncCheckpointIO(writer)], None, [Signalled()], every_n_steps)
    assert said == [2 if every_n_steps == 4 else 1]
    assert "stopped by SIGTERM after optimizer step 4, saved in" in capfd.readouterr().err
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


@pytest.mark.parametrize("every_n_steps", [2, 100])
def test_a_stopped_run_that_cannot_be_saved_does_not_say_so(prepared_dir, tmp_path, capfd, every_n_steps):
    disk = FullDisk()
    disk.saved = ["full from the beginning"]
    with pytest.raises(UserError, match="there is no checkpoint before it"):
        fit(prepared_dir, tmp_path, [AsyncCheckpointIO(disk)], None, [Signalled()], every_n_steps)
    assert "saved in" not in capfd.readouterr().err


def test_the_end_of_training_has_to_be_written(prepared_dir, tmp_path):
    disk = FullDisk()
    disk.saved = ["full from the beginning"]
    with pytest.raises(UserError, match="no space left on device"):
        fit(prepared_dir, tmp_path, [AsyncCheckpointIO(disk)], every_n_steps=100)


def test_lightnings_writer_writes_whole_files_too(prepared_dir, tmp_path):
    plugin = AsyncCheckpointIO()
    fit(prepared_dir, tmp_path, [plugin])
    assert type(plugin.checkpoint_io) is WholeFiles
    assert names(tmp_path) == ["last.ckpt", "step=2.ckpt", "step=4.ckpt", "step=6.ckpt"]
    own = WholeFiles()
    plugin = AsyncCheckpointIO(own)  # as in a config
    fit(prepared_dir, tmp_path / "given", [plugin])
    assert plugin.checkpoint_io is own
    assert_same(tmp_path / "given", tmp_path, names(tmp_path)[:1])


def test_branch_points_are_written_in_the_thread(prepared_dir, tmp_path):
    fit(prepared_dir, tmp_path / "plain", every_n_steps=4)
    fit(prepared_dir, tmp_path / "run", [AsyncCheckpointIO(Slow())], None, [BranchPoints([2, 4])], every_n_steps=None)
    assert names(tmp_path / "run") == ["step=2.ckpt", "step=4.ckpt"]
    weights, expected = (
        torch.load(tmp_path / name / "checkpoints" / "step=4.ckpt", weights_only=True)["state_dict"]
        for name in ("run", "plain")
    )
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


@pytest.mark.parametrize("every_n_steps", [None, 4])
def test_a_branch_point_that_is_not_written_ends_the_run(prepared_dir, tmp_path, every_n_steps):
    disk = FullDisk()
    disk.saved = ["full from the beginning"]
    with pytest.raises(UserError, match="no space left on device"):
        fit(prepared_dir, tmp_path, [AsyncCheckpointIO(disk)], None, [BranchPoints([3])], every_n_steps)


@pytest.mark.parametrize("callback", [
    StepCheckpoint(on_save_error="continue"), BranchPoints([1], on_save_error="continue"),
])  # fmt: skip
def test_to_go_on_without_a_checkpoint_is_refused(prepared_dir, tmp_path, callback):
    with pytest.raises(UserError, match=r"on_save_error is 'continue', and AsyncCheckpointIO.*set on_save_error"):
        fit(prepared_dir, tmp_path, [AsyncCheckpointIO()], None, [callback], every_n_steps=None)
