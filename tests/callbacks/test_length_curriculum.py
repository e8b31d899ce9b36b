"""LengthCurriculum: the schedule that it draws, in real training runs, and what it is refused with."""

from collections import Counter

import numpy as np
import pytest
from runs import ROWS, SEQUENCE_LENGTH, tiny_data, tiny_module, tiny_trainer, weights_hash

from callbacks import LengthCurriculum, SuperpositionCallback
from tst_lightning.accounting import flops_per_position
from tst_lightning.data.reading.curriculum import length_schedule
from tst_lightning.errors import UserError
from tst_lightning.module import CausalLMModule
from tst_lightning.schedule import Schedule, Stage

TOKENS = {32: 1_000, 64: 3_000, 128: 2_000, 256: 2_000}


def lengths_of(steps=4_000, curriculum="grow_p2", cycles=4, tokens=TOKENS, seed=0):
    schedule = length_schedule(tokens, steps, curriculum, cycles, np.random.default_rng(seed))
    return [schedule.stage(step).sequence_length for step in range(steps)]


@pytest.mark.parametrize("curriculum", ["grow_p2", "uniform"])
@pytest.mark.parametrize(("steps", "cycles"), [(4_000, 4), (4_000, 1), (10, 8), (1, 8), (777, 3)])
def test_steps_are_dealt_out_by_the_text_and_evenly_over_the_cycles(curriculum, steps, cycles):
    lengths = lengths_of(steps, curriculum, cycles)
    counts = Counter(lengths)
    assert len(lengths) == steps == sum(counts.values())
    for length, tokens in TOKENS.items():
        assert abs(counts[length] - steps * tokens / 8_000) < 1
    first = 0
    for cycle in range(cycles):
        parts = {n: counts[n] * (cycle + 1) // cycles - counts[n] * cycle // cycles for n in TOKENS}
        cycle_lengths = lengths[first : first + sum(parts.values())]
        first += len(cycle_lengths)
        assert {n: cycle_lengths.count(n) for n in TOKENS} == parts
    assert first == steps


def test_draws_follow_the_odds():
    """Against the closed form for the first draw: steps of the cycle times 8 : 4 : 2 : 1."""
    firsts = Counter(lengths_of(80, cycles=1, seed=seed)[0] for seed in range(600))
    weights = {32: 10 * 8, 64: 30 * 4, 128: 20 * 2, 256: 20 * 1}
    for length, weight in weights.items():
        expected = 600 * weight / sum(weights.values())
        assert abs(firsts[length] - expected) < 4 * expected**0.5


def test_a_cycle_grows_and_a_uniform_one_does_not():
    def mean_places(curriculum):
        """Of the steps of each length in a cycle, 0 to 1."""
        lengths = np.array(lengths_of(4_000, curriculum, 4)).reshape(4, 1000)
        return [np.mean(np.nonzero(lengths == n)[1]) / 1000 for n in TOKENS]

    grown, uniform = mean_places("grow_p2"), mean_places("uniform")
    assert grown == sorted(grown)
    assert grown[0] < 0.3 < 0.7 < grown[-1]
    assert all(abs(place - 0.5) < 0.04 for place in uniform)


def test_lengths_that_are_used_up_drop_out():
    """Of equal parts of a cycle the short rows are gone before its last quarter, which is of the longest alone."""
    lengths = lengths_of(400, cycles=1, tokens=dict.fromkeys(TOKENS, 1))
    assert set(lengths[-15:]) == {256}
    assert 32 not in lengths[260:]


def test_the_draw_is_a_function_of_the_seed():
    assert lengths_of(seed=1) == lengths_of(seed=1) != lengths_of(seed=2)


def test_many_stages_are_kept_as_a_fingerprint():
    few = Schedule(tuple(Stage(step, 1, 1, sequence_length=4 + step % 2) for step in range(64)))
    many = Schedule((*few.stages, Stage(64, 1, 1)))
    assert few.as_dict()[1] == {
        "first_step": 1, "bag_size": 1, "target_bag_size": 1, "row_divisor": 1, "sequence_length": 5,
    }  # fmt: skip
    assert len(many.as_dict()) == 1
    assert many.as_dict()[0]["stages"] == 65
    other = Schedule((*few.stages, Stage(64, 1, 1, sequence_length=8)))
    assert many.as_dict() == Schedule(many.stages).as_dict() != other.as_dict()


# Runs ---------------------------------------------------------------------------------------------------


class Recorder(CausalLMModule):
    def training_step(self, batch, batch_idx):
        self.shapes = [*getattr(self, "shapes", []), tuple(batch["tokens"].shape)]
        return super().training_step(batch, batch_idx)


def curriculum(**options):
    return LengthCurriculum(**{"min_length": 4, "cycles": 2} | options)


def fit(prepared_dir, folder, callbacks=(), steps=12, ckpt_path=None, data=None, **options):
    module = Recorder(config=tiny_module().config)
    trainer = tiny_trainer(folder, steps, callbacks, **options)
    data = data or tiny_data(prepared_dir)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module, trainer, data


def test_a_run_trains_on_the_schedule_and_counts_what_it_costs(prepared_dir, tmp_path):
    callback = curriculum()
    module, *_ = fit(prepared_dir, tmp_path, [callback], accumulate_grad_batches=2)
    lengths = [callback.schedule.stage(step).sequence_length for step in range(12)]
    assert len(set(lengths)) == 3
    positions = ROWS * SEQUENCE_LENGTH
    assert module.shapes == [(positions // n, n + 1, 1) for n in lengths for _ in range(2)]
    cost = {n: flops_per_position(module.model, n) for n in set(lengths)}
    for steps in (0, 5, 12):
        progress = module.progress(steps)
        assert progress["progress/positions"] == progress["progress/data_tokens"] == 2 * positions * steps
        assert progress["progress/flops"] == sum(2 * positions * cost[n] for n in lengths[:steps])
    assert 2 * positions * 12 * cost[min(cost)] < progress["progress/flops"] < 2 * positions * 12 * cost[max(cost)]


def test_a_resumed_run_ends_with_the_same_weights(prepared_dir, tmp_path):
    whole, _, _ = fit(prepared_dir, tmp_path, [curriculum()], save_every=7)
    checkpoint = next(tmp_path.rglob("*7*.ckpt"))
    again, _, _ = fit(prepared_dir, tmp_path / "b", [curriculum()], ckpt_path=checkpoint)
    assert again.shapes == whole.shapes[7:]
    assert weights_hash(again) == weights_hash(whole)
    for changed, steps in (({"cycles": 3}, 12), ({"curriculum": "uniform"}, 12), ({"min_length": 8}, 12), ({}, 14)):
        with pytest.raises(UserError, match=next(iter(changed), "max_steps")):
            fit(prepared_dir, tmp_path / "c", [curriculum(**changed)], steps, ckpt_path=checkpoint)
    with pytest.raises(UserError, match=r"decomposition: .*, now None\..* LengthCurriculum as the checkpoint"):
        fit(prepared_dir, tmp_path / "d", ckpt_path=checkpoint)


def test_the_next_run_of_a_data_module_is_the_baseline_again(prepared_dir, tmp_path):
    data = tiny_data(prepared_dir)
    fit(prepared_dir, tmp_path / "a", [curriculum()], 3, data=data)
    module, _, _ = fit(prepared_dir, tmp_path / "b", steps=3, data=data)
    baseline, _, _ = fit(prepared_dir, tmp_path / "c", steps=3)
    assert weights_hash(module) == weights_hash(baseline)


@pytest.mark.parametrize("superposition_first", [True, False])
def test_superposition_beside_it_is_refused(prepared_dir, tmp_path, superposition_first):
    callbacks = [SuperpositionCallback(bag_size=4, step_ratio=0.5), curriculum()]
    with pytest.raises(UserError, match="SuperpositionCallback"):
        fit(prepared_dir, tmp_path, callbacks[:: 1 if superposition_first else -1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cycles": 0}, "cycles=0: give an integer"),
        ({"curriculum": "shrink"}, "curriculum='shrink': choose grow_p2 or uniform"),
        ({"long_documents": "short"}, "long_documents='short': choose random or longest"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        LengthCurriculum(**options)


def test_a_run_that_the_data_cannot_serve_is_refused(prepared_dir, tmp_path):
    with pytest.raises(UserError, match="packing=best_fit"):
        fit(prepared_dir, tmp_path, [curriculum()], data=tiny_data(prepared_dir, packing="best_fit"))
    with pytest.raises(UserError, match="set epochs="):
        fit(prepared_dir, tmp_path, [curriculum()], 5_000)
