"""Documents that share a row: a model computes for each what it would compute for it alone."""

import contextlib
import copy
import warnings

import numpy as np
import pytest
import torch
import transformers
from runs import tiny_data, tiny_module, tiny_trainer
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks import SuperpositionCallback
from tst_lightning.bags import IGNORE, bag_weights, shift, superpose_embedding
from tst_lightning.data.reading.packed_batch import packed_batch
from tst_lightning.errors import UserError
from tst_lightning.losses import MultiHotCrossEntropy
from tst_lightning.modeling.isolation import require_isolation

END_OF_TEXT = 256
ROW_POSITIONS = 33
SIZES = {
    "vocab_size": 257, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": 256,
    "pad_token_id": None,
}  # fmt: skip
GPT2_SIZES = {"vocab_size": 257, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
WINDOWED = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
CONFIGS = {
    "llama": transformers.LlamaConfig(**SIZES),
    "qwen3": transformers.Qwen3Config(**SIZES),
    "olmo2": transformers.Olmo2Config(**SIZES),
    "gpt2": transformers.GPT2Config(**GPT2_SIZES, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0),
    "gemma3": transformers.Gemma3TextConfig(**SIZES, **WINDOWED),
    "granite": transformers.GraniteConfig(**SIZES, logits_scaling=8.0),  # goes the way of the logits
}
BAG_SIZES = [1, 4]
SETTINGS = [
    (name, attention)
    for name in CONFIGS
    for attention in ("eager", "sdpa", "flex_attention")
    if (name, attention) != ("gpt2", "flex_attention")  # transformers has it not
]


class Outputs:
    """In the place of a loss: what the loss would get, hidden states or logits ``(B, L, d)``."""

    def __call__(self, hidden, head, targets, target_weights):
        return hidden

    def from_logits(self, logits, targets, target_weights):
        return logits


def built(config, attention="sdpa", bag_size=1):
    config = copy.deepcopy(config)
    config._attn_implementation = attention
    module = tiny_module(config)
    module.configure_model()
    if bag_size > 1:
        superpose_embedding(module.get_input_embeddings())
    return module


def documents(bag_size, seed=0):
    """Three that do not fill the row; their last bags are partial."""
    ids = np.random.default_rng(seed)
    return [ids.integers(0, 256, positions * bag_size - bag_size // 2) for positions in (12, 9, 7)]


def batch_of(rows, row_positions, bag_size, isolate=True):
    batch = packed_batch(rows, row_positions, bag_size, END_OF_TEXT, isolate)
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def apply(module, batch, loss, with_positions=True):
    inputs, _ = shift(batch["tokens"])
    return module(inputs, batch["targets"], loss, batch["position_ids"] if with_positions else None)[0]


@contextlib.contextmanager
def nothing_compiled():
    """Flex attention takes a minute to compile, and warns where it is not."""
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("bag_size", BAG_SIZES)
@pytest.mark.parametrize(("name", "attention"), SETTINGS)
def test_editing_a_document_leaves_the_next_ones_exactly_unchanged(name, attention, bag_size):
    module = built(CONFIGS[name], attention, bag_size)
    first, *others = documents(bag_size)
    edited = (first + 1) % 256
    # In each batch one row is edited, the other is not.
    before, after = (batch_of([[first, *others], [doc, *others]], ROW_POSITIONS, bag_size) for doc in (first, edited))
    later = slice(-(-len(first) // bag_size), None)
    with nothing_compiled(), torch.no_grad():
        moves = [
            (apply(module, before, Outputs(), positions) - apply(module, after, Outputs(), positions))[1, later].abs()
            for positions in (True, False)
        ]
    assert moves[0].max() == 0
    assert moves[1].amax(-1).min() > 1e-5, "without positions every later position moves: this test can fail"


@pytest.mark.parametrize("bag_size", BAG_SIZES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_of_documents_trains_as_rows_of_one_document_do(name, attention, bag_size):
    module = built(CONFIGS[name], attention, bag_size)
    loss = MultiHotCrossEntropy(bag_weights("uniform", bag_size))
    pieces = documents(bag_size)
    packed = batch_of([pieces], ROW_POSITIONS, bag_size)
    apply(module, packed, loss).backward()
    gradients = take_gradients(module)
    outputs, value = apply(module, packed, Outputs()), apply(module, packed, loss)

    start, total, positions = 0, 0.0, sum(-(-len(piece) // bag_size) - 1 for piece in pieces)
    for piece in pieces:
        length = -(-len(piece) // bag_size)
        alone = batch_of([[piece]], length, bag_size, isolate=False)
        there = outputs[:, start : start + length - 1]
        torch.testing.assert_close(apply(module, alone, Outputs(), False), there, rtol=1e-5, atol=1e-5)
        part = apply(module, alone, loss, False) * (length - 1) / positions
        part.backward()
        total, start = total + part.detach(), start + length
    torch.testing.assert_close(total, value.detach(), rtol=1e-5, atol=1e-5)
    for parameter, gradient in take_gradients(module).items():
        torch.testing.assert_close(gradient, gradients[parameter], rtol=1e-4, atol=1e-5, msg=parameter)


def take_gradients(module):
    gradients = {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.grad is not None}
    module.zero_grad()
    return gradients


@pytest.mark.gpu
@pytest.mark.parametrize("bag_size", BAG_SIZES)
def test_compiled_flex_attention_trains_packed_rows_on_a_gpu_as_a_dense_mask_does(bag_size):
    """Loss and gradients; and no gradient of the second document's loss reaches the first one's tokens."""
    loss = MultiHotCrossEntropy(bag_weights("uniform", bag_size))
    batch = {name: values.cuda() for name, values in batch_of([documents(bag_size)], ROW_POSITIONS, bag_size).items()}
    values, gradients = [], []
    for attention in ("sdpa", "flex_attention"):
        module = built(CONFIGS["llama"], attention, bag_size).cuda()
        values.append(apply(module, batch, loss))
        values[-1].backward()
        gradients.append(take_gradients(module))
    torch.testing.assert_close(*values, rtol=1e-3, atol=1e-3)
    for parameter, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][parameter], rtol=1e-2, atol=1e-3, msg=parameter)

    first, *others = documents(bag_size)
    only_later = {**batch, "targets": batch["targets"].clone()}
    only_later["targets"][:, : -(-len(first) // bag_size) - 1] = IGNORE
    table = module.get_input_embeddings().weight
    apply(module, only_later, loss).backward()
    alone = set(first.tolist()) - {int(token) for other in others for token in other}
    assert table.grad[sorted(alone)].abs().max() == 0
    assert table.grad[int(others[0][0])].abs().max() > 0


@pytest.mark.parametrize("loss", [MultiHotCrossEntropy(), MultiHotCrossEntropy((0.5, 0.25, 0.25), sliding=True)])
def test_no_target_crosses_into_another_document_or_padding(loss):
    """Single tokens that each predict one or, with output-only superposition, several that follow."""
    pieces = documents(1)
    batch = batch_of([pieces], ROW_POSITIONS, 1)
    expected = []
    for piece in pieces:
        for position in range(len(piece)):
            following = piece[position + 1 : position + 1 + len(loss.weights)].tolist()
            expected.append(following + [IGNORE] * (len(loss.weights) - len(following)))
    expected += [[IGNORE] * len(loss.weights)] * (ROW_POSITIONS - 1 - len(expected))
    assert loss.targets(batch["targets"]).tolist() == expected


def test_a_training_step_takes_targets_and_positions_of_the_batch():
    module = built(CONFIGS["llama"])
    module.log = lambda *arguments, **options: None
    batch = batch_of([documents(1)], ROW_POSITIONS, 1)
    tokens = {"tokens": batch["tokens"]}
    inputs, following = shift(batch["tokens"])
    loss = module.loss
    steps = [module.training_step(b, 0) for b in (batch, tokens | {"targets": batch["targets"]}, tokens)]
    expected = [
        module(inputs, batch["targets"], loss, batch["position_ids"])[0],
        module(inputs, batch["targets"], loss)[0],
        module(inputs, following, loss)[0],
    ]
    assert [step.item() for step in steps] == [value.item() for value in expected]
    assert len({step.item() for step in steps}) == 3


class NoQuestions(TorchDispatchMode):
    """Refuses what would make the host wait for a device: reading a tensor's value."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise AssertionError(f"{function} within a training step")
        return function(*args, **(kwargs or {}))


def packed_sequence_indices(position_ids):
    """As in transformers, without its look at whether there is anything packed."""
    steps = torch.diff(position_ids, prepend=position_ids[:, :1] - 1, dim=-1)
    return (steps != 1).cumsum(-1)


@pytest.mark.parametrize("bag_size", BAG_SIZES)
def test_a_step_on_packed_rows_does_not_wait_for_the_device(bag_size, monkeypatch):
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", packed_sequence_indices)
    module = built(CONFIGS["llama"], bag_size=bag_size)
    sliding = MultiHotCrossEntropy((0.5, 0.5), sliding=True)
    loss = sliding if bag_size == 1 else MultiHotCrossEntropy(bag_weights("uniform", bag_size))
    batch = batch_of([documents(bag_size)], ROW_POSITIONS, bag_size)
    apply(module, batch, loss)  # weights are copied to a device once
    with NoQuestions():
        apply(module, batch, loss).backward()


@pytest.mark.parametrize(("name", "attention"), SETTINGS)
def test_models_that_keep_documents_apart_are_accepted(name, attention):
    require_isolation(built(CONFIGS[name], attention).model)


OPT = transformers.OPTConfig(
    vocab_size=257, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=32
)
CONVOLUTIONS = transformers.Lfm2Config(**SIZES, layer_types=["conv", "full_attention"])
STATES = transformers.MambaConfig(vocab_size=257, hidden_size=32, num_hidden_layers=2, state_size=4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OPT, "in OPTForCausalLM a document sees those before it"),
        (CONVOLUTIONS, "in Lfm2ForCausalLM a document sees those before it"),
        (STATES, "needs a model that takes position_ids, and MambaForCausalLM does not"),
    ],
)
def test_models_that_mix_documents_are_refused(config, message):
    module = tiny_module(config)
    module.configure_model()
    with pytest.raises(UserError, match=f"{message}.*: set isolate_documents to false"):
        require_isolation(module.model)


def test_attention_that_knows_positions_in_some_batches_only_is_refused():
    model = built(CONFIGS["llama"]).model
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(UserError, match=r"'flash_attention_2' lets a document see the others.*use eager, sdpa"):
        require_isolation(model)


def test_a_model_without_finite_outputs_is_not_taken_for_a_safe_one():
    model = built(CONFIGS["llama"]).model
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(UserError, match="a document sees those before it"):
        require_isolation(model)


def test_the_look_at_a_model_changes_nothing_about_it():
    module = tiny_module(transformers.GPT2Config(**GPT2_SIZES))  # with dropout
    module.configure_model()
    module.model.transformer.h[0].eval()
    modes = {name: part.training for name, part in module.model.named_modules()}
    state = torch.get_rng_state()
    require_isolation(module.model)
    assert {name: part.training for name, part in module.model.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for weight in module.parameters())


@pytest.mark.parametrize("isolate", [True, False])
def test_a_run_that_would_leak_is_refused_before_it_trains(isolate, prepared_dir, tmp_path):
    data = tiny_data(prepared_dir)
    data.isolate_documents = isolate
    trainer = tiny_trainer(tmp_path, 1, [SuperpositionCallback(bag_size=4, step_ratio=0)])
    refusal = pytest.raises(UserError, match="OPTForCausalLM") if isolate else contextlib.nullcontext()
    with refusal:
        trainer.fit(tiny_module(OPT), datamodule=data)
    assert trainer.global_step == (0 if isolate else 1)


def test_flex_attention_is_refused_where_it_has_no_backward_pass():
    model = built(CONFIGS["llama"], "flex_attention").model
    require_isolation(model, trained_on="cuda")
    with pytest.raises(UserError, match="cannot be trained on a CPU"):
        require_isolation(model, trained_on="cpu")
