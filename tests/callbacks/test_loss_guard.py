"""LossGuard: losses that are no numbers end a run in time, spikes are told of, expected jumps are not."""

import json
import math
import warnings
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from runs import tiny_data, tiny_module, tiny_trainer

from callbacks import LengthCurriculum, LossGuard, SuperpositionCallback
from callbacks.loss_spikes import LEAST_STEPS, SpikeDetector
from tst_lightning.data.reading.spans import text_of_batch
from tst_lightning.errors import UserError


class Scripted(L.LightningModule):
    """Its loss of micro-batch ``i`` is ``losses(i, bag size)``; its gradient ``gradient(i)``, and 1e-3 usually."""

    def __init__(self, losses=lambda micro, bag_size: 3.0, gradient=lambda micro: 1e-3) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(257, 4)
        self.losses, self.gradient = losses, gradient
        self.loss = lambda *inputs: None  # SuperpositionCallback wants one

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embedding

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        micro, bag_size = batch["micro"], batch["tokens"].shape[-1]
        zero = (self.embedding.weight - self.embedding.weight.detach()).sum()
        scale = self.gradient(micro)  # a hook that holds the module keeps it alive with the graph of its last loss
        zero.register_hook(lambda gradient: gradient * scale)
        return zero + self.losses(micro, bag_size)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.25)


def noise(micro: int) -> float:
    """What a training loss varies by: normally distributed, a function of the micro-batch."""
    return float(np.random.default_rng(micro).normal(0, 0.05))


def fit(folder: Path, corpus: Path, module: Scripted, steps: int, guard: LossGuard | None = None, **options):
    """The data module, and the spikes that were warned of by their step."""
    callbacks, ckpt_path = options.pop("callbacks", []), options.pop("ckpt_path", None)
    data = tiny_data(corpus, sequence_length=4, batch_size=2)
    run = tiny_trainer(folder, steps, [guard or LossGuard(), *callbacks], gradient_clip_val=None, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(module, data, ckpt_path=ckpt_path)
    texts = [str(warning.message) for warning in caught]
    return data, [text for text in texts if "training loss jumps" in text]


def spikes_of(folder: Path) -> list[int]:
    path = folder / "loss_guard.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("check", ["auto", "before_step", "one_step_later"])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_ends_the_run_in_time(
    prepared_dir: Path, tmp_path: Path, value: float, accumulate: int, check: str
) -> None:
    """At step 7, which saves a checkpoint when it is done: that one must not appear."""
    micro = 7 * accumulate + accumulate // 2
    module = Scripted(
        lambda number, _: value if number == micro else 3.0, lambda number: value if number == micro else 1
    )
    with pytest.raises(UserError) as refused:
        fit(tmp_path, prepared_dir, module, 20, LossGuard(check), accumulate_grad_batches=accumulate, save_every=1)
    message = str(refused.value)
    assert (
        f"the training loss is {value} at step 7, in micro-batch {micro} of the run; the learning rate is 0.25"
        in message
    )
    checkpoints = tmp_path / "checkpoints"
    assert f"The last good checkpoint is '{checkpoints / 'last.ckpt'}'" in message
    assert ("the optimizer has not used it" in message) == (check != "one_step_later")
    assert bool(module.embedding.weight.isfinite().all()) == (check != "one_step_later")
    # The text, by the plan of a run that nothing is wrong with.
    data, _ = fit(tmp_path / "same", prepared_dir, Scripted(), 20, accumulate_grad_batches=accumulate)
    rows = text_of_batch(data, micro, 0)
    (line,) = (tmp_path / "loss_guard.jsonl").read_text().splitlines()
    assert json.loads(line)["rows"] == [[span._asdict() for span in row] for row in rows]
    assert len(rows) == 2
    (first,) = rows[0]
    named = f"It read '{prepared_dir}/{first.file}' tokens {first.first_token:,} to {first.end_token:,};"
    assert named in message
    assert first.end_token - first.first_token == 5
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "last.ckpt",
        *(f"step={n}.ckpt" for n in range(1, 8)),
    ]
    saved = torch.load(checkpoints / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 7
    assert saved["state_dict"]["embedding.weight"].isfinite().all()


def test_the_text_is_what_the_rows_were_made_of(prepared_dir: Path, tmp_path: Path) -> None:
    seen = {}

    class Keeping(Scripted):
        def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
            seen[batch["micro"]] = batch["tokens"]
            return super().training_step(batch, batch_idx)

    data, _ = fit(tmp_path, prepared_dir, Keeping(), 6, callbacks=[SuperpositionCallback(4, recovery_step=3)])
    for micro, tokens in seen.items():
        for row, (span,) in zip(tokens, text_of_batch(data, micro, 0), strict=True):
            ids = np.fromfile(Path(span.corpus) / span.file, "<u2", offset=12)
            assert row.flatten().tolist() == ids[span.first_token : span.end_token].tolist()
    assert {tokens.shape[-1] for tokens in seen.values()} == {4, 1}


def test_weights_that_are_no_numbers_are_not_saved(prepared_dir: Path, tmp_path: Path) -> None:
    """A finite loss may have an infinite gradient; its step comes right before a checkpoint."""
    module = Scripted(gradient=lambda micro: math.inf if micro == 5 else 1e-3)
    with pytest.raises(UserError, match=r"not finite after step 5 \(embedding.weight\).*not saved. The last good"):
        fit(tmp_path, prepared_dir, module, 20, save_every=3)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert not (tmp_path / "checkpoints" / "step=6.ckpt").exists()


def test_a_run_without_a_checkpoint_is_told_so(prepared_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No checkpoint has been saved: start again with a lower learning rate"):
        fit(tmp_path, prepared_dir, Scripted(lambda micro, _: math.nan), 3)


@pytest.mark.parametrize("check", ["before_step", "one_step_later"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_spike_is_warned_of_once(prepared_dir: Path, tmp_path: Path, accumulate: int, check: str) -> None:
    spiking = range(70 * accumulate, 74 * accumulate)
    losses = lambda micro, _: 3 + noise(micro) + 1.5 * (micro in spiking)  # noqa: E731
    data, told = fit(
        tmp_path, prepared_dir, Scripted(losses), 100, LossGuard(check), accumulate_grad_batches=accumulate
    )
    assert len(told) == 1
    assert spikes_of(tmp_path) == [70]
    step = range(70 * accumulate, 71 * accumulate)
    told_of = json.loads((tmp_path / "loss_guard.jsonl").read_text())
    assert told_of["mean"] == pytest.approx(sum(losses(micro, 1) for micro in step) / accumulate, abs=1e-5)
    worst = max(step, key=lambda micro: losses(micro, 1))
    (span,) = text_of_batch(data, worst, 0)[0]
    for part in ("at step 70 (", "rate is 0.25", f"micro-batch {worst} of", f"tokens {span.first_token:,} to"):
        assert part in told[0]


@pytest.mark.parametrize(("callbacks", "expected"), [(["superposition"], []), ([], [60])])
def test_the_jump_at_the_switch_is_no_spike(
    prepared_dir: Path, tmp_path: Path, callbacks: list, expected: list
) -> None:
    """The same losses without a schedule are one."""
    made = [SuperpositionCallback(2, recovery_step=60) for _ in callbacks]
    module = Scripted(lambda micro, _: (3 if micro < 60 else 5) + noise(micro))
    _, told = fit(tmp_path, prepared_dir, module, 130, callbacks=made)
    assert len(told) == len(expected)
    assert spikes_of(tmp_path) == expected


def test_interpolated_weights_are_no_spike_and_one_after_the_switch_is(prepared_dir: Path, tmp_path: Path) -> None:
    made = SuperpositionCallback(2, recovery_step=70, interpolate=0.1)
    module = Scripted(lambda micro, _: 3 + noise(micro) + 2 * (63 <= micro < 70) + 4 * (micro == 125))
    fit(tmp_path, prepared_dir, module, 130, callbacks=[made])
    assert spikes_of(tmp_path) == [125]


def test_a_resumed_run_warns_of_the_same_spikes(prepared_dir: Path, tmp_path: Path) -> None:
    """Less than a window after the resume, and in a spike that had been told of."""
    module = lambda: Scripted(lambda micro, _: 3 + noise(micro) + 2 * (58 <= micro < 63) + 2 * (micro == 80))  # noqa: E731
    fit(tmp_path / "whole", prepared_dir, module(), 100)
    assert spikes_of(tmp_path / "whole") == [58, 80]
    fit(tmp_path / "cut", prepared_dir, module(), 60, save_every=60)
    assert spikes_of(tmp_path / "cut") == [58]
    fit(tmp_path / "cut", prepared_dir, module(), 100, ckpt_path=tmp_path / "cut" / "checkpoints" / "last.ckpt")
    assert spikes_of(tmp_path / "cut") == [58, 80]


def test_the_detector_raises_no_false_alarm_and_finds_every_spike() -> None:
    """Losses as they are: falling, noisy with heavy tails, with a stage of another level now and then."""
    generator = np.random.default_rng(0)
    for run in range(4):
        steps = np.arange(1000)
        losses = 2 + 6 * np.exp(-steps / 300) + 0.05 * generator.standard_t(8, 1000)
        losses[500:] += 2  # another stage
        detector = SpikeDetector(10, 100)
        regimes = ["a"] * 500 + ["b"] * 500
        assert not any(detector.look(loss, regime) for loss, regime in zip(losses, regimes, strict=True))
        at = int(generator.integers(500 + LEAST_STEPS, 1000))
        losses[at] += 2
        detector = SpikeDetector(10, 100)
        found = [detector.look(loss, regime) for loss, regime in zip(losses, regimes, strict=True)]
        assert [step for step, spike in enumerate(found) if spike] == [at], run


def test_median_and_spread_are_those_of_the_window() -> None:
    values = np.random.default_rng(1).normal(5, 1, 300)
    detector = SpikeDetector(10, 100)
    for value in values:
        assert detector.look(float(value), "") is None
    spike = detector.look(30.0, "")
    centre = np.median(values[-100:])
    assert spike.median == pytest.approx(centre)
    assert spike.spread == pytest.approx(1.4826 * np.median(np.abs(values[-100:] - centre)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"check": "never"}, "check='never': choose auto, before_step, one_step_later"),
        ({"spike_threshold": 0}, "spike_threshold=0: give a positive number"),
        ({"spike_threshold": math.nan}, "spike_threshold=nan: give a positive number"),
        ({"window_steps": 49}, "window_steps=49: give an integer of at least 50"),
        ({"window_steps": 100.5}, "window_steps=100.5: give an integer"),
    ],
)
def test_options_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LossGuard(**options)


def test_no_warnings_where_none_are_wanted(prepared_dir: Path, tmp_path: Path) -> None:
    module = Scripted(lambda micro, _: 3 + noise(micro) + 9 * (micro == 60))
    _, told = fit(tmp_path, prepared_dir, module, 62, LossGuard(spike_threshold=None))
    assert not told
    assert not (tmp_path / "loss_guard.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["baseline", "superposition", "lengths"])
def test_a_real_run_raises_no_false_alarm(prepared_dir: Path, tmp_path: Path, method: str) -> None:
    """A language model from random weights, through a switch of bag size or the lengths of a curriculum."""
    made = {
        "baseline": [],
        "superposition": [SuperpositionCallback(4, recovery_step=200)],
        "lengths": [LengthCurriculum(min_length=8, cycles=4)],
    }
    module = tiny_module(optimizer=lambda groups: torch.optim.AdamW(groups, 3e-3))
    data = tiny_data(prepared_dir, sequence_length=32, batch_size=8, epochs=20)
    guard = LossGuard()
    tiny_trainer(tmp_path, 400, [guard, *made[method]]).fit(module, data)
    assert spikes_of(tmp_path) == []
    # It was looked at: every regime of a length that had enough steps has its losses.
    windows = guard._detector.state_dict()["windows"]
    assert max(map(len, windows.values())) == 100
