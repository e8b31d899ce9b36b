"""A tiny model, a byte-level tokenizer and held-out items, for the evaluation tests."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from tst_lightning.data.preparing.heldout import CONTINUATION, LAST_WORD


def write_byte_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)


@pytest.fixture(scope="session")
def items_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As much of a prepared data folder as evaluation reads: 12 items a task and a tokenizer."""
    folder = tmp_path_factory.mktemp("items")
    (folder / "evaluation").mkdir()
    words = ["river", "mountain", "letter", "window"]
    last_word = [
        {"context": f"The {words[i % 4]} number {i} was seen near the", "target": words[i % 4]} for i in range(12)
    ]
    continuation = [
        {
            "context": f"On day {i} they went to the",
            "choices": [f"{word} and came home {i}" for word in words],
            "label": i % 4,
        }
        for i in range(12)
    ]
    for task, items in ((LAST_WORD, last_word), (CONTINUATION, continuation)):
        text = "".join(json.dumps(item) + "\n" for item in items)
        (folder / "evaluation" / f"{task}.jsonl").write_text(text)
    write_byte_tokenizer(folder / "tokenizer")
    return folder


@pytest.fixture(scope="session")
def tokenizer(items_dir: Path):
    return AutoTokenizer.from_pretrained(items_dir / "tokenizer")


@pytest.fixture
def model() -> torch.nn.Module:
    """Random weights, wide enough that every token has its own probability; dropout, so modes matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=257,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            attention_dropout=0.2,
            initializer_range=0.2,
        )
        return AutoModelForCausalLM.from_config(config)
