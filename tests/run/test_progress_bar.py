"""tst_lightning.run.progress_bar: what the bar shows, fresh and resumed, under gradient accumulation."""

import io
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from runs import tiny_data, tiny_module, tiny_trainer

from callbacks import SuperpositionCallback
from tst_lightning.run.own_lines import OwnLines
from tst_lightning.run.progress_bar import StepProgressBar, count_steps

STEPS, SWITCH = 6, 3


class Watch(L.Callback):
    """What the bar shows after each micro-batch. Behind the bar among the callbacks."""

    def __init__(self) -> None:
        self.seen = []

    def on_train_start(self, trainer: L.Trainer, *_) -> None:
        self.look(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_) -> None:
        self.look(trainer)

    def look(self, trainer: L.Trainer) -> None:
        shown = trainer.progress_bar_callback.train_progress_bar.format_dict
        self.seen.append(
            (shown["n"], shown["total"], shown["initial"], shown["unit"], shown["prefix"].removesuffix(": "))
        )


def fit(prepared_dir: Path, folder: Path, superposed: bool = True, every: int = 1, ckpt_path: Path | None = None):
    watch = Watch()
    callbacks = [SuperpositionCallback(bag_size=4, recovery_step=SWITCH)] if superposed else []
    options = {"enable_progress_bar": True, "accumulate_grad_batches": 2, "save_every": 2}
    trainer = tiny_trainer(folder, STEPS, [*callbacks, TQDMProgressBar(refresh_rate=every)], **options)
    count_steps(trainer)
    trainer.callbacks.append(watch)
    trainer.fit(tiny_module(), tiny_data(prepared_dir), ckpt_path=ckpt_path)
    return watch.seen


def test_steps_of_max_steps_with_the_phase(prepared_source: Path, tmp_path: Path) -> None:
    seen = fit(prepared_source, tmp_path / "fresh")
    phases = ["Superposition"] * (SWITCH + 1) + ["Recovery"] * (STEPS - SWITCH)
    expected = [(step, STEPS, 0, "step", phases[step]) for step in range(STEPS + 1)]
    assert seen == [expected[0]] + [expected[(micro + 1) // 2] for micro in range(2 * STEPS)]

    checkpoint = tmp_path / "fresh" / "checkpoints" / "step=2.ckpt"
    resumed = fit(prepared_source, tmp_path / "resumed", ckpt_path=checkpoint)
    expected = [(step, total, 2, *rest) for step, total, _, *rest in expected]
    assert resumed == [expected[2]] + [expected[(micro + 1) // 2] for micro in range(4, 2 * STEPS)]


def test_without_superposition_and_not_at_every_step(prepared_source: Path, tmp_path: Path) -> None:
    seen = fit(prepared_source, tmp_path, superposed=False, every=4)
    assert {prefix for *_, prefix in seen} == {"Training"}
    assert [n for n, *_ in seen] == [0] * 8 + [4] * 4 + [STEPS]


def test_only_lightnings_own_bar_is_replaced(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, 2, [TQDMProgressBar(7, 1, leave=True)], enable_progress_bar=True)
    count_steps(trainer)
    bar = trainer.progress_bar_callback
    assert (type(bar), bar.refresh_rate, bar.process_position, bar._leave) == (StepProgressBar, 7, 1, True)
    for own in (RichProgressBar(), StepProgressBar()):
        trainer = tiny_trainer(tmp_path, 2, [own], enable_progress_bar=True)
        count_steps(trainer, [{"class_path": f"lightning.pytorch.callbacks.{type(own).__name__}"}])
        assert trainer.progress_bar_callback is own


def test_lightnings_choice_is_replaced(tmp_path: Path) -> None:
    """It takes rich, if that is installed."""
    trainer = tiny_trainer(tmp_path, 2, enable_progress_bar=True)
    count_steps(trainer, [{"class_path": "callbacks.Throughput"}])
    assert type(trainer.progress_bar_callback) is StepProgressBar


class Talk(L.Callback):
    """Says something after each step, as callbacks, libraries and threads do; at the last one it fails, if asked to."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails

    def on_train_batch_end(self, trainer: L.Trainer, *_) -> None:
        print("from a print", file=sys.stderr)
        logging.getLogger("a library").warning("from a logger")
        if self.fails:
            raise RuntimeError("on purpose")


@pytest.mark.parametrize("fails", [False, True])
def test_messages_stand_on_lines_of_their_own(prepared_source: Path, tmp_path: Path, monkeypatch, fails: bool) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = logging.StreamHandler(terminal)  # holds the stream from long before the fit
    monkeypatch.setattr(logging.getLogger("a library"), "handlers", [handler])
    trainer = tiny_trainer(tmp_path, 2, [StepProgressBar(refresh_rate=1), Talk(fails)], enable_progress_bar=True)
    try:
        trainer.fit(tiny_module(), tiny_data(prepared_source))
    except RuntimeError:
        print("error: on purpose", file=sys.stderr)
    lines = [line.rpartition("\r")[2] for line in terminal.getvalue().split("\n")]
    said = ["from a print", "from a logger"]
    assert [line for line in lines if "from a" in line] == said * (1 if fails else 2)
    assert ("error: on purpose" in lines) == fails
    assert any(line.startswith("Training:") and "1/2" in line for line in lines)
    assert (sys.stderr, handler.stream) == (terminal, terminal)


def test_standard_error_is_given_back_unless_another_has_it(monkeypatch) -> None:
    before, ended = io.StringIO(), []
    monkeypatch.setattr(sys, "stderr", before)
    lines = OwnLines(lambda: ended.append(True))
    lines.begin()
    print("one", file=sys.stderr)
    assert (before.getvalue(), ended) == ("one\n", [True])  # not again for the line's end
    monkeypatch.setattr(sys, "stderr", another := io.StringIO())
    lines.end()
    assert sys.stderr is another


@pytest.mark.parametrize("size", [0, -1])
def test_a_terminal_without_width_has_a_bar(monkeypatch, size: int) -> None:
    """A pseudo-terminal whose size nobody has set."""
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda file: (size, size))
    bar = StepProgressBar()
    bar._trainer = SimpleNamespace(max_steps=7, global_step=3, datamodule=None, local_rank=0)
    bar.init_train_tqdm().close()
    assert "Training:  43%|" in terminal.getvalue()
    assert "3/7" in terminal.getvalue()
