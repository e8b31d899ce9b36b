"""Several bag sizes, constant tokens per step and weights that move, in real training runs."""

import pytest
import torch
from runs import ROWS, SEQUENCE_LENGTH, tiny_data, tiny_llama, tiny_trainer, weights_hash

from callbacks import SuperpositionCallback
from tst_lightning.bags import bag_weights, shift
from tst_lightning.errors import UserError
from tst_lightning.learning_rate import WarmupStableDecay
from tst_lightning.losses import MultiHotCrossEntropy, multi_hot_cross_entropy
from tst_lightning.module import CausalLMModule


class Recorder(CausalLMModule):
    """Keeps each micro-batch's shape, its loss's value, and what the value was made of."""

    def __init__(self, **options):
        schedule = WarmupStableDecay(warmup_steps=2, decay_ratio=0.25)
        super().__init__(config=tiny_llama(), learning_rate_schedule=schedule, **options)
        self.shapes, self.values, self.logits, self.targets, self.rates, self.moments = [], [], [], [], [], []

    def training_step(self, batch, batch_idx):
        optimizer = self.trainer.optimizers[0]
        self.shapes.append(tuple(batch["tokens"].shape))
        self.rates.append(optimizer.param_groups[0]["lr"] / 1e-3)
        self.moments.append(len(optimizer.state))
        inputs, targets = shift(batch["tokens"])
        with torch.no_grad():
            embeddings = self.get_input_embeddings()(inputs.squeeze(-1))
            self.logits.append(self.model(inputs_embeds=embeddings).logits.flatten(0, 1).double())
        self.targets.append(targets.flatten(0, 1))
        value = super().training_step(batch, batch_idx)
        self.values.append(value.item())
        return value


def fit(prepared_dir, folder, callback, max_steps, ckpt_path=None, save_every=0, **data):
    module = Recorder()
    trainer = tiny_trainer(folder, max_steps, [callback], save_every=save_every)
    trainer.fit(module, datamodule=tiny_data(prepared_dir, **data), ckpt_path=ckpt_path)
    return module, trainer


def stages(**options):
    return SuperpositionCallback(**{"bag_sizes": [4, 2, 1], "step_shares": [0.25, 0.25, 0.5]} | options)


def test_bags_shrink_step_by_step(prepared_dir, tmp_path):
    module, trainer = fit(prepared_dir, tmp_path, stages(weights="power_law"), 8, rows_per_group=4)
    row = (ROWS, SEQUENCE_LENGTH + 1)
    assert module.shapes == [(*row, 4)] * 2 + [(*row, 2)] * 2 + [(*row, 1)] * 4
    for step, size in enumerate([4, 4, 2, 2, 1, 1, 1, 1]):
        weights = bag_weights("power_law", size)
        wanted = multi_hot_cross_entropy(module.logits[step], module.targets[step], weights)
        assert module.values[step] == pytest.approx(wanted.item(), rel=1e-5)
    positions = ROWS * SEQUENCE_LENGTH
    progress = trainer.lightning_module.progress(8)
    assert progress["progress/positions"] == 8 * positions
    assert progress["progress/data_tokens"] == positions * (4 + 4 + 2 + 2 + 4)


def test_bag_sizes_that_do_not_divide_one_another_have_common_groups(prepared_dir, tmp_path):
    module, trainer = fit(prepared_dir, tmp_path, stages(bag_sizes=[6, 4, 1]), 4)
    assert [shape[-1] for shape in module.shapes] == [6, 4, 1, 1]
    assert trainer.datamodule.state_dict()["rows_per_group"] == 12


def test_patch_level_steps_read_as_much_text_in_fewer_rows(prepared_dir, tmp_path):
    """The paper's recipe at a small size: cost, positions, two learning-rate schedules, an optimizer begun anew."""
    patches = SuperpositionCallback(
        bag_size=4, step_ratio=0.5, fraction_of="data", tokens_per_step="constant", on_switch="restart_schedule"
    )
    module, trainer = fit(prepared_dir, tmp_path, patches, 16, rows_per_group=4)
    assert module.shapes == [(1, SEQUENCE_LENGTH + 1, 4)] * 8 + [(ROWS, SEQUENCE_LENGTH + 1, 1)] * 8
    progress = trainer.lightning_module.progress(16)
    assert progress["progress/data_tokens"] == 16 * ROWS * SEQUENCE_LENGTH
    assert progress["progress/positions"] == 16 * ROWS * SEQUENCE_LENGTH * (0.5 / 4 + 0.5)
    one_level = [WarmupStableDecay(warmup_steps=2, decay_ratio=0.25).factor(step, 8) for step in range(8)]
    assert module.rates == pytest.approx(one_level * 2)
    assert (module.moments[0], module.moments[8]) == (0, 0)
    assert all(module.moments[1:8] + module.moments[9:])


def test_the_weights_move_to_the_next_token(prepared_dir, tmp_path):
    """Over the last half of six superposed steps: a third, two thirds, all of the way."""
    callback = SuperpositionCallback(bag_size=2, step_ratio=0.75, interpolate=0.5)
    module, _ = fit(prepared_dir, tmp_path, callback, 8, rows_per_group=2)
    shares = [0, 0, 0, 1 / 3, 2 / 3, 1]
    assert [callback.next_token_share(step) for step in range(8)] == pytest.approx([*shares, 0, 0])
    for step, share in enumerate(shares):
        weights = (0.5 + 0.5 * share, 0.5 - 0.5 * share)
        wanted = multi_hot_cross_entropy(module.logits[step], module.targets[step], weights)
        assert module.values[step] == pytest.approx(wanted.item(), rel=1e-5)
    assert module.loss == MultiHotCrossEntropy()


@pytest.mark.parametrize("kind", ["mce_alt", "hinge", "binary_cross_entropy"])
def test_ablation_losses_train_in_superposition_only(prepared_dir, tmp_path, kind):
    module, _ = fit(prepared_dir, tmp_path, SuperpositionCallback(bag_size=2, step_ratio=0.5, loss=kind), 4)
    for step in range(4):
        cross_entropy = multi_hot_cross_entropy(module.logits[step], module.targets[step], bag_weights("uniform", 1))
        assert (module.values[step] == pytest.approx(cross_entropy.item(), rel=1e-5)) == (step >= 2)


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_resumed_run_ends_with_the_same_weights(prepared_dir, tmp_path, stop):
    options = {"interpolate": 0.5, "tokens_per_step": "constant", "on_switch": "restart_schedule"}
    whole, _ = fit(prepared_dir, tmp_path / "whole", stages(**options), 8, save_every=2, rows_per_group=4)
    path = tmp_path / "whole" / "checkpoints" / f"step={stop}.ckpt"
    resumed, _ = fit(prepared_dir, tmp_path / "resumed", stages(**options), 8, path, rows_per_group=4)
    assert resumed.values == whole.values[stop:]
    assert weights_hash(resumed) == weights_hash(whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "squared"}, "loss='squared': choose"),
        ({"interpolate": 1.5}, "interpolate=1.5"),
        ({"loss": "mce_alt", "interpolate": 0.5}, "knows no weights"),
        ({"loss": "mce_alt", "weights": "power_law"}, "knows no weights"),
        ({"weights": [0.5, 0.5]}, "are for one bag size"),
        ({"weights_file": "none.json", "weights": "power_law"}, "leave one of them out"),
        ({"weights_file": "none.json"}, "none.json"),
    ],
)
def test_bad_values_fail_at_construction(options, message):
    with pytest.raises(UserError, match=message):
        stages(**options)


def test_a_batch_that_does_not_divide_is_refused(prepared_dir, tmp_path):
    callback = SuperpositionCallback(bag_size=3, step_ratio=0.5, tokens_per_step="constant")
    with pytest.raises(UserError, match="set batch_size to a multiple of 3"):
        fit(prepared_dir, tmp_path, callback, 4)
