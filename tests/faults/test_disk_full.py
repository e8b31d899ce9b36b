"""A checkpoint that cannot be written: the one before it stays, and the run stops or goes on as asked."""

import contextlib

import lightning as L
import pytest
import torch
from full_disk import largest_file
from runs import tiny_data, tiny_module, tiny_trainer

from callbacks import BranchPoints, StepCheckpoint
from callbacks.whole_files import write_whole
from tst_lightning.errors import UserError


class FullDisk(L.Callback):
    """The disk is full while the optimizer steps ``steps`` end."""

    def __init__(self, steps, size_bytes=20_000):
        self.steps, self.size_bytes = steps, size_bytes
        self.limit = contextlib.ExitStack()

    def on_train_batch_end(self, trainer, *_):
        self.limit.close()
        if trainer.global_step in self.steps:
            self.limit.enter_context(largest_file(self.size_bytes))

    def on_exception(self, *_):
        self.limit.close()

    on_fit_end = on_exception


def fit(prepared_dir, folder, full_at=(), max_steps=6, ckpt_path=None, size_bytes=20_000, **options):
    callbacks = [FullDisk(full_at, size_bytes), StepCheckpoint(every_n_steps=2, **options)]
    trainer = tiny_trainer(folder, max_steps, callbacks, enable_checkpointing=True)
    trainer.fit(tiny_module(), datamodule=tiny_data(prepared_dir), ckpt_path=ckpt_path)
    return trainer


def last(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("size_bytes", [100, 20_000])
def test_the_run_stops_with_the_checkpoint_before_intact(prepared_dir, tmp_path, size_bytes):
    with pytest.raises(UserError, match=r"step 4 cannot be written.*last\.ckpt.*too large.*intact.*--ckpt_path last"):
        fit(prepared_dir, tmp_path / "run", full_at=[4], size_bytes=size_bytes)
    assert last(tmp_path / "run")["global_step"] == 2
    assert names(tmp_path / "run") == ["last.ckpt"]
    fit(prepared_dir, tmp_path / "run", ckpt_path=tmp_path / "run" / "checkpoints" / "last.ckpt")
    fit(prepared_dir, tmp_path / "whole")
    weights = last(tmp_path / "run")["state_dict"]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in last(tmp_path / "whole")["state_dict"].items())


def test_without_a_checkpoint_before_it_says_so(prepared_dir, tmp_path):
    with pytest.raises(UserError, match=r"step 2 cannot be written.*there is no checkpoint before it.*start again"):
        fit(prepared_dir, tmp_path, full_at=[2])
    assert names(tmp_path) == []


def test_the_run_goes_on_if_asked_to_and_tries_again(prepared_dir, tmp_path):
    with pytest.warns(UserWarning, match=r"step 4 cannot be written.*intact.*tries again in 2 steps"):
        trainer = fit(prepared_dir, tmp_path, full_at=[4], max_steps=7, on_save_error="continue", keep_all=True)
    assert trainer.global_step == last(tmp_path)["global_step"] == 7
    assert names(tmp_path) == ["last.ckpt", "step=2.ckpt", "step=6.ckpt"]


def test_the_end_of_training_has_to_be_saved(prepared_dir, tmp_path):
    with pytest.raises(UserError, match="step 5 cannot be written"):
        fit(prepared_dir, tmp_path, full_at=[5], max_steps=5, on_save_error="continue")
    assert last(tmp_path)["global_step"] == 4


@pytest.mark.parametrize("order", [1, -1])
def test_a_branch_point_that_cannot_be_written_ends_the_run_or_is_left_out(prepared_dir, tmp_path, order):
    def branched(folder, ckpt_path=None, full_at=(3,), **options):
        callbacks = [StepCheckpoint(every_n_steps=2), BranchPoints([3], **options)][::order]
        trainer = tiny_trainer(folder, 5, [FullDisk(full_at), *callbacks], enable_checkpointing=True)
        trainer.fit(tiny_module(), datamodule=tiny_data(prepared_dir), ckpt_path=ckpt_path)

    with pytest.raises(UserError, match=r"step=3\.ckpt' cannot be written at step 3 .*too large.*--ckpt_path last"):
        branched(tmp_path)
    assert names(tmp_path) == ["last.ckpt"]
    with pytest.warns(UserWarning, match=r"step=3\.ckpt' cannot be written at step 3 .*goes on without it"):
        branched(tmp_path / "on", on_save_error="continue")
    assert (names(tmp_path / "on"), last(tmp_path / "on")["global_step"]) == (["last.ckpt"], 5)
    branched(tmp_path, tmp_path / "checkpoints" / "last.ckpt", full_at=())
    assert names(tmp_path) == ["last.ckpt", "step=3.ckpt"]


def test_what_a_killed_run_left_unfinished_goes_away(tmp_path):
    names = (".last.ckpt.part", ".step=3.ckpt.part", "..last.ckpt.unfinished.part", ".progress.json.7.part")
    left = [tmp_path / name for name in names]
    for path in left:
        path.write_bytes(b"half")
    write_whole({"a": torch.ones(3)}, tmp_path / "last.ckpt")
    # Another file, which somebody may be writing, stays.
    assert sorted(path.name for path in tmp_path.iterdir()) == [".progress.json.7.part", "last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["a"].tolist() == [1, 1, 1]


def test_a_wrong_choice_is_refused():
    with pytest.raises(UserError, match="on_save_error is 'ignore', and must be 'stop' or 'continue'"):
        StepCheckpoint(on_save_error="ignore")
