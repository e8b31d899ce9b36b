"""tst_lightning.progress_bar: what the bar shows, fresh and resumed, under gradient accumulation."""

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from runs import tiny_data, tiny_module, tiny_trainer

from callbacks import SuperpositionCallback
from tst_lightning.progress_bar import StepProgressBar, count_steps

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
