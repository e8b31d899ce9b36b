"""The adapter against one plain forward pass per request, in float64."""

import copy
import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, Cohere2Config, Gemma2Config, GPT2Config, Qwen3MoeConfig

from tst_lightning.errors import UserError
from tst_lightning.evaluation.adapter import InMemoryLM, Shard

END_OF_TEXT = 256

PAIRS = [
    ("The cat sat on the", " mat"),
    ("The cat sat on the", " dog and more"),
    ("The cat sat on the", " m"),
    ("The cat sat on the", " n"),
    ("trailing space ", "word"),
    ("", "no context"),
    ("a long context " * 20, "tail"),
    ("é", " ümlaut"),
    ("The cat sat on the", " mat"),
]


def requests(pairs: list[tuple[str, ...]]) -> list[SimpleNamespace]:
    return [SimpleNamespace(args=pair) for pair in pairs]


def encode(text: str, tokenizer) -> list[int]:
    return tokenizer(text)["input_ids"]


def plain_score(model, inputs: list[int], targets: list[int]) -> tuple[float, bool]:
    """Sum of log-probabilities of ``targets``, the last of which follows the whole of ``inputs``."""
    # Grouped matrix products of experts have no float64 kernel.
    model = copy.deepcopy(model).to(torch.float32 if model.config.model_type.endswith("moe") else torch.float64)
    with torch.no_grad():
        logits = model.eval()(torch.tensor([inputs])).logits[0, -len(targets) :].log_softmax(-1)
    picked = logits[range(len(targets)), targets]
    return picked.sum().item(), logits.argmax(-1).tolist() == targets


def plain_loglikelihood(model, tokenizer, context: str, continuation: str, max_length: int):
    if context:
        stripped = context.rstrip()
        context_ids = encode(stripped, tokenizer)
        ids = encode(context + continuation, tokenizer)
    else:
        context_ids = [END_OF_TEXT]
        ids = context_ids + encode(continuation, tokenizer)
    targets = ids[len(context_ids) :]
    return plain_score(model, ids[-max_length - 1 : -1], targets)


@pytest.mark.parametrize("batch_tokens", [1, 100, 16384])
def test_loglikelihood_equals_a_forward_pass_per_request(model, tokenizer, batch_tokens: int) -> None:
    expected = [plain_loglikelihood(model, tokenizer, *pair, max_length=64) for pair in PAIRS]
    with torch.no_grad():
        adapter = InMemoryLM(model.eval(), tokenizer, batch_tokens=batch_tokens)
        found = adapter.loglikelihood(requests(PAIRS))
    for (log_likelihood, greedy), (wanted, wanted_greedy) in zip(found, expected, strict=True):
        assert log_likelihood == pytest.approx(wanted, abs=1e-4)
        assert greedy == wanted_greedy


def test_greedy_continuations_are_recognised(model, tokenizer) -> None:
    model.eval()
    ids = encode("Once upon", tokenizer)
    with torch.no_grad():
        for _ in range(3):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        greedy = ids[-3:]
        other = [*greedy[:2], (greedy[2] + 1) % 256]
        adapter = InMemoryLM(model, tokenizer)
        found = adapter._loglikelihood_tokens([(None, ids[:-3], greedy), (None, ids[:-3], other)])
    assert [flag for _, flag in found] == [True, False]


@pytest.mark.parametrize("max_length", [5, 12])
def test_continuation_longer_than_the_model_is_scored_whole(model, tokenizer, max_length: int) -> None:
    context, continuation = encode("start", tokenizer), encode("a rather long continuation", tokenizer)
    with torch.no_grad():
        adapter = InMemoryLM(model.eval(), tokenizer, max_length=max_length)
        ((found, _),) = adapter._loglikelihood_tokens([(None, context, continuation)])
    # Independent of how it is cut: each token once, with at least half the model's length before it.
    ids, stride = context + continuation, max_length // 2
    expected = 0.0
    for start in range(len(context), len(ids), stride):
        targets = ids[start : start + stride]
        expected += plain_score(model, ids[: start + len(targets)][-max_length - 1 : -1], targets)[0]
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("text", ["short", "x" * 64, "a text of more than two windows " * 5, ""])
def test_rolling_scores_every_token_once(model, tokenizer, text: str) -> None:
    ids, length = [END_OF_TEXT, *encode(text, tokenizer)], 64
    expected = 0.0
    for start in range(1, len(ids), length):
        end = min(start + length, len(ids))
        inputs = ids[:end][-length - 1 : -1] if start > 1 else ids[: end - 1]
        expected += plain_score(model, inputs, ids[start:end])[0]
    with torch.no_grad():
        (found,) = InMemoryLM(model.eval(), tokenizer).loglikelihood_rolling(requests([(text,)]))
    assert found == pytest.approx(expected, abs=3e-4)


TINY = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 257, "initializer_range": 0.3}  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**TINY, final_logit_softcapping=2.0, query_pre_attn_scalar=8),
        Cohere2Config(**TINY, logit_scale=0.25, eos_token_id=1),
        Qwen3MoeConfig(**TINY, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
        GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=257, n_positions=64, initializer_range=0.3),
    ],
    ids=["softcapped", "scaled", "mixture", "learned positions"],
)
def test_other_architectures_and_their_logit_changes(config, tokenizer) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    pairs = PAIRS[:6]
    with torch.no_grad():
        found = InMemoryLM(model, tokenizer, max_length=64).loglikelihood(requests(pairs))
    for pair, (log_likelihood, greedy) in zip(pairs, found, strict=True):
        wanted, wanted_greedy = plain_loglikelihood(model, tokenizer, *pair, max_length=64)
        assert log_likelihood == pytest.approx(wanted, abs=1e-4)
        assert greedy == wanted_greedy


def test_head_sees_scored_positions_only(model, tokenizer) -> None:
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    with torch.no_grad():
        InMemoryLM(model.eval(), tokenizer).loglikelihood(requests([("a context", " abc"), ("another", " de")]))
    assert seen == [(1, 4 + 3, 32)]


def test_full_logits_where_the_model_hides_its_head(model, tokenizer) -> None:
    with torch.no_grad():
        expected = InMemoryLM(model.eval(), tokenizer).loglikelihood(requests(PAIRS))
        model.get_output_embeddings = lambda: None
        found = InMemoryLM(model, tokenizer).loglikelihood(requests(PAIRS))
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)


def test_shared_inputs_run_once(model, tokenizer) -> None:
    rows = []
    model.register_forward_hook(
        lambda _, __, keywords, ___: rows.append(keywords["input_ids"].shape[0]), with_kwargs=True
    )
    choices = [("Question? Answer:", f" {letter}") for letter in "ABCD"]
    with torch.no_grad():
        found = InMemoryLM(model.eval(), tokenizer).loglikelihood(requests(choices))
    assert len({value for value, _ in found}) == 4
    assert sum(rows) == 1  # " A" is two bytes: the space is the input's last token, the letters are only targets


def test_autocast_reaches_the_body_and_the_softmax_is_float32(model, tokenizer) -> None:
    with torch.no_grad():
        exact = InMemoryLM(model.eval(), tokenizer).loglikelihood(requests(PAIRS))
        rounded = InMemoryLM(
            model, tokenizer, forward_context=lambda: torch.autocast("cpu", torch.bfloat16)
        ).loglikelihood(requests(PAIRS))
    differences = [abs(a - b) for (a, _), (b, _) in zip(exact, rounded, strict=True)]
    assert 1e-3 < max(differences) < 2
    # One token each: a log-softmax in bfloat16 would give a value that bfloat16 holds.
    single = requests([("The cat sat on the ma", letter) for letter in "tabcdefg"])
    with torch.no_grad():
        values = InMemoryLM(
            model, tokenizer, forward_context=lambda: torch.autocast("cpu", torch.bfloat16)
        ).loglikelihood(single)
    assert any(value != torch.tensor(value).bfloat16().item() for value, _ in values)


@pytest.mark.parametrize("batch_tokens", [1, 100, 16384])
@pytest.mark.parametrize("world_size", [2, 3])
def test_shards_add_up_with_equal_numbers_of_forward_passes(
    model, tokenizer, batch_tokens: int, world_size: int
) -> None:
    model.eval()
    parts, passes = [], []
    model.register_forward_hook(lambda *_: passes.append(len(parts)))
    with torch.no_grad():
        expected = InMemoryLM(model, tokenizer, batch_tokens=batch_tokens).loglikelihood(requests(PAIRS))
        passes.clear()
        for rank in range(world_size):
            # The other ranks agree that beginnings can be shared; the scores are summed below.
            shard = Shard(rank, world_size, lambda t: t * world_size if t.ndim == 1 else parts.append(t) or t)
            InMemoryLM(model, tokenizer, batch_tokens=batch_tokens, shard=shard).loglikelihood(requests(PAIRS))
    assert len({passes.count(rank) for rank in range(world_size)}) == 1
    summed = sum(parts)
    assert summed[:, 0].tolist() == pytest.approx([value for value, _ in expected], abs=1e-9)
    assert [misses == 0 for misses in summed[:, 1].tolist()] == [greedy for _, greedy in expected]


def test_bounded_logits(model, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tst_lightning.evaluation.adapter._SCORED_LOGITS_PER_BATCH", 257 * 15)
    sizes = []
    model.get_output_embeddings().register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[1]))
    pairs = [(f"context {i}", " continued") for i in range(7)]
    with torch.no_grad():
        found = InMemoryLM(model.eval(), tokenizer, share_beginnings=False).loglikelihood(requests(pairs))
    assert sizes == [10] * 7
    assert all(math.isfinite(value) for value, _ in found)


def test_tokenizer_of_another_model_is_refused(model, tokenizer) -> None:
    model.config.vocab_size = 200
    with pytest.raises(UserError, match="257 tokens, the model's vocabulary 200"):
        InMemoryLM(model, tokenizer, forward_context=nullcontext)


def test_generation_is_refused(model, tokenizer) -> None:
    with pytest.raises(UserError, match="generate text"):
        InMemoryLM(model, tokenizer).generate_until([])
