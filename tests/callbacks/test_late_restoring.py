"""Refused resumes where a strategy restores checkpoints after ``on_fit_start``, as those that shard weights do."""

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from runs import SEQUENCE_LENGTH, tiny_data, tiny_module, tiny_trainer, weights_hash

from callbacks import LengthCurriculum, NgramTargets, SuperpositionCallback
from tst_lightning.data.ngram.command import ngram
from tst_lightning.errors import UserError

STEPS = 4


class Late(SingleDeviceStrategy):
    """One device, with the order of events of ``ModelParallelStrategy``."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True


def fit(prepared_dir, folder, callbacks, module=None, ckpt_path=None, **options):
    module = module or tiny_module()
    trainer = tiny_trainer(folder, STEPS, callbacks, strategy=Late("cpu"), **options)
    trainer.fit(module, tiny_data(prepared_dir), ckpt_path=ckpt_path)
    return module


def superposition(table, changed):
    return SuperpositionCallback(bag_size=2, recovery_step=3, weights="power_law" if changed else "uniform")


def curriculum(table, changed):
    """Rows of one length, so that the data's own check of the schedule finds no difference."""
    return LengthCurriculum(min_length=SEQUENCE_LENGTH, cycles=2 if changed else 1)


def ngram_targets(table, changed):
    return NgramTargets(str(table), alpha=0.4 if changed else 0.6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (superposition, "trained with superposition weights"),
        (curriculum, "trained with a length curriculum of cycles 1, this run has 2"),
        (ngram_targets, "trained with n-gram targets alpha 0.6, this run has 0.4"),
    ],
)
def test_a_checkpoint_of_another_method_is_refused(make, message, prepared_source, tmp_path):
    table = tmp_path / "table"
    ngram(str(prepared_source), str(table), n=2, r=3, workers=1)
    whole = fit(prepared_source, tmp_path / "whole", [make(table, False)], save_every=2)
    middle = tmp_path / "whole" / "checkpoints" / "step=2.ckpt"
    resumed = fit(prepared_source, tmp_path / "resumed", [make(table, False)], ckpt_path=middle)
    assert weights_hash(resumed) == weights_hash(whole)
    with pytest.raises(UserError, match=message):
        fit(prepared_source, tmp_path / "refused", [make(table, True)], ckpt_path=middle)


def test_a_checkpoint_of_another_optimizer_is_refused(prepared_dir, tmp_path):
    fit(prepared_dir, tmp_path, [], save_every=2)
    other = tiny_module(optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1))
    with pytest.raises(UserError, match=r"trained with AdamW .* this run has SGD"):
        fit(prepared_dir, tmp_path / "other", [], other, tmp_path / "checkpoints" / "step=2.ckpt")
