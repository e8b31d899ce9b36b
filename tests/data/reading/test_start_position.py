"""Starting a run far into the text costs what starting at its beginning costs: nothing is read to be skipped."""

import sys
from pathlib import Path

import pytest
import torch
from recording import Recorder, fit, trainer

import tst_lightning
from callbacks import StepCheckpoint
from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.schedule import Schedule

SCHEDULE = Schedule.superposition(4, 50)
PACKAGE = str(Path(tst_lightning.__file__).parent)


def make_data(folder: Path) -> TokenDataModule:
    return TokenDataModule(str(folder), 16, batch_size=4, num_workers=0, epochs=1_000, validation_windows=4)


def make_trainer(folder: Path, steps: int, **options):
    run = trainer(folder, steps, SCHEDULE, limit_val_batches=0, **options)
    run.callbacks.append(StepCheckpoint(10, keep_all=True))
    return run


def moved(checkpoint: Path, step: int) -> Path:
    """A copy that says it was saved at ``step``: nobody should have to train that long for a test."""
    values = torch.load(checkpoint, weights_only=True)
    loop = values["loops"]["fit_loop"]
    optimizer = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    moved_by = step - values["global_step"]
    for progress in (loop["epoch_loop.batch_progress"], optimizer):
        for counts in (progress["total"], progress["current"]):
            counts.update({name: count + moved_by for name, count in counts.items()})
    values["global_step"] = step
    path = checkpoint.with_name(f"moved={step}.ckpt")
    torch.save(values, path)
    return path


def first_step_after(checkpoint: Path, step: int, prepared: Path, folder: Path) -> tuple[Recorder, int]:
    """Resume at ``step`` and train one step; also how many calls of our own functions that took."""
    calls = 0

    def count(frame, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    data, run = make_data(prepared), make_trainer(folder, step + 1)
    sys.setprofile(count)
    try:
        module = fit(data, run, ckpt_path=moved(checkpoint, step))
    finally:
        sys.setprofile(None)
    return module, calls


@pytest.fixture(scope="module")
def checkpoint(prepared_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    fit(make_data(prepared_source), make_trainer(folder, 10))
    return folder / "checkpoints" / "step=10.ckpt"


def test_the_work_before_the_first_batch_does_not_grow(prepared_source, tmp_path, checkpoint) -> None:
    """In calls, not in seconds: reading, or only planning, what comes before would be at least one call a batch."""
    _, near = first_step_after(checkpoint, 60, prepared_source, tmp_path)
    module, far = first_step_after(checkpoint, 100_000, prepared_source, tmp_path)
    assert module.order == [100_000]
    assert 0 < far < near + 100


def test_the_first_batch_is_the_one_of_that_step(prepared_source, tmp_path, checkpoint) -> None:
    """Also in a later pass over the text: 1,500 steps read it more than once."""
    whole = fit(make_data(prepared_source), make_trainer(tmp_path, 1_501))
    for step in (20, 60, 1_500):
        module, _ = first_step_after(checkpoint, step, prepared_source, tmp_path)
        assert module.rows == {step: whole.rows[step]}
