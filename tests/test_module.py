"""CausalLMModule: what it builds, what it trains on, what it logs and saves."""

import math

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from runs import ROWS, SEQUENCE_LENGTH, tiny_data, tiny_llama, tiny_module, tiny_trainer, weights_hash
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GraniteConfig, LlamaConfig

from callbacks import SuperpositionCallback
from tst_lightning.accounting import flops_per_position
from tst_lightning.errors import UserError
from tst_lightning.losses import MultiHotCrossEntropy


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
    loss = module(tokens[:, :-1, None], tokens[:, 1:, None], module.loss)
    torch.testing.assert_close(loss, module.model(tokens, labels=tokens).loss)


def test_models_that_rescale_their_logits_are_trained_on_what_they_predict():
    config = GraniteConfig(**tiny_llama().to_diff_dict() | {"model_type": "granite", "logits_scaling": 8.0})
    module = tiny_module(config)
    module.configure_model()
    tokens = torch.randint(257, (ROWS, SEQUENCE_LENGTH + 1))
    loss = module(tokens[:, :-1, None], tokens[:, 1:, None], module.loss)
    logits = module.model(tokens[:, :-1]).logits
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))


def test_flops_are_those_that_torch_counts():
    """Forward and backward of the plain model, counted operator by operator; attention unmasked, as documented."""
    config = tiny_llama(attn_implementation="eager")
    module = tiny_module(config, loss_impl="eager")
    module.configure_model()
    tokens = torch.randint(257, (ROWS, SEQUENCE_LENGTH + 1))
    with FlopCounterMode(display=False) as counter:
        module(tokens[:, :-1, None], tokens[:, 1:, None], module.loss).backward()
    structural = flops_per_position(module.model, SEQUENCE_LENGTH) * ROWS * SEQUENCE_LENGTH
    # Rotary tables are a matrix product too, one that training does not pay for in any size that matters.
    assert structural == pytest.approx(counter.get_total_flops(), rel=0.002)


def test_weight_decay_acts_on_matrices_only(prepared_dir, tmp_path):
    module = tiny_module()
    trainer = tiny_trainer(tmp_path, max_steps=1)
    trainer.fit(module, datamodule=tiny_data(prepared_dir))
    decayed, plain = trainer.optimizers[0].param_groups
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert {parameter.ndim for parameter in plain["params"]} == {1}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert sum(len(group["params"]) for group in (decayed, plain)) == len(list(module.parameters()))


def test_the_learning_rate_steps_with_the_optimizer_not_with_micro_batches(prepared_dir, tmp_path):
    from tst_lightning.schedule import WarmupStableDecay

    schedule = WarmupStableDecay(warmup_steps=2, decay_ratio=0.5)
    rates = []

    class Module(type(tiny_module())):
        def on_before_optimizer_step(self, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    module = Module(config=tiny_llama(), learning_rate_schedule=schedule)
    tiny_trainer(tmp_path, max_steps=6, accumulate_grad_batches=2).fit(module, datamodule=tiny_data(prepared_dir))
    assert rates == pytest.approx([1e-3 * schedule.factor(step, 6) for step in range(6)])


@pytest.fixture
def logged(prepared_dir, tmp_path):
    """Scalars of a run with both phases under accumulation: {tag: {step: value}}, and its module."""
    module = tiny_module()
    trainer = tiny_trainer(
        tmp_path,
        max_steps=6,
        callbacks=[SuperpositionCallback(bag_size=4, recovery_step=2)],
        accumulate_grad_batches=2,
        val_check_interval=4,
        log_every_n_steps=1,
        logger=TensorBoardLogger(tmp_path, name="", version=""),
    )
    trainer.fit(module, datamodule=tiny_data(prepared_dir))
    events = EventAccumulator(str(tmp_path)).Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}, module


def test_logs_count_what_was_read_and_paid_for(logged):
    scalars, module = logged
    positions = ROWS * 2 * SEQUENCE_LENGTH
    per_position = flops_per_position(module.model, SEQUENCE_LENGTH)
    for step in range(1, 7):
        tokens = positions * sum(4 if s < 2 else 1 for s in range(step))
        assert scalars["progress/data_tokens"][step] == tokens
        assert scalars["progress/positions"][step] == positions * step
        assert scalars["progress/flops"][step] == pytest.approx(positions * step * per_position, rel=1e-6)
        assert scalars["progress/bag_size"][step] == (4 if step <= 2 else 1)
        assert scalars["progress/superposed"][step] == (1 if step <= 2 else 0)
    assert sorted(scalars["train/learning_rate"]) == [1, 2, 3, 4, 5, 6]


def test_validation_is_next_token_in_both_phases(logged):
    scalars, _ = logged
    assert sorted(scalars["val/loss"]) == [2, 4, 6]
    for step, loss in scalars["val/loss"].items():
        assert scalars["val/perplexity"][step] == pytest.approx(math.exp(loss), rel=1e-5)
        # The pseudo text has one byte per token.
        assert scalars["val/bits_per_byte"][step] == pytest.approx(loss / math.log(2), rel=1e-5)


def test_val_loss_is_the_mean_over_the_windows(prepared_dir, tmp_path):
    module, data = tiny_module(), tiny_data(prepared_dir, validation_windows=7)
    trainer = tiny_trainer(tmp_path, max_steps=1)
    trainer.validate(module, datamodule=data, verbose=False)
    losses = []
    for batch in data.val_dataloader():
        tokens = batch["tokens"].squeeze(-1).long()
        logits = module.model(tokens[:, :-1]).logits.double()
        losses += F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none").flatten().tolist()
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert len(losses) == 7 * SEQUENCE_LENGTH


def test_training_tokens_are_not_asked_back_from_the_device(prepared_dir, tmp_path, monkeypatch):
    """No ``.item()`` or ``.tolist()`` between the batches of a run that does not validate or show progress."""
    calls = []
    original = torch.Tensor.item

    def item(tensor):
        import traceback

        calls.append("".join(traceback.format_stack(limit=6)))
        return original(tensor)

    class Watched(type(tiny_module())):
        def training_step(self, batch, batch_idx):
            with monkeypatch.context() as patched:
                patched.setattr(torch.Tensor, "item", item)
                return super().training_step(batch, batch_idx)

    callback = SuperpositionCallback(bag_size=2, recovery_step=2)
    trainer = tiny_trainer(tmp_path, max_steps=4, callbacks=[callback])
    trainer.fit(Watched(config=tiny_llama()), datamodule=tiny_data(prepared_dir))
    assert calls == []


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
        ({"pretrained": "no/such-model"}, "cannot start from 'no/such-model'"),
    ],
)
def test_a_model_needs_one_origin(options, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
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
