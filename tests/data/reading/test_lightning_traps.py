"""What Lightning does that could make a run read other text than planned: every case is exact, or refused.

Exact means: the batches, and the weights at the end, of an uninterrupted run with nothing else going on. Each
test names the trap that it guards against. `overfit_batches` is in test_datamodule.py, a checkpoint that a
module itself saves in mid-step in test_resume.py.
"""

import json
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from recording import Recorder, fit, trainer
from torch.utils.data import DataLoader

from callbacks import StepCheckpoint
from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule

STEPS, SWITCH, ACCUMULATE = 12, 5, 2
MICROS = STEPS * ACCUMULATE
SCHEDULE = Schedule.superposition(4, SWITCH)


def make_data(folder: Path, **options) -> TokenDataModule:
    return TokenDataModule(str(folder), 16, **{"batch_size": 4, "num_workers": 0, "validation_windows": 8, **options})


def make_trainer(folder: Path, callbacks=(), steps: int = STEPS, schedule=SCHEDULE, **options) -> lightning.Trainer:
    """By default without validation, and one epoch as long as the run."""
    quiet = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": None, "val_check_interval": 1000}
    run = trainer(folder, steps, schedule, **{"accumulate_grad_batches": ACCUMULATE, **quiet, **options})
    run.callbacks.extend(callbacks)
    return run


@pytest.fixture(scope="module")
def whole(prepared_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """The run that the others are compared with. ``record_dir`` holds its checkpoints, one for each step."""
    folder = tmp_path_factory.mktemp("whole")
    run = make_trainer(folder, [StepCheckpoint(1, keep_all=True, dirpath=str(folder))])
    return fit(make_data(prepared_source), run, record_dir=folder)


def assert_continues(module: Recorder, whole: Recorder, first_micro: int) -> None:
    assert module.order == list(range(first_micro, MICROS))
    assert module.rows == {micro: whole.rows[micro] for micro in module.order}
    assert torch.equal(module.weights.weight, whole.weights.weight)


def micros_done(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=True)["global_step"] * ACCUMULATE


def assert_resumes(checkpoint: Path, whole: Recorder, data: TokenDataModule, run: lightning.Trainer, **options) -> None:
    assert_continues(fit(data, run, ckpt_path=checkpoint, **options), whole, micros_done(checkpoint))


# Checkpoints ------------------------------------------------------------------------------------------------


def test_every_checkpoint_of_a_resumed_run_is_a_good_one(prepared_source, tmp_path, whole) -> None:
    """Trap: a resumed ModelCheckpoint saves its first step again in the middle of the next one."""
    run = make_trainer(tmp_path, [StepCheckpoint(2, keep_all=True)])
    fit(make_data(prepared_source), run, ckpt_path=whole.record_dir / "step=4.ckpt")
    written = sorted((tmp_path / "checkpoints").glob("*.ckpt"))
    assert [path.stem for path in written] == ["last", "step=10", "step=12", "step=6", "step=8"]
    for checkpoint in written:
        assert_resumes(checkpoint, whole, make_data(prepared_source), make_trainer(tmp_path))


def test_what_lightnings_own_checkpoint_saves_in_mid_step_is_refused(prepared_source, tmp_path, whole) -> None:
    """The same trap without StepCheckpoint: the guard names both micro-batches."""
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    fit(make_data(prepared_source), make_trainer(tmp_path, [saving]), ckpt_path=whole.record_dir / "step=4.ckpt")
    with pytest.raises(UserError, match="training is at micro-batch 9, but got the data of micro-batch 8"):
        fit(make_data(prepared_source), make_trainer(tmp_path), ckpt_path=tmp_path / "step=4.ckpt")


@pytest.mark.parametrize("stopped_after_micro", [8, 9], ids=["mid-step", "step-end"])
def test_a_run_that_is_stopped_early_goes_on_from_its_last_checkpoint(
    prepared_source, tmp_path, whole, stopped_after_micro: int
) -> None:
    """Trap: max_time and early stopping may end a fit, which is then saved, in the middle of a step."""

    class Stop(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch: dict, batch_idx: int) -> None:
            trainer.should_stop = batch["micro"] == stopped_after_micro

    fit(make_data(prepared_source), make_trainer(tmp_path, [Stop(), StepCheckpoint(3)]))
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert_resumes(last, whole, make_data(prepared_source), make_trainer(tmp_path))


@pytest.mark.parametrize("interval", [1, 3, 5])
def test_validation_in_mid_step_with_checkpoints_on_it(prepared_source, tmp_path, whole, interval: int) -> None:
    """Trap: a checkpoint saved on validation, which need not fall on the end of a step.

    Ours are all good; of Lightning's own, those of whole steps are, the others are refused.
    """

    class Validated(Recorder):
        def validation_step(self, batch: dict, batch_idx: int) -> None:
            self.log("step_number", float(self.trainer.global_step))

    on_validation = ModelCheckpoint(tmp_path, "{step}", monitor="step_number", save_top_k=-1)
    ours = StepCheckpoint(1, keep_all=True, dirpath=str(tmp_path / "ours"))
    torch.manual_seed(0)
    module = Validated()
    make_trainer(tmp_path, [on_validation, ours], val_check_interval=interval).fit(module, make_data(prepared_source))
    assert_continues(module, whole, 0)
    for checkpoint in sorted(tmp_path.rglob("step=*.ckpt")):
        run = make_trainer(tmp_path, val_check_interval=interval)
        progress = torch.load(checkpoint, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        if progress["current"]["ready"] == micros_done(checkpoint):
            assert_resumes(checkpoint, whole, make_data(prepared_source), run)
        else:
            assert checkpoint.parent == tmp_path, "StepCheckpoint saved in mid-step"
            with pytest.raises(UserError, match="training is at micro-batch"):
                fit(make_data(prepared_source), run, ckpt_path=checkpoint)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("step", [3, SWITCH, 8])
def test_a_loader_built_before_the_restore(prepared_source, tmp_path, whole, step: int, num_workers: int) -> None:
    """Trap: `trainer.estimated_stepping_batches` in configure_optimizers builds the loader, and its iterator, before
    the step is restored. Only with a finite max_epochs: without, it does not look at the loader.
    """
    data, run = make_data(prepared_source, num_workers=num_workers), make_trainer(tmp_path, max_epochs=1)
    assert_resumes(whole.record_dir / f"step={step}.ckpt", whole, data, run, build_loader_early=True)


# Epochs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_epochs", [-1, 3])
@pytest.mark.parametrize("limit_train_batches", [7, 8, 0.5])
def test_epochs_that_end_early_are_refused(
    prepared_source, tmp_path, limit_train_batches: float, max_epochs: int
) -> None:
    """Trap: an epoch-end checkpoint. Lightning takes up the finished epoch, trains one micro-batch more as a step of
    its own, or stops at max_epochs too soon without a word.
    """
    run = make_trainer(tmp_path, limit_train_batches=limit_train_batches, max_epochs=max_epochs)
    module = Recorder()
    with pytest.raises(UserError, match=r"limit_train_batches=.* is not supported"):
        run.fit(module, make_data(prepared_source))
    assert module.order == []


def test_a_run_of_epochs_only_is_refused(prepared_source, tmp_path) -> None:
    """Trap: resumed after an epoch that max_epochs alone ended, Lightning replays that epoch's order."""
    module = Recorder()
    with pytest.raises(UserError, match=r"set trainer\.max_steps"):
        make_trainer(tmp_path, steps=-1, max_epochs=2).fit(module, make_data(prepared_source))
    assert module.order == []


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("skipped_micro", [6, 7])
def test_a_skipped_batch_is_refused(prepared_source, tmp_path, skipped_micro: int, accumulate: int) -> None:
    """Trap: -1 from on_train_batch_start ends the epoch, with a batch that was read and not trained on."""

    class Skip(Recorder):
        skipped = False

        def on_train_batch_start(self, batch: dict, batch_idx: int) -> int | None:
            if batch["micro"] != skipped_micro or self.skipped:
                return None
            self.skipped = True
            return -1

    message = f"training is at micro-batch {skipped_micro + 1}, but got the data of micro-batch [67]"
    with pytest.raises(UserError, match=message):
        make_trainer(tmp_path, accumulate_grad_batches=accumulate).fit(Skip(), make_data(prepared_source))


# Loaders ----------------------------------------------------------------------------------------------------


def test_a_stale_loader_is_refused(prepared_source, tmp_path, whole) -> None:
    """Trap: a loader that was filled before the step was restored starts the text again."""

    data, run = make_data(prepared_source), make_trainer(tmp_path, max_epochs=1)
    planned = data.train_dataloader
    data.train_dataloader = lambda: DataLoader(list(planned()), batch_size=None)
    with pytest.raises(UserError, match="training is at micro-batch 8, but got the data of micro-batch 0"):
        fit(data, run, ckpt_path=whole.record_dir / "step=4.ckpt", build_loader_early=True)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_ahead_of_the_switch(prepared_source, tmp_path, whole, num_workers: int) -> None:
    """Trap: persistent workers read ahead, past the switch, while training is still before it."""
    module = fit(make_data(prepared_source, num_workers=num_workers), make_trainer(tmp_path))
    assert_continues(module, whole, 0)
    assert [module.shapes[micro] for micro in module.order] == [(4, 17, 4)] * 10 + [(4, 17, 1)] * 14


@pytest.mark.parametrize(("before", "after"), [(2, 0), (2, 1), (0, 3)])
def test_resuming_with_another_number_of_workers(prepared_source, tmp_path, whole, before: int, after: int) -> None:
    """Trap: a loader's own state would count what workers had read ahead when the checkpoint was saved."""
    run = make_trainer(tmp_path, [StepCheckpoint(4, keep_all=True)])
    fit(make_data(prepared_source, num_workers=before), run)
    for step in (4, 8):
        checkpoint = tmp_path / "checkpoints" / f"step={step}.ckpt"
        assert_resumes(checkpoint, whole, make_data(prepared_source, num_workers=after), make_trainer(tmp_path))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"num_sanity_val_steps": 2},
        {"num_sanity_val_steps": -1, "val_check_interval": 3},
        {"val_check_interval": 1},
        {"limit_val_batches": 1, "val_check_interval": 3},
        {"limit_val_batches": 0.5, "val_check_interval": 3},
        {"limit_val_batches": 0},
        {"check_val_every_n_epoch": 1, "val_check_interval": 5},
        {"check_val_every_n_epoch": 1, "val_check_interval": 0.3},
        {"check_val_every_n_epoch": 2, "val_check_interval": 1.0},
        {"reload_dataloaders_every_n_epochs": 1, "val_check_interval": 3},
    ],
    ids=str,
)
def test_validation_leaves_training_alone(prepared_source, tmp_path, whole, options: dict, num_workers: int) -> None:
    """Trap: validation, before training or in the middle of a step, and what reloads loaders, in a whole and in a
    resumed run.
    """
    data = make_data(prepared_source, num_workers=num_workers)
    assert_continues(fit(data, make_trainer(tmp_path, **options)), whole, 0)
    data = make_data(prepared_source, num_workers=num_workers)
    assert_resumes(whole.record_dir / "step=3.ckpt", whole, data, make_trainer(tmp_path, **options))


# Several processes, several fits ----------------------------------------------------------------------------


class RankRecorder(Recorder):
    """Also writes down the validation windows."""

    def on_train_end(self) -> None:
        windows = [row.flatten().tolist() for batch in self.validation for row in batch]
        record = {"rows": self.rows, "order": self.order, "validation": windows}
        (self.record_dir / f"rank{self.global_rank}.json").write_text(json.dumps(record))


def test_two_processes_share_out_every_batch_once(prepared_source, tmp_path, whole) -> None:
    """Trap: Lightning gives each rank every second number of a plain sampler, which is planned for ranks already."""
    run = make_trainer(tmp_path, strategy="ddp_spawn", devices=2, val_check_interval=23)
    run.fit(RankRecorder(tmp_path), make_data(prepared_source, batch_size=2, num_workers=1))
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["order"] == second["order"] == list(range(MICROS))
    for micro in range(MICROS):
        rows = first["rows"][str(micro)], second["rows"][str(micro)]
        assert not set(rows[0]) & set(rows[1])
        assert rows[0] + rows[1] == whole.rows[micro]
    alone = fit(make_data(prepared_source), make_trainer(tmp_path, val_check_interval=23))
    windows = [row.flatten().tolist() for batch in alone.validation for row in batch]
    assert sorted(first["validation"] + second["validation"]) == sorted(windows)


def test_a_second_fit_of_the_same_objects(prepared_source, tmp_path, whole) -> None:
    """Trap: the second fit meets the first one's loader. It has nothing to do, and goes on if it is given steps."""
    data, run = make_data(prepared_source, num_workers=1), make_trainer(tmp_path, steps=SWITCH)
    module = fit(data, run)
    run.fit(module, data)
    assert module.order == list(range(SWITCH * ACCUMULATE))
    run.fit_loop.epoch_loop.max_steps = STEPS
    run.fit(module, data)
    assert module.order == list(range(MICROS))
    assert module.rows == whole.rows


def test_a_data_module_serves_one_run_after_another(prepared_source, tmp_path, whole) -> None:
    """Trap: what a data module keeps of a resumed TST run must not reach the next, fresh run: another TST run, or a
    baseline without the callback, or one of other options.
    """
    data = make_data(prepared_source)
    assert_resumes(whole.record_dir / "step=8.ckpt", whole, data, make_trainer(tmp_path))
    assert_continues(fit(data, make_trainer(tmp_path)), whole, 0)
    for options in ({}, {"accumulate_grad_batches": 1}):
        baseline = fit(data, make_trainer(tmp_path, schedule=None, **options))
        expected = fit(make_data(prepared_source), make_trainer(tmp_path, schedule=None, **options))
        assert baseline.rows == expected.rows
        assert {shape[2] for shape in baseline.shapes.values()} == {1}
