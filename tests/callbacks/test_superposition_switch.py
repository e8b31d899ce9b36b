"""What begins anew at the switch, against optimizers rebuilt and models built by hand; and how such runs resume."""

import copy

import pytest
import torch
from runs import tiny_data, tiny_llama, tiny_trainer, weights_hash

from callbacks import SuperpositionCallback
from callbacks.switch import REINITIALIZE_SEED_OFFSET
from tst_lightning.bags import shift
from tst_lightning.errors import UserError
from tst_lightning.learning_rate import WarmupStableDecay
from tst_lightning.losses import MultiHotCrossEntropy
from tst_lightning.module import CausalLMModule
from tst_lightning.optimizers import papers_adamw

SWITCH, STEPS = 4, 8
RATE = 1e-3


class Watched(CausalLMModule):
    """Keeps what each micro-batch meets: its step, tokens, learning rate, loss; at the switch also the weights."""

    def __init__(self, **options):
        schedule = WarmupStableDecay(warmup_steps=2, decay_ratio=0.25)
        super().__init__(**{"config": tiny_llama(), "learning_rate_schedule": schedule, "init_seed": 3} | options)
        self.seen = []
        self.at_switch = {}
        self.with_state = set()

    def on_train_start(self):
        self.parameter_ids = {name: id(parameter) for name, parameter in self.model.named_parameters()}

    def training_step(self, batch, batch_idx):
        step, optimizer = self.trainer.global_step, self.trainer.optimizers[0]
        if step == SWITCH and not self.at_switch:
            self.at_switch = copy.deepcopy(self.model.state_dict())
            self.with_state = {name for name, p in self.model.named_parameters() if optimizer.state.get(p)}
        loss = super().training_step(batch, batch_idx)
        self.seen.append((step, batch["tokens"].clone(), optimizer.param_groups[0]["lr"], loss.item()))
        return loss


def fit(prepared_dir, folder, options=None, accumulate=1, ckpt_path=None, callback=None, **module_options):
    module = Watched(**module_options)
    callback = callback or SuperpositionCallback(bag_size=4, recovery_step=SWITCH, **options or {})
    trainer = tiny_trainer(folder, STEPS, [callback], accumulate_grad_batches=accumulate, save_every=2)
    trainer.fit(module, datamodule=tiny_data(prepared_dir, rows_per_group=4), ckpt_path=ckpt_path)
    return module


def checkpoint(folder, step):
    return folder / "checkpoints" / f"step={step}.ckpt"


OPTIONS = [
    {"on_switch": "reset_optimizer"},
    {"on_switch": "restart", "reinitialize": "embedding_and_head"},
    {"on_switch": "restart_schedule", "interpolate": 0.5, "tokens_per_step": "constant"},
    {"reinitialize": "embedding_and_head"},
]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_resumed_run_ends_with_the_same_weights(prepared_dir, tmp_path, options, accumulate):
    """Stopped before the switch, at it and after it, against the uninterrupted run, bit for bit."""
    whole = fit(prepared_dir, tmp_path / "whole", options, accumulate)
    for stop in (SWITCH - 2, SWITCH, SWITCH + 2):
        path = checkpoint(tmp_path / "whole", stop)
        resumed = fit(prepared_dir, tmp_path / f"from_{stop}", options, accumulate, path)
        assert [entry[0] for entry in resumed.seen] == [entry[0] for entry in whole.seen[stop * accumulate :]]
        assert [entry[2:] for entry in resumed.seen] == [entry[2:] for entry in whole.seen[stop * accumulate :]]
        assert weights_hash(resumed) == weights_hash(whole)


def by_hand(weights, batches, rates, accumulate):
    """Next-token training from ``weights`` with an optimizer that has seen nothing; the run's own forward pass."""
    module = Watched()
    module.configure_model()
    module.model.load_state_dict(weights)
    parameters = list(module.model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = papers_adamw(groups)
    for step, rate in enumerate(rates):
        optimizer.zero_grad()
        for tokens in batches[step * accumulate : (step + 1) * accumulate]:
            (module(*shift(tokens), MultiHotCrossEntropy())[0] / accumulate).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return module


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    ("on_switch", "factors", "is_new"),
    [("reset_optimizer", [1, 1, 1, 0.5], True), ("restart", [0.5, 1, 1, 0.5], True), ("carry", [1, 1, 1, 0.5], False)],
)
def test_recovery_is_that_of_an_optimizer_built_at_the_switch(
    prepared_dir, tmp_path, on_switch, factors, is_new, accumulate
):
    module = fit(prepared_dir, tmp_path, {"on_switch": on_switch}, accumulate)
    recovery = [entry for entry in module.seen if entry[0] >= SWITCH]
    assert [entry[2] for entry in recovery[::accumulate]] == [RATE * factor for factor in factors]
    before = torch.load(checkpoint(tmp_path, SWITCH), weights_only=True)["state_dict"]
    before = {name.removeprefix("model."): tensor for name, tensor in before.items() if name.startswith("model.")}
    rates = [RATE * factor for factor in factors]
    reference = by_hand(before, [entry[1] for entry in recovery], rates, accumulate)
    assert (weights_hash(module) == weights_hash(reference)) is is_new


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_embedding_and_head_begin_anew(prepared_dir, tmp_path, tied, accumulate):
    """They are another model's, built from the seed that the documentation names; the body goes on."""
    options = {"config": tiny_llama(tie_word_embeddings=tied)}
    module = fit(prepared_dir, tmp_path, {"reinitialize": "embedding_and_head"}, accumulate, **options)
    fresh = CausalLMModule(init_seed=3 + REINITIALIZE_SEED_OFFSET, **options)
    fresh.configure_model()
    before = torch.load(checkpoint(tmp_path, SWITCH), weights_only=True)["state_dict"]
    ends = {"model.embed_tokens.weight", "lm_head.weight"}
    for name, value in module.at_switch.items():
        expected = fresh.model.state_dict()[name] if name in ends else before[f"model.{name}"]
        assert torch.equal(value, expected), name
    names = {name for name, _ in module.model.named_parameters()}
    assert module.with_state == names - ends
    assert {name: id(parameter) for name, parameter in module.model.named_parameters()} == module.parameter_ids


def test_beginning_anew_draws_no_other_random_numbers(prepared_dir, tmp_path):
    draws = []
    for options in ({}, {"reinitialize": "embedding_and_head"}):
        torch.manual_seed(0)
        fit(prepared_dir, tmp_path / str(len(draws)), options)
        draws.append(torch.rand(3).tolist())
    assert draws[0] == draws[1]


def test_without_superposition_there_is_no_switch(prepared_dir, tmp_path):
    everything = {"on_switch": "restart", "reinitialize": "embedding_and_head"}
    hashes = {
        weights_hash(fit(prepared_dir, tmp_path / str(number), callback=callback))
        for number, callback in enumerate(
            [
                SuperpositionCallback(bag_size=1, recovery_step=SWITCH, **everything),
                SuperpositionCallback(bag_size=4, recovery_step=0, **everything),
                SuperpositionCallback(bag_size=1, recovery_step=SWITCH),
            ]
        )
    }
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_switch": "restart"}, "on_switch carry, this run has restart"),
        ({"reinitialize": "embedding_and_head"}, "reinitialize none, this run has embedding_and_head"),
    ],
)
def test_a_checkpoint_with_other_options_is_refused(prepared_dir, tmp_path, options, message):
    fit(prepared_dir, tmp_path / "carry")
    with pytest.raises(UserError, match=message):
        fit(prepared_dir, tmp_path / "other", options, ckpt_path=checkpoint(tmp_path / "carry", 2))


def test_a_checkpoint_of_an_earlier_release_is_refused(prepared_dir, tmp_path):
    fit(prepared_dir, tmp_path / "carry")
    path = checkpoint(tmp_path / "carry", 2)
    content = torch.load(path, weights_only=True)
    content["callbacks"]["SuperpositionCallback"]["version"] = 2
    torch.save(content, path)
    with pytest.raises(UserError, match="another release"):
        fit(prepared_dir, tmp_path / "resumed", ckpt_path=path)


@pytest.mark.parametrize("option", [{"on_switch": "reset"}, {"reinitialize": "head"}])
def test_unknown_values_are_refused(option):
    (name, value), *_ = option.items()
    with pytest.raises(UserError, match=f"{name}='{value}': choose"):
        SuperpositionCallback(bag_size=4, recovery_step=2, **option)


def test_what_a_module_lacks_for_it_is_named(prepared_dir, tmp_path):
    from test_superposition import MyModule

    callback = SuperpositionCallback(
        bag_size=4, recovery_step=2, on_switch="restart", reinitialize="embedding_and_head"
    )
    trainer = tiny_trainer(tmp_path, STEPS, [callback])
    with pytest.raises(UserError, match=r"learning_rate_restart on MyModule.*new_model on MyModule"):
        trainer.fit(MyModule(), datamodule=tiny_data(prepared_dir))
