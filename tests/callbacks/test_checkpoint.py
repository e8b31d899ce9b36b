"""StepCheckpoint: when it saves, and when it must not."""

import pytest
import torch
from runs import tiny_data, tiny_module, tiny_trainer

from callbacks import StepCheckpoint


def fit(prepared_dir, folder, callback, max_steps, ckpt_path=None, **options):
    trainer = tiny_trainer(folder, max_steps, [callback], enable_checkpointing=True, **options)
    trainer.fit(tiny_module(), datamodule=tiny_data(prepared_dir), ckpt_path=ckpt_path)
    return trainer


def steps(folder):
    return {path.name: torch.load(path, weights_only=True)["global_step"] for path in folder.glob("checkpoints/*.ckpt")}


def test_saves_every_n_steps_and_the_end(prepared_dir, tmp_path):
    fit(prepared_dir, tmp_path, StepCheckpoint(every_n_steps=2, keep_all=True), max_steps=5)
    assert steps(tmp_path) == {"step=2.ckpt": 2, "step=4.ckpt": 4, "last.ckpt": 5}


def test_keeps_only_the_last_by_default(prepared_dir, tmp_path):
    fit(prepared_dir, tmp_path, StepCheckpoint(every_n_steps=2), max_steps=5)
    assert steps(tmp_path) == {"last.ckpt": 5}


@pytest.mark.parametrize("val_check_interval", [1000, 3])
def test_a_resumed_run_does_not_save_between_micro_batches(prepared_dir, tmp_path, val_check_interval):
    """Lightning's ModelCheckpoint forgets what it saved last, and saves step 2 again at micro-batch 3 of 4."""
    options = {"accumulate_grad_batches": 2, "val_check_interval": val_check_interval}
    fit(prepared_dir, tmp_path / "a", StepCheckpoint(2, keep_all=True), max_steps=4, **options)

    saved_at = []

    class Recording(StepCheckpoint):
        def _save_checkpoint(self, trainer, filepath):
            progress = trainer.fit_loop.epoch_loop.batch_progress.current
            saved_at.append((trainer.global_step, progress.ready))
            super()._save_checkpoint(trainer, filepath)

        def _save_last_checkpoint(self, trainer, candidates):
            saved_at.append((trainer.global_step, trainer.fit_loop.epoch_loop.batch_progress.current.ready))
            super()._save_last_checkpoint(trainer, candidates)

    checkpoint = tmp_path / "a" / "checkpoints" / "step=2.ckpt"
    fit(prepared_dir, tmp_path / "b", Recording(2, keep_all=True), max_steps=6, ckpt_path=checkpoint, **options)
    assert saved_at
    assert all(ready == 2 * step for step, ready in saved_at)


def test_a_checkpoint_says_how_to_rebuild_the_model(prepared_dir, tmp_path):
    from tst_lightning.modeling.checkpoint import load_model

    trainer = fit(prepared_dir, tmp_path, StepCheckpoint(2), max_steps=3)
    model, step = load_model(str(tmp_path / "checkpoints/last.ckpt"))
    assert step == 3
    for name, tensor in trainer.lightning_module.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    saved = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert saved["data_dir"] == str(prepared_dir)
