"""Weights of a model's files one after the other are those of ``from_pretrained``, bit by bit."""

import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_filled_shards import process  # noqa: F401
from torch import nn

from tst_lightning.modeling import pretrained_weights
from tst_lightning.modeling.building import pretrained_config, pretrained_model
from tst_lightning.modeling.initial_weights import NotByLayerError, outline
from tst_lightning.modeling.pretrained_weights import fill_shards_from, read_weights
from tst_lightning.modeling.sharding import shard

SIZES = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 32}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
MODELS = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "gpt2 of the hub": ("gpt2", {}),
    "qwen3": ("qwen3", {}),
    "experts apart in the files": ("qwen3_moe", EXPERTS),
}


def saved(folder, kind="llama", dtype=torch.float32, file_size="1MB", **changes):
    """A folder with a model of which no weight is what a new one has."""
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.CONFIG_MAPPING[kind](**SIZES | ids | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder, max_shard_size=file_size)
    return str(folder)


def read(name):
    found = {}
    names = set(dict(outline(pretrained_config(name)).named_parameters()))
    read_weights(name, names, lambda key, value: found.update({key: value.clone()}))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_each_weight_comes_once_as_in_the_whole_model(tmp_path, name, dtype):
    kind, changes = MODELS[name]
    folder = saved(tmp_path, kind, dtype, file_size="20KB" if name == "llama" else "1MB", **changes)
    if name == "gpt2 of the hub":  # the body's names alone
        change_files(tmp_path, lambda values: {key.removeprefix("transformer."): v for key, v in values.items()})
    state = torch.random.get_rng_state()
    found, expected = read(folder), dict(pretrained_model(folder, 0).named_parameters())
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == torch.float32
        assert torch.equal(found[key], value), key
    assert torch.equal(torch.random.get_rng_state(), state)
    in_files = {key for file in tmp_path.glob("*.safetensors") for key in load_file(file)}
    assert (in_files != found.keys()) == (name in ("experts apart in the files", "gpt2 of the hub"))
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (name == "llama" and dtype == torch.float32)


def change_files(folder, change):
    for file in folder.glob("*.safetensors"):
        save_file(change(load_file(file)), file, {"format": "pt"})


def test_files_with_other_weights_are_not_read_so(tmp_path):
    """Of a body alone, without the head; and with a tied weight twice."""
    folder = saved(tmp_path / "lacks")
    change_files(tmp_path / "lacks", lambda values: {k: v for k, v in values.items() if "layers.1.mlp.up" not in k})
    with pytest.raises(NotByLayerError, match=r"its files lack 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        read(folder)
    folder = saved(tmp_path / "twice", tie_word_embeddings=True)
    change_files(
        tmp_path / "twice", lambda values: values | {"lm_head.weight": values["model.embed_tokens.weight"] + 1}
    )
    with pytest.raises(NotByLayerError, match=r"its files hold 'lm_head\.weight', which is tied"):
        read(folder)
    assert pretrained_model(folder, 0) is not None  # what was replaced in transformers is back


def test_a_release_without_the_module_that_loads_is_no_end(tmp_path, monkeypatch):
    """It is private: another release may have another, and then whole models are loaded."""
    folder = saved(tmp_path)
    monkeypatch.delattr(sys.modules["transformers"], "core_model_loading", raising=False)
    monkeypatch.setitem(sys.modules, "transformers.core_model_loading", None)
    with pytest.raises(NotByLayerError, match="this release of transformers loads in another way"):
        read(folder)


def filled(folder, mesh):
    module = nn.Module()
    module.model = outline(pretrained_config(folder))
    shard(module, module.model, mesh)
    fill_shards_from(folder, module, module.model, seed=0)
    return module.model


@pytest.mark.parametrize("lacks", [False, True])
def test_a_process_has_its_rows_of_every_weight(process, tmp_path, monkeypatch, lacks):  # noqa: F811
    """Also where the files lack a weight: then the model is loaded whole, and it is said."""
    said = []
    monkeypatch.setattr(pretrained_weights, "rank_zero_warn", said.append)
    folder = saved(tmp_path, "qwen3_moe", **EXPERTS)
    if lacks:
        change_files(tmp_path, lambda values: {k: v for k, v in values.items() if k != "lm_head.weight"})
    model, whole = filled(folder, process(2, 1)), pretrained_model(folder, 0)
    for name, value in whole.named_parameters():
        assert torch.equal(model.get_parameter(name).to_local(), value.chunk(2)[1]), name
    for name, value in whole.named_buffers():
        assert torch.equal(model.get_buffer(name), value), name
    assert len(said) == lacks
    assert not lacks or "loads the whole of" in said[0]
