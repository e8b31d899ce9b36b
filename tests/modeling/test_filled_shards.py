"""Shards of weights that no process has had in whole: each is its part of the whole model's, bit by bit.

``FakeStore`` and the backend of that name stand in for the other processes: nothing is sent while shards are filled.
Always for the same others: torch remembers parts by the mesh, and not by whose they are.
"""

import warnings

import pytest
import torch
import transformers
from runs import tiny_llama
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from tst_lightning.auxiliary.losses import AuxiliaryLosses
from tst_lightning.auxiliary.multi_token import MultiToken
from tst_lightning.modeling import sharding
from tst_lightning.modeling.building import new_model
from tst_lightning.modeling.initial_weights import outline

MIXTURE = transformers.Qwen3MoeConfig(
    vocab_size=57, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, num_experts=5,
    num_experts_per_tok=2, moe_intermediate_size=8, bos_token_id=None, eos_token_id=None, pad_token_id=3,
)  # fmt: skip


@pytest.fixture
def process():
    """Makes this process the last of several: ``process(data, tensor)`` is their mesh."""

    def begin(data, tensor):
        last = data * tensor - 1
        distributed.init_process_group("fake", rank=last, world_size=last + 1, store=FakeStore())
        return init_device_mesh("cpu", (data, tensor), mesh_dim_names=("data_parallel", "tensor_parallel"))

    yield begin
    distributed.destroy_process_group()


def filled(config, mesh, seed=7, heads=0):
    module = nn.Module()
    module.model = outline(config)
    module.auxiliary_losses = AuxiliaryLosses(module.model, MultiToken(heads=heads), seed)
    sharding.shard(module, module.model, mesh)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that the whole model was built after all
        sharding.fill_shards(module, module.model, config, seed)
    return module


@pytest.mark.parametrize("config", [MIXTURE, tiny_llama(tie_word_embeddings=True)], ids=["mixture", "tied"])
def test_a_process_has_its_rows_of_every_weight(process, config):
    module, whole = filled(config, process(2, 1), heads=1), new_model(config, 7)
    expected = {f"model.{name}": value for name, value in whole.named_parameters()}
    expected |= {
        f"auxiliary_losses.{name}": value
        for name, value in AuxiliaryLosses(whole, MultiToken(heads=1), 7).named_parameters()
    }
    shards = dict(module.named_parameters())
    assert shards.keys() == expected.keys()
    for name, value in expected.items():
        rows = value.chunk(2)
        mine = rows[1] if len(rows) > 1 else value[:0]
        assert torch.equal(shards[name].to_local(), mine), name
    buffers = dict(whole.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in module.model.named_buffers())


def test_with_tensor_parallelism_too(process):
    """Processes 0 and 1, 2 and 3 split matrices; then each of a pair shares its part with one of the other."""
    config = tiny_llama()
    module, whole = filled(config, process(2, 2)), new_model(config, 7)
    for name, split_dim in (("q_proj", 0), ("o_proj", 1)):
        mine = getattr(module.model.model.layers[1].self_attn, name).weight.to_local()
        weight = getattr(whole.model.layers[1].self_attn, name).weight
        assert torch.equal(mine, weight.chunk(2, split_dim)[1].chunk(2)[1]), name
    head = module.model.lm_head.weight.to_local()
    assert torch.equal(head, whole.lm_head.weight.chunk(2)[1])


def test_models_of_another_kind_are_built_whole_with_a_warning(process, monkeypatch):
    mesh = process(2, 1)

    def refuse(*_):
        raise sharding.NotByLayerError("it is of another kind")

    monkeypatch.setattr(sharding, "draw_weights", refuse)
    said = []
    monkeypatch.setattr(sharding, "rank_zero_warn", said.append)
    module = filled(tiny_llama(), mesh)
    assert said == ["every process builds the whole LlamaForCausalLM before it keeps its shards: it is of another kind"]
    whole = new_model(tiny_llama(), 7)
    for name, value in whole.named_parameters():
        assert torch.equal(module.model.get_parameter(name).to_local(), value.chunk(2)[1]), name
