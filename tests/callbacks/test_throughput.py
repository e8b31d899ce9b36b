"""Throughput: what it measures, against a clock that the test moves."""

import json
import time

import pytest
from lightning.pytorch.callbacks import Callback
from runs import ROWS, SEQUENCE_LENGTH, tiny_data, tiny_module, tiny_trainer

from callbacks import StepCheckpoint, SuperpositionCallback, Throughput


class Clock:
    """A clock for ``time.monotonic`` that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Passing(Callback):
    """Lets time pass: 2 s a training batch, 30 s a validation."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_start(self, *arguments) -> None:
        self.clock.now += 2

    def on_validation_epoch_start(self, *arguments) -> None:
        self.clock.now += 30


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    # Lightning's own timers read the same clock; they do not mind.
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def fit(prepared_dir, folder, clock, max_steps, ckpt_path=None):
    throughput = Throughput(every_n_seconds=4)
    callbacks = [Passing(clock), throughput, SuperpositionCallback(bag_size=4, recovery_step=3)]
    trainer = tiny_trainer(folder, max_steps, [*callbacks, StepCheckpoint(2, keep_all=True)], val_check_interval=2,
                           enable_checkpointing=True)  # fmt: skip
    trainer.fit(tiny_module(), datamodule=tiny_data(prepared_dir), ckpt_path=ckpt_path)
    return throughput, json.loads((folder / "progress.json").read_text())


def test_training_time_leaves_validation_out(prepared_dir, tmp_path, clock):
    throughput, progress = fit(prepared_dir, tmp_path, clock, max_steps=6)
    assert throughput.train_seconds == progress["train_seconds"] == 12
    assert progress["positions_per_second"] == pytest.approx(ROWS * SEQUENCE_LENGTH * 6 / 12)


def test_the_rate_is_of_the_steps_since_the_last_writing(prepared_dir, tmp_path, clock):
    """Of two steps of 2 s each: before the switch with a quarter of the rows, across it, and after it."""
    rates = {}

    class Reader(Callback):
        def on_train_batch_end(self, trainer, *arguments):
            rates[trainer.global_step] = json.loads((tmp_path / "progress.json").read_text())["positions_per_second"]

    patches = SuperpositionCallback(bag_size=4, recovery_step=3, tokens_per_step="constant")
    trainer = tiny_trainer(tmp_path, 6, [Passing(clock), patches, Throughput(every_n_seconds=4), Reader()])
    trainer.fit(tiny_module(), datamodule=tiny_data(prepared_dir))
    row = SEQUENCE_LENGTH
    assert [rates[step] for step in (2, 4, 6)] == [2 * row / 4, (1 + ROWS) * row / 4, 2 * ROWS * row / 4]


def test_progress_holds_exact_counts(prepared_dir, tmp_path, clock):
    _, progress = fit(prepared_dir, tmp_path, clock, max_steps=6)
    assert progress["step"] == progress["max_steps"] == 6
    assert progress["recovery_step"] == 3
    assert progress["positions"] == ROWS * SEQUENCE_LENGTH * 6
    assert progress["data_tokens"] == ROWS * SEQUENCE_LENGTH * (3 * 4 + 3)
    assert progress["done"] is True
    assert progress["phase"] == "next-token"


def test_training_time_adds_up_over_a_resume(prepared_dir, tmp_path, clock):
    fit(prepared_dir, tmp_path / "first", clock, max_steps=6)
    clock.now += 1000  # the machine was off
    checkpoint = tmp_path / "first" / "checkpoints" / "step=4.ckpt"
    throughput, _ = fit(prepared_dir, tmp_path / "second", clock, max_steps=6, ckpt_path=checkpoint)
    assert throughput.train_seconds == 12


def test_other_work_is_not_training_time(clock):
    throughput = Throughput()
    with throughput.paused():
        clock.now += 5
    assert throughput.train_seconds == 0
    throughput._resume_clock()
    clock.now += 3
    with throughput.paused():
        clock.now += 50
    clock.now += 1
    assert throughput.train_seconds == 4


def test_the_file_is_never_half_written(prepared_dir, tmp_path, clock):
    fit(prepared_dir, tmp_path, clock, max_steps=4)
    assert [path.name for path in tmp_path.glob("*progress*")] == ["progress.json"]
