"""CausalLMModule: what it builds, what it trains on, what it logs and saves."""

import copy
import math

import lightning
import pytest
import torch
import transformers
from runs import ROWS, SEQUENCE_LENGTH, tiny_data, tiny_llama, tiny_module, tiny_trainer, weights_hash
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GraniteConfig, LlamaConfig

from callbacks import StepCheckpoint, SuperpositionCallback
from tst_lightning.accounting import flops_per_position, matrix_parameters
from tst_lightning.errors import UserError
from tst_lightning.learning_rate import WarmupStableDecay
from tst_lightning.losses import MultiHotCrossEntropy
from tst_lightning.modeling.checkpoint import load_model


def test_the_initial_weights_depend_on_init_seed_alone():
    def built(init_seed, drawn_before):
        torch.manual_seed(drawn_before)
        module = tiny_module(init_seed=init_seed)
        module.configure_model()
        return weights_hash(module)

    assert built(1, drawn_before=5) == built(1, drawn_before=6) != built(2, drawn_before=5)


def test_building_the_model_leaves_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    tiny_module().configure_model()
    assert torch.rand(1) == expected


@pytest.mark.parametrize("impl", ["chunked", "eager"])
def test_next_token_loss_is_hugging_faces(impl):
    module = tiny_module(loss_impl=impl)
    module.configure_model()
    tokens = torch.randint(257, (ROWS, SEQUENCE_LENGTH + 1))
    loss, _ = module(tokens[:, :-1, None], tokens[:, 1:, None], module.loss)
    torch.testing.assert_close(loss, module.model(tokens, labels=tokens).loss)


def test_models_that_rescale_their_logits_are_trained_on_what_they_predict():
    config = GraniteConfig(**tiny_llama().to_diff_dict() | {"model_type": "granite", "logits_scaling": 8.0})
    module = tiny_module(config)
    module.configure_model()
    tokens = torch.randint(257, (ROWS, SEQUENCE_LENGTH + 1))
    loss, _ = module(tokens[:, :-1, None], tokens[:, 1:, None], module.loss)
    logits = module.model(tokens[:, :-1]).logits
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))


SIZES = {
    "vocab_size": 257, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": 256,
    "pad_token_id": None,
}  # fmt: skip
ARCHITECTURES = {
    "llama": LlamaConfig(**SIZES),
    "llama, tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**SIZES),
    "qwen3 moe": transformers.Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8),
    "smollm3": transformers.SmolLM3Config(**SIZES),
    "olmo2": transformers.Olmo2Config(**SIZES),
    "gemma3": transformers.Gemma3TextConfig(**SIZES),
    "granite": GraniteConfig(**SIZES, logits_scaling=8.0),
    "gpt2": transformers.GPT2Config(vocab_size=257, n_positions=64, n_embd=16, n_layer=2, n_head=2),
}


@pytest.mark.parametrize("name", ["llama", "llama, tied", "qwen3", "granite", "gpt2"])
def test_flops_are_those_that_torch_counts(name):
    """Forward and backward of the plain model, counted operator by operator; attention unmasked, as documented."""
    config = copy.deepcopy(ARCHITECTURES[name])
    config._attn_implementation = "eager"
    module = tiny_module(config, loss_impl="eager")
    module.configure_model()
    tokens = torch.randint(257, (ROWS, SEQUENCE_LENGTH + 1))
    with FlopCounterMode(display=False) as counter:
        module(tokens[:, :-1, None], tokens[:, 1:, None], module.loss)[0].backward()
    structural = flops_per_position(module.model, SEQUENCE_LENGTH) * ROWS * SEQUENCE_LENGTH
    # Rotary tables are a matrix product too, one that training does not pay for in any size that matters.
    assert structural == pytest.approx(counter.get_total_flops(), rel=0.002)


def test_of_experts_only_the_active_ones_count():
    module = tiny_module(ARCHITECTURES["qwen3 moe"])
    module.configure_model()
    layer = 4 * 16 * 16 + 4 * 16 + 2 * (3 * 16 * 8)  # attention, router, two of four experts
    assert matrix_parameters(module.model) == 2 * layer + 257 * 16


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_causal_lm_trains_in_both_phases_and_comes_back(name, prepared_dir, tmp_path):
    module = tiny_module(ARCHITECTURES[name])
    callbacks = [SuperpositionCallback(bag_size=4, recovery_step=2), StepCheckpoint(every_n_steps=4)]
    trainer = tiny_trainer(tmp_path, 4, callbacks, enable_checkpointing=True)
    trainer.fit(module, datamodule=tiny_data(prepared_dir))
    model, _ = load_model(str(tmp_path / "checkpoints/last.ckpt"))
    tokens = torch.randint(257, (2, 9))
    torch.testing.assert_close(model(tokens).logits, module.model.eval()(tokens).logits, rtol=0, atol=0)


def test_weight_decay_acts_on_matrices_only(prepared_dir, tmp_path):
    module = tiny_module()
    trainer = tiny_trainer(tmp_path, max_steps=1)
    trainer.fit(module, datamodule=tiny_data(prepared_dir))
    hidden, tables, vectors = trainer.optimizers[0].param_groups
    assert {parameter.ndim for group in (hidden, tables) for parameter in group["params"]} == {2}
    assert {parameter.ndim for parameter in vectors["params"]} == {1}
    assert [group["weight_decay"] for group in (hidden, tables, vectors)] == [0.1, 0.1, 0.0]
    assert sum(len(group["params"]) for group in (hidden, tables, vectors)) == len(list(module.parameters()))


def test_the_learning_rate_steps_with_the_optimizer_not_with_micro_batches(prepared_dir, tmp_path):
    schedule = WarmupStableDecay(warmup_steps=2, decay_ratio=0.5)
    rates = []

    class Module(type(tiny_module())):
        def on_before_optimizer_step(self, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    module = Module(config=tiny_llama(), learning_rate_schedule=schedule)
    tiny_trainer(tmp_path, max_steps=6, accumulate_grad_batches=2).fit(module, datamodule=tiny_data(prepared_dir))
    assert rates == pytest.approx([1e-3 * schedule.factor(step, 6) for step in range(6)])


class RateOfStart(lightning.Callback):
    """The rate once training begins; sets another one first, if it is to."""

    def __init__(self, rate=None):
        self.rate, self.seen = rate, []

    def on_train_start(self, trainer, pl_module):
        if self.rate is not None:
            trainer.optimizers[0].param_groups[0]["lr"] = self.rate

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_a_longer_run_has_the_rate_of_its_own_schedule_at_once(prepared_dir, tmp_path):
    """At step 4 of 4 the rate was to be 0, at step 4 of 8 it is 1e-3 still; a fresh run keeps what a callback sets."""
    schedule, first, second = WarmupStableDecay(warmup_steps=0, decay_ratio=0.5), RateOfStart(0.5), RateOfStart()
    module = tiny_module(learning_rate_schedule=schedule)
    tiny_trainer(tmp_path, 4, [first], save_every=4).fit(module, tiny_data(prepared_dir))
    assert first.seen == pytest.approx([0.5, 1e-3, 1e-3, 5e-4])
    checkpoint = str(tmp_path / "checkpoints" / "last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["optimizer_states"][0]["param_groups"][0]["lr"] == 0
    module = tiny_module(learning_rate_schedule=schedule)
    trainer = tiny_trainer(tmp_path, 8, [second])
    trainer.fit(module, tiny_data(prepared_dir), ckpt_path=checkpoint, weights_only=True)
    assert second.seen == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_a_subclass_may_have_a_schedule_of_its_own(prepared_dir, tmp_path):
    class Cosine(type(tiny_module())):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}

    tiny_trainer(tmp_path, 2, save_every=2).fit(Cosine(config=tiny_llama()), tiny_data(prepared_dir))
    seen = RateOfStart()
    trainer = tiny_trainer(tmp_path, 4, [seen])
    checkpoint = str(tmp_path / "checkpoints" / "last.ckpt")
    trainer.fit(Cosine(config=tiny_llama()), tiny_data(prepared_dir), ckpt_path=checkpoint, weights_only=True)
    assert seen.seen == pytest.approx([0.05, 0.1 * (1 + math.cos(math.pi * 3 / 4)) / 2])


def test_the_trained_model_exports_as_an_ordinary_checkpoint(prepared_dir, tmp_path):
    module = tiny_module()
    trainer = tiny_trainer(tmp_path, max_steps=4, callbacks=[SuperpositionCallback(bag_size=4, recovery_step=2)])
    trainer.fit(module, datamodule=tiny_data(prepared_dir))
    module.model.save_pretrained(tmp_path / "export")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert type(reloaded).__name__ == "LlamaForCausalLM"
    assert reloaded.state_dict().keys() == AutoModelForCausalLM.from_config(tiny_llama()).state_dict().keys()
    tokens = torch.randint(257, (2, 9))
    torch.testing.assert_close(reloaded.eval()(tokens).logits, module.model.eval()(tokens).logits, rtol=0, atol=0)


def test_a_folder_can_be_trained_on(prepared_dir, tmp_path):
    first = tiny_module(init_seed=7)
    first.configure_model()
    first.model.save_pretrained(tmp_path / "start")
    second = type(first)(pretrained=str(tmp_path / "start"))
    second.configure_model()
    assert weights_hash(second) == weights_hash(first)
    tiny_trainer(tmp_path, max_steps=1).fit(second, datamodule=tiny_data(prepared_dir))


def test_the_optimizer_is_the_configured_one(prepared_dir, tmp_path):
    module = tiny_module(optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5))
    trainer = tiny_trainer(tmp_path, max_steps=1)
    trainer.fit(module, datamodule=tiny_data(prepared_dir))
    assert isinstance(trainer.optimizers[0], torch.optim.SGD)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of .*got neither"),
        ({"config": tiny_llama(), "pretrained": "x"}, "exactly one of .*got both"),
        ({"pretrained": "no/such-model"}, "cannot start from 'no/such-model': no such folder, and the hub is away"),
        ({"config": transformers.PhimoeConfig(output_router_logits=True)}, "output_router_logits.*not for phimoe"),
    ],
)
def test_a_model_needs_one_origin(options, message, monkeypatch):
    monkeypatch.setattr("tst_lightning.hub.why_no_hub", lambda: "the hub is away")
    with pytest.raises(UserError, match=message):
        type(tiny_module())(**options)


def test_a_vocabulary_beyond_the_models_is_refused(prepared_dir, tmp_path):
    with pytest.raises(
        UserError, match="vocabulary has 257 tokens, the model's 256: set the model's vocab_size to 257"
    ):
        tiny_trainer(tmp_path, max_steps=1).fit(
            tiny_module(tiny_llama(vocab_size=256)), datamodule=tiny_data(prepared_dir)
        )


def test_a_sequence_beyond_the_models_positions_is_refused(prepared_dir, tmp_path):
    config = LlamaConfig(**tiny_llama().to_diff_dict() | {"max_position_embeddings": 15})
    with pytest.raises(UserError, match="sequence_length=16 is longer than the model's 15 positions"):
        tiny_trainer(tmp_path, max_steps=1).fit(tiny_module(config), datamodule=tiny_data(prepared_dir))


def test_the_losses_of_training_and_validation_are_the_baselines_by_default():
    assert tiny_module().loss == tiny_module().next_token_loss == MultiHotCrossEntropy((1.0,))
