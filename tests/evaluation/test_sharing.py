"""Beginnings that run once: the scores of plain rows, where a model can, and plain rows where it cannot."""

import multiprocessing
import os
import socket
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen3MoeConfig,
)

from tst_lightning.evaluation.adapter import InMemoryLM, Shard
from tst_lightning.evaluation.forward import BatchScorer

MAX_LENGTH = 120
"""As many positions as the longest row needs; trees are longer."""
TINY = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 257, "initializer_range": 0.3}  # fmt: skip
ABLE = {
    "llama": LlamaConfig(**TINY),
    "learned positions": GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=257, n_positions=MAX_LENGTH, initializer_range=0.3
    ),
    "mixture": Qwen3MoeConfig(**TINY, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    "wide window": MistralConfig(**TINY, sliding_window=MAX_LENGTH),
}
UNABLE = {
    "narrow window": MistralConfig(**TINY, sliding_window=16),
    "alternating windows": Gemma2Config(**TINY, sliding_window=16, query_pre_attn_scalar=8),
    "alibi": BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=257, initializer_range=0.3),
    "recurrent": MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=257, state_size=4, initializer_range=0.3),
}
CONTEXTS = [f"Question number {i}: what is in the box of letters beside the window?" for i in range(6)]
PAIRS = [
    *((context, f" The {choice} is in the box.") for context in CONTEXTS for choice in ("a", "bed", "cup", "drum")),
    ("", "He bakes the loaves of bread."),
    ("", "He bakes the loaf of bread."),
    ("", "A lone sentence."),
]
TRIAL_TOKENS = 20 + 20 + 9 + 10 + 11
"""What ``can_share`` runs."""


def requests() -> list[SimpleNamespace]:
    return [SimpleNamespace(args=pair) for pair in PAIRS]


def make(config, attention: str = "eager") -> torch.nn.Module:
    torch.manual_seed(0)
    attentions = {} if config.model_type == "mamba" else {"attn_implementation": attention}
    return AutoModelForCausalLM.from_config(config, **attentions).eval()


@torch.no_grad()
def score(model, tokenizer, **options) -> tuple[list[tuple[float, bool]], int]:
    """Scores and how many tokens ran."""
    ran = []
    handle = model.register_forward_pre_hook(
        lambda _, __, keywords: ran.append(keywords["input_ids"].numel()), with_kwargs=True
    )
    found = InMemoryLM(model, tokenizer, max_length=MAX_LENGTH, **options).loglikelihood(requests())
    handle.remove()
    return found, sum(ran)


def assert_same(found: list, expected: list) -> None:
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("config", ABLE.values(), ids=ABLE)
def test_shared_scores_are_the_plain_ones(config, attention: str, tokenizer) -> None:
    model = make(config, attention)
    assert BatchScorer(model).can_share(MAX_LENGTH)
    expected, _ = score(model, tokenizer, share_beginnings=False)
    for batch_tokens in (1, 300, 10_000):
        found, tokens = score(model, tokenizer, batch_tokens=batch_tokens)
        assert_same(found, expected)
    # One row or tree a batch, so no padding.
    _, tokens = score(model, tokenizer, batch_tokens=1)
    _, plain_tokens = score(model, tokenizer, batch_tokens=1, share_beginnings=False)
    assert tokens - TRIAL_TOKENS < 0.6 * plain_tokens


@pytest.mark.parametrize("config", UNABLE.values(), ids=UNABLE)
def test_models_that_cannot_share_run_plain_rows(config, tokenizer) -> None:
    model = make(config)
    with torch.no_grad():
        assert not BatchScorer(model).can_share(MAX_LENGTH)
    expected, _ = score(model, tokenizer, share_beginnings=False)
    found, _ = score(model, tokenizer)
    assert found == expected


def test_a_model_that_ignores_its_mask_is_found_out(tokenizer) -> None:
    """Its rows without a mask are right, so only the trees would be wrong."""
    model = make(ABLE["llama"], "sdpa")
    forward = model.forward
    model.forward = lambda *positional, attention_mask=None, **keywords: forward(*positional, **keywords)
    with torch.no_grad():
        assert not BatchScorer(model).can_share(MAX_LENGTH)
    model.forward = lambda input_ids, use_cache: forward(input_ids=input_ids)
    with torch.no_grad():
        assert not BatchScorer(model).can_share(MAX_LENGTH)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_sharing_under_autocast(attention: str, tokenizer) -> None:
    model = make(ABLE["llama"], attention)
    exact, _ = score(model, tokenizer)
    rounded, _ = score(model, tokenizer, forward_context=partial(torch.autocast, "cpu", torch.bfloat16))
    differences = [abs(a - b) for (a, _), (b, _) in zip(exact, rounded, strict=True)]
    assert 1e-3 < max(differences) < 2


def _score_on_a_rank(rank: int, port: int, tokenizer_dir: str, results) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)

    def add_up(tensor: torch.Tensor) -> torch.Tensor:
        torch.distributed.all_reduce(tensor)
        return tensor

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    found, tokens = score(make(ABLE["llama"]), tokenizer, batch_tokens=100, shard=Shard(rank, 2, add_up))
    results.put((rank, found, tokens))
    torch.distributed.destroy_process_group()


def test_two_processes_share_the_work(tokenizer, items_dir: Path) -> None:
    """Each gets all scores and runs about half of the tokens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    arguments = (port, str(items_dir / "tokenizer"), results)
    processes = [context.Process(target=_score_on_a_rank, args=(rank, *arguments), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    expected, tokens = score(make(ABLE["llama"]), tokenizer, batch_tokens=100)
    for process in processes:
        process.join(timeout=300)
        assert process.exitcode == 0
    parts = [results.get() for _ in processes]
    assert {rank for rank, *_ in parts} == {0, 1}
    for _, found, ran in parts:
        assert_same(found, expected)
        assert ran - TRIAL_TOKENS < 0.6 * (tokens - TRIAL_TOKENS)
