"""SuperpositionCallback in real training runs: where the switch falls, what is trained on, and how it resumes."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch
from runs import ROWS, SEQUENCE_LENGTH, tiny_data, tiny_llama, tiny_trainer, weights_hash
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from callbacks import SuperpositionCallback
from tst_lightning.bags import bag_weights, shift
from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.errors import UserError
from tst_lightning.losses import MultiHotCrossEntropy
from tst_lightning.module import CausalLMModule


class Recorder(CausalLMModule):
    """Keeps shape, loss object and loss value of every micro-batch, with the optimizer step it belongs to."""

    def __init__(self, **options):
        super().__init__(config=tiny_llama(), **options)
        self.seen = []
        self.values = []
        self.texts = []

    def training_step(self, batch, batch_idx):
        self.texts.append(batch["tokens"].flatten().tolist())
        self.seen.append(
            (self.trainer.global_step, batch["tokens"].shape[-1], self.trainer.datamodule.bag_size, self.loss)
        )
        value = super().training_step(batch, batch_idx)
        self.values.append(value.item())
        return value


def fit(prepared_dir, tmp_path, callback=None, max_steps=6, data=None, module=None, ckpt_path=None, **options):
    module = module or Recorder()
    callbacks = [callback] if callback else []
    trainer = tiny_trainer(tmp_path, max_steps, callbacks, **options)
    trainer.fit(module, datamodule=data or tiny_data(prepared_dir), ckpt_path=ckpt_path)
    return module


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_switch_falls_on_its_optimizer_step(prepared_dir, tmp_path, accumulate, num_workers):
    module = fit(
        prepared_dir,
        tmp_path,
        SuperpositionCallback(bag_size=4, recovery_step=2),
        max_steps=4,
        data=tiny_data(prepared_dir, num_workers=num_workers),
        accumulate_grad_batches=accumulate,
    )
    uniform, plain = MultiHotCrossEntropy((0.25,) * 4), MultiHotCrossEntropy((1.0,))
    expected = [
        (step, 4, 4, uniform) if step < 2 else (step, 1, 1, plain) for step in range(4) for _ in range(accumulate)
    ]
    assert module.seen == expected


def test_step_ratio_is_a_share_of_max_steps(prepared_dir, tmp_path):
    module = fit(prepared_dir, tmp_path, SuperpositionCallback(bag_size=2, step_ratio=0.3), max_steps=10)
    assert [bag_size for _, bag_size, _, _ in module.seen] == [2] * 3 + [1] * 7


@pytest.mark.parametrize("callback", [{"bag_size": 1, "step_ratio": 0.5}, {"bag_size": 4, "recovery_step": 0}])
def test_no_superposition_is_the_baseline_bit_for_bit(prepared_dir, tmp_path, callback):
    data = {"rows_per_group": 4}
    with_callback = fit(
        prepared_dir, tmp_path / "a", SuperpositionCallback(**callback), data=tiny_data(prepared_dir, **data)
    )
    plain = fit(prepared_dir, tmp_path / "b", data=tiny_data(prepared_dir, **data))
    assert weights_hash(with_callback) == weights_hash(plain)
    assert with_callback.values == plain.values


def test_arms_with_the_same_groups_read_the_same_text_in_the_same_order(prepared_dir, tmp_path):
    """What the baseline reads in its first steps is what superposition reads in fewer."""

    def texts(callback, steps):
        data = tiny_data(prepared_dir, rows_per_group=4)
        rows = []

        class Reader(Recorder):
            def training_step(self, batch, batch_idx):
                rows.extend(tuple(row.flatten().tolist()) for row in batch["tokens"])
                return super().training_step(batch, batch_idx)

        fit(prepared_dir, tmp_path, callback, max_steps=steps, data=data, module=Reader())
        return rows

    superposed = texts(SuperpositionCallback(bag_size=4, recovery_step=16), 17)[: 16 * ROWS]
    baseline = texts(None, 64)
    length = SEQUENCE_LENGTH + 1
    in_rows = {group[i * length : (i + 1) * length] for group in superposed for i in range(4)}
    assert in_rows == set(baseline)


def test_the_loss_of_a_bag_is_the_mean_of_its_cross_entropies(prepared_dir, tmp_path):
    """Against a forward pass written out: embeddings averaged by hand, one cross-entropy per token of the bag."""
    values = []

    class Checked(Recorder):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if batch["tokens"].shape[-1] > 1:
                inputs, targets = shift(batch["tokens"].long())
                table = self.model.model.embed_tokens.weight
                mean = sum(table[inputs[..., i]] for i in range(3)) / 3
                logits = self.model(inputs_embeds=mean).logits
                weights = (6 / 11, 3 / 11, 2 / 11)
                reference = sum(
                    w * F.cross_entropy(logits.flatten(0, 1), targets[..., i].flatten()) for i, w in enumerate(weights)
                )
                values.append((loss.item(), reference.item()))
            return loss

    callback = SuperpositionCallback(bag_size=3, recovery_step=2, weights="power_law")
    fit(prepared_dir, tmp_path, callback, max_steps=3, module=Checked())
    assert len(values) == 2
    assert all(ours == pytest.approx(reference, abs=1e-5) for ours, reference in values)


def test_input_only_superposition_predicts_the_next_bags_first_token(prepared_dir, tmp_path):
    callback = SuperpositionCallback(bag_size=4, recovery_step=2, superpose_outputs=False)
    module = fit(prepared_dir, tmp_path, callback, max_steps=3)
    assert [entry[1] for entry in module.seen] == [4, 4, 1]
    assert module.seen[0][3].weights == (1, 0, 0, 0)


def test_output_only_superposition_reads_what_the_baseline_reads(prepared_dir, tmp_path):
    callback = SuperpositionCallback(bag_size=4, recovery_step=2, superpose_inputs=False)
    rows_per_group = {"rows_per_group": 4}
    module = fit(prepared_dir, tmp_path, callback, max_steps=3, data=tiny_data(prepared_dir, **rows_per_group))
    baseline = fit(prepared_dir, tmp_path, max_steps=3, data=tiny_data(prepared_dir, **rows_per_group))
    assert module.texts == baseline.texts
    assert [entry[1] for entry in module.seen] == [1, 1, 1]
    assert [entry[3].sliding for entry in module.seen] == [True, True, False]
    assert module.seen[0][3].weights == bag_weights("uniform", 4)


def test_the_loss_starts_at_the_vocabularys_logarithm(prepared_dir, tmp_path):
    module = fit(prepared_dir, tmp_path, SuperpositionCallback(bag_size=4, recovery_step=1), max_steps=2)
    assert module.values[0] == pytest.approx(torch.tensor(257.0).log().item(), abs=0.1)


def test_a_bag_does_not_see_what_follows():
    """Changing bag j leaves the hidden states of the bags before it as they were."""
    from tst_lightning.bags import superpose_embedding

    module = Recorder()
    module.configure_model()
    superpose_embedding(module.get_input_embeddings())
    bags = torch.randint(257, (2, 9, 4))
    before = module.model.base_model(input_ids=bags).last_hidden_state
    changed = bags.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 257
    after = module.model.base_model(input_ids=changed).last_hidden_state
    torch.testing.assert_close(after[:, :5], before[:, :5], rtol=0, atol=0)
    assert (after[:, 5:] != before[:, 5:]).any(-1).all()


@pytest.mark.parametrize("stop", [2, 4, 6])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_ends_with_the_same_weights(prepared_dir, tmp_path, stop, accumulate):
    """Stopped in superposition, at the switch and in recovery, against the uninterrupted run, bit for bit."""
    settings = {"max_steps": 8, "accumulate_grad_batches": accumulate, "save_every": 2}
    callback = lambda: SuperpositionCallback(bag_size=4, recovery_step=4)  # noqa: E731
    whole = fit(prepared_dir, tmp_path / "whole", callback(), **settings)
    checkpoint = tmp_path / "whole" / "checkpoints" / f"step={stop}.ckpt"
    resumed = fit(prepared_dir, tmp_path / "resumed", callback(), ckpt_path=checkpoint, **settings)
    assert resumed.seen[0][0] == stop
    assert resumed.values == whole.values[stop * accumulate :]
    assert weights_hash(resumed) == weights_hash(whole)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (0, "Step 0: superposition, 8 tokens per input position"),
        (1, "Goes on at step 1, in superposition with 8 tokens per input position since step 0"),
        (2, "Step 2: superposition, 4 tokens per input position"),
        (6, "Goes on at step 6, in recovery with 1 token per input position since step 4"),
    ],
)
def test_a_resumed_run_says_where_it_goes_on(monkeypatch, step: int, says: str) -> None:
    callback, said = SuperpositionCallback(bag_sizes=[8, 4, 1], step_ratio=0.5), []
    callback.schedule = callback.stages.schedule(8)
    callback._next_token_loss = None
    monkeypatch.setattr("callbacks.superposition.rank_zero_info", said.append)
    trainer = SimpleNamespace(global_step=step, datamodule=SimpleNamespace(), optimizers=[])
    for _ in range(2):
        callback.on_train_batch_start(trainer, SimpleNamespace(loss=None), None, 0)
    assert said == [says]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            SuperpositionCallback(bag_size=2, recovery_step=4),
            "bags of 4 .* this run has bags of 2 .* give .*bag_size=4",
        ),
        (
            SuperpositionCallback(bag_size=4, recovery_step=5),
            "at step 4 of 6 .* at step 5 of 8: give .*recovery_step=4 ",
        ),
        (SuperpositionCallback(bag_size=4, step_ratio=0.7), "at step 4 of 6 .* at step 6 of 8: .*r.max_steps 6, or"),
        (
            SuperpositionCallback(bag_size=4, recovery_step=4, weights="power_law"),
            r"weights \[.*0\.25\]\], this run has \[.*\[0\.48, 0\.24.*: set weights or weights_file as in",
        ),
        (None, "bags of 4 .* this run has single tokens from step 0 of 8: give .*callbacks.SuperpositionCallback"),
    ],
)
def test_another_schedule_is_refused_at_resume(prepared_dir, tmp_path, other, message):
    data = lambda: tiny_data(prepared_dir, rows_per_group=4)  # noqa: E731
    fit(prepared_dir, tmp_path, SuperpositionCallback(bag_size=4, recovery_step=4), save_every=2, data=data())
    with pytest.raises(UserError, match=message):
        fit(
            prepared_dir,
            tmp_path / "b",
            other,
            max_steps=8,
            data=data(),
            ckpt_path=tmp_path / "checkpoints/step=2.ckpt",
        )


def test_afterwards_the_module_is_as_it_was(prepared_dir, tmp_path):
    module = fit(prepared_dir, tmp_path, SuperpositionCallback(bag_size=4, recovery_step=2))
    assert module.loss == MultiHotCrossEntropy((1.0,))
    assert module.get_input_embeddings()._forward_hooks == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bag_size": 0, "step_ratio": 0.3}, "bag_size=0: give an integer of at least 1"),
        ({"bag_size": 2.5, "step_ratio": 0.3}, "bag_size=2.5"),
        ({"bag_size": True, "step_ratio": 0.3}, "bag_size=True"),
        ({"bag_size": 4}, "exactly one of step_ratio"),
        ({"bag_size": 4, "step_ratio": 0.3, "recovery_step": 5}, "exactly one of step_ratio"),
        ({"bag_size": 4, "step_ratio": 1.0}, "step_ratio=1.0"),
        ({"bag_size": 4, "step_ratio": -0.1}, "step_ratio=-0.1"),
        ({"bag_size": 4, "recovery_step": -1}, "recovery_step=-1"),
        ({"bag_size": 4, "step_ratio": 0.3, "weights": [1, 2]}, "bag weights"),
        ({"bag_size": 4, "step_ratio": 0.3, "superpose_inputs": False, "superpose_outputs": False}, "both false"),
    ],
)
def test_bad_values_fail_at_construction(options, message):
    with pytest.raises(UserError, match=message):
        SuperpositionCallback(**options)


@pytest.mark.parametrize("recovery_step", [6, 7])
def test_a_run_without_recovery_is_refused(prepared_dir, tmp_path, recovery_step):
    with pytest.raises(UserError, match=f"until step {recovery_step} leaves no recovery within trainer.max_steps=6"):
        fit(prepared_dir, tmp_path, SuperpositionCallback(bag_size=4, recovery_step=recovery_step))


def test_a_run_without_max_steps_is_refused(prepared_dir, tmp_path):
    with pytest.raises(UserError, match=r"max_steps=-1.*set trainer\.max_steps"):
        fit(prepared_dir, tmp_path, SuperpositionCallback(bag_size=4, step_ratio=0.3), max_steps=-1)


def test_too_few_tokens_are_refused_with_the_numbers(prepared_dir, tmp_path):
    callback = SuperpositionCallback(bag_size=4, step_ratio=0.5)
    with pytest.raises(UserError, match=r"1,000 steps need 1\d\d,\d{3} tokens.*epochs=2"):
        fit(prepared_dir, tmp_path, callback, max_steps=1000)


def test_what_the_protocol_lacks_is_named(tmp_path):
    class Module(L.LightningModule):
        def training_step(self, batch, batch_idx):
            """Lightning asks for one."""

        def configure_optimizers(self):
            """And for this."""

    class Data(L.LightningDataModule):
        def train_dataloader(self):
            """And for this."""

    trainer = tiny_trainer(tmp_path, 4, [SuperpositionCallback(bag_size=4, step_ratio=0.5)])
    with pytest.raises(
        UserError, match=r"set_schedule\(schedule\).*callable `loss.*get_input_embeddings\(\) on Module"
    ):
        trainer.fit(Module(), datamodule=Data())


class MyModule(L.LightningModule):
    """Somebody's own module: the README's ten lines, with a torch loss as a submodule."""

    def __init__(self):
        super().__init__()
        self.model = LlamaForCausalLM(tiny_llama())
        self.loss = MultiHotCrossEntropy()
        self.shapes = []

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def training_step(self, batch, batch_idx):
        inputs, targets = shift(batch["tokens"])
        self.shapes.append(tuple(inputs.shape))
        hidden = self.model.model(input_ids=inputs).last_hidden_state
        return self.loss(hidden, self.model.lm_head.weight, targets)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def test_somebody_elses_module_is_superposed(prepared_dir, tmp_path):
    module = MyModule()
    trainer = tiny_trainer(tmp_path, 4, [SuperpositionCallback(bag_size=4, step_ratio=0.5)], limit_val_batches=0)
    trainer.fit(module, datamodule=TokenDataModule(str(prepared_dir), SEQUENCE_LENGTH, ROWS, num_workers=0))
    assert module.shapes == [(ROWS, SEQUENCE_LENGTH, 4)] * 2 + [(ROWS, SEQUENCE_LENGTH, 1)] * 2


def test_a_loss_that_is_a_submodule_is_swapped_and_restored(prepared_dir, tmp_path):
    class NextToken(nn.Module):
        def forward(self, hidden, head_weight, targets):
            return F.cross_entropy((hidden @ head_weight.T).flatten(0, 1), targets.flatten().long())

    module = MyModule()
    module.loss = None
    own = module.loss = NextToken()
    trainer = tiny_trainer(tmp_path, 4, [SuperpositionCallback(bag_size=4, step_ratio=0.5)], limit_val_batches=0)
    trainer.fit(module, datamodule=TokenDataModule(str(prepared_dir), SEQUENCE_LENGTH, ROWS, num_workers=0))
    assert module.loss is own
