"""Random weights a layer at a time are those of the whole model, bit by bit."""

import pytest
import torch
import transformers
from runs import tiny_llama
from torch import nn

from tst_lightning.modeling.building import new_model, new_vocabulary
from tst_lightning.modeling.initial_weights import NotByLayerError, draw_weights, outline

SIZES = {"vocab_size": 57, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
EXPERTS = {"moe_intermediate_size": 8, "num_experts_per_tok": 2}
CONFIGS = {
    "Llama": {"pad_token_id": 3},  # whose row of the embedding is zero
    "SmolLM3": {"pad_token_id": 3},
    "Gemma3Text": {},
    "GPTNeoX": {},
    "Qwen3Moe": EXPERTS | {"num_experts": 4},  # experts in tensors of three dimensions
    "GptOss": {"num_local_experts": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "Qwen3Next": EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 8},
    "NemotronH": {},
    "Jamba": {},
}  # fmt: skip


def config_of(name, **changes):
    values = SIZES | {"bos_token_id": None, "eos_token_id": None} | CONFIGS[name] | changes
    return getattr(transformers, f"{name}Config")(**values)


GPT2 = transformers.GPT2Config(
    vocab_size=57, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1
)
BLOOM = transformers.BloomConfig(vocab_size=57, hidden_size=32, n_layer=2, n_head=2)
ALL = [
    (f"{name}, tied={tied}", config_of(name, tie_word_embeddings=tied)) for name in CONFIGS for tied in (False, True)
]
ALL += [("GPT2", GPT2), ("Bloom", BLOOM)]


@pytest.mark.parametrize(("name", "config"), ALL, ids=[name for name, _ in ALL])
def test_each_weight_comes_once_with_the_bits_of_the_whole_model(name, config):
    whole = new_model(config, 7)
    expected = dict(whole.named_parameters()) | dict(whole.named_buffers())
    state, drawn = torch.get_rng_state(), {}

    def take(name, value):
        assert name not in drawn
        drawn[name] = value.clone()

    draw_weights(config, 7, take)
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(drawn[name], value), name


@pytest.mark.parametrize("tied", [False, True])
def test_an_outline_has_shapes_ties_and_buffers_but_no_weights(tied):
    config = config_of("Llama", tie_word_embeddings=tied)
    model, whole = outline(config), new_model(config, 0)
    assert all(parameter.is_meta for parameter in model.parameters())
    for name, parameter in whole.named_parameters():
        assert model.get_parameter(name).shape == parameter.shape
        assert model.get_parameter(name).dtype == parameter.dtype
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    buffers = dict(whole.named_buffers())
    assert buffers
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("tied", [False, True])
def test_embedding_and_head_alone(tied):
    config = config_of("Llama", tie_word_embeddings=tied)
    model, whole = new_vocabulary(config, 5), new_model(config, 5)
    for part in ("get_input_embeddings", "get_output_embeddings"):
        assert torch.equal(getattr(model, part)().weight, getattr(whole, part)().weight)
    assert sum(not parameter.is_meta for parameter in model.parameters()) == (1 if tied else 2)


def test_no_more_than_a_layer_exists_at_a_time():
    config = tiny_llama(num_hidden_layers=4, hidden_size=64, intermediate_size=128, vocab_size=128)
    whole = new_model(config, 0)
    layer = sum(parameter.nbytes for parameter in whole.model.layers[0].parameters())
    largest = max(layer, whole.lm_head.weight.nbytes)
    live, highest = {}, 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        """Follows the memory of tensors that are made; what is no longer referenced is gone."""

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal highest
            made = function(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and not made.is_meta and made.is_floating_point():
                live[made.untyped_storage().data_ptr()] = made.untyped_storage()._weak_ref(), made.nbytes
            alive = {place: entry for place, entry in live.items() if not torch.UntypedStorage._expired(entry[0])}
            highest = max(highest, sum(size for _, size in alive.values()))
            return made

    with Watch():
        draw_weights(config, 0, lambda name, value: None)
    assert layer <= highest <= 1.5 * largest
    assert 4 * largest < sum(parameter.nbytes for parameter in whole.parameters())


def with_init(monkeypatch, init):
    before = transformers.LlamaPreTrainedModel._init_weights

    def init_weights(model, module):
        before(model, module)
        init(module)

    monkeypatch.setattr(transformers.LlamaPreTrainedModel, "_init_weights", init_weights)


def test_a_model_that_initialises_across_layers_is_not_drawn_by_layer(monkeypatch):
    def scale_first_layer(module):
        if isinstance(module, transformers.LlamaModel):
            nn.init.normal_(module.layers[0].mlp.down_proj.weight)

    with_init(monkeypatch, scale_first_layer)
    with pytest.raises(NotByLayerError, match="across layers"):
        draw_weights(tiny_llama(), 0, lambda name, value: None)


def test_weights_that_only_a_constructor_fills_are_noticed(monkeypatch):
    before = transformers.models.llama.modeling_llama.LlamaMLP.__init__

    def with_scale(module, config):
        before(module, config)
        module.scale = nn.Parameter(torch.full((1,), 0.5))

    monkeypatch.setattr(transformers.models.llama.modeling_llama.LlamaMLP, "__init__", with_scale)
    with pytest.raises(NotByLayerError, match=r"mlp\.scale' is not filled"):
        draw_weights(tiny_llama(), 0, lambda name, value: None)
    assert not new_vocabulary(tiny_llama(), 0).get_input_embeddings().weight.is_meta
