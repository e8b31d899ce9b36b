"""Any Hugging Face causal LM: training in both phases, checkpoint, export, and the same model read back."""

from pathlib import Path

import pytest
import torch
from runs import tiny_data, tiny_module, tiny_trainer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    Olmo2Config,
    PretrainedConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from callbacks import SuperpositionCallback
from tst_lightning.modeling.export import export

SWITCH, STEPS = 3, 6
WIDTH = {"vocab_size": 257, "bos_token_id": None, "eos_token_id": 256, "pad_token_id": None}
SIZES = WIDTH | {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 64}
HEADS = SIZES | {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
CONFIGS = {
    "llama": (LlamaConfig, HEADS),
    "smollm3": (SmolLM3Config, HEADS | {"no_rope_layer_interval": 2}),
    "qwen3": (Qwen3Config, HEADS),
    "qwen3_moe": (Qwen3MoeConfig, HEADS | EXPERTS),
    "qwen3_moe_router_loss": (Qwen3MoeConfig, HEADS | EXPERTS | {"output_router_logits": True}),
    "olmo2": (Olmo2Config, HEADS),
    "gemma3": (Gemma3TextConfig, HEADS | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}),
    "gpt2": (GPT2Config, WIDTH | {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}),
}


def config_of(name: str, tied: bool) -> PretrainedConfig:
    kind, options = CONFIGS[name]
    return kind(**options, tie_word_embeddings=tied)


def is_tied(model: torch.nn.Module) -> bool:
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", CONFIGS)
def test_fit_export_and_read_back(name: str, tied: bool, prepared_source: Path, tmp_path: Path) -> None:
    module = tiny_module(config_of(name, tied))
    superposition = SuperpositionCallback(bag_size=2, step_ratio=SWITCH / STEPS)
    trainer = tiny_trainer(tmp_path, STEPS, [superposition], save_every=SWITCH)
    trainer.fit(module, datamodule=tiny_data(prepared_source))
    model = module.model.eval()
    initial = module.new_model(module.init_seed).state_dict()
    at_switch = torch.load(tmp_path / "checkpoints" / f"step={SWITCH}.ckpt", mmap=True)["state_dict"]
    for key, trained in model.state_dict().items():
        if trained.is_floating_point():
            assert not torch.equal(at_switch[f"model.{key}"], initial[key]), f"{key} did not move in superposition"
            assert not torch.equal(at_switch[f"model.{key}"], trained), f"{key} did not move in recovery"

    export(str(tmp_path / "checkpoints" / "last.ckpt"), str(tmp_path / "exported"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", local_files_only=True)
    assert type(loaded) is type(model)
    assert is_tied(loaded) == is_tied(model) == tied
    assert loaded.state_dict().keys() == model.state_dict().keys()
    prompt = AutoTokenizer.from_pretrained(tmp_path / "exported")(["The fox", "and the"], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(loaded(**prompt).logits, model(**prompt).logits)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "eos_token_id": 256, "pad_token_id": 256}
    generated = loaded.generate(**prompt, **options)
    assert generated.shape == (2, 7 + 4)
    assert torch.equal(generated, model.generate(**prompt, **options))
