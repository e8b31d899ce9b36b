"""Heads of multi-token prediction: what they predict, by brute force; what they are at first; what they cost nothing.

Runs with heads: see test_auxiliary.
"""

import numpy as np
import pytest
import torch
from runs import tiny_llama, tiny_module
from torch.nn import functional as F
from transformers import GPT2Config, GPTJConfig, GraniteConfig

from tst_lightning.auxiliary.multi_token import MultiToken, MultiTokenHeads, targets_ahead
from tst_lightning.bags import IGNORE
from tst_lightning.data.reading.packed_batch import packed_batch
from tst_lightning.errors import UserError
from tst_lightning.losses import MultiHotCrossEntropy

END_OF_TEXT = 256


def heads_of(model, heads=2, weight=0.1, seed=0):
    return MultiTokenHeads(model, MultiToken(heads, weight), seed)


@pytest.fixture
def model():
    return tiny_module().new_model(0)


# Targets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [1, 2, 4, 5, 9])
def test_targets_are_those_of_the_position_further_on(distance):
    targets = torch.arange(2 * 5 * 3, dtype=torch.int32).view(2, 5, 3)
    found = targets_ahead(targets, distance)
    assert found.dtype == targets.dtype
    for position in range(5):
        expected = targets[:, position + distance] if position + distance < 5 else torch.full((2, 3), IGNORE)
        assert torch.equal(found[:, position], expected.to(torch.int32))


@pytest.mark.parametrize("bag_size", [1, 3])
@pytest.mark.parametrize("distance", [1, 2, 3])
def test_targets_in_packed_rows_stay_in_their_document(bag_size, distance):
    """Against the bags of each document, made one by one: ids tell the document and the place in it."""
    lengths = [[7, 4, 1, 9], [2, 2, 3], [24]]
    rows = [[100 * i + np.arange(n, dtype=np.int32) for i, n in enumerate(row)] for row in lengths]
    positions = 26
    batch = packed_batch(rows, positions, bag_size, END_OF_TEXT, isolate=True)
    found = targets_ahead(
        torch.from_numpy(batch["targets"]), distance, torch.from_numpy(batch["position_ids"])
    ).tolist()
    for number, row in enumerate(lengths):
        expected = []
        for document, length in enumerate(row):
            bags = -(-length // bag_size)
            padded = [100 * document + place if place < length else IGNORE for place in range(bags * bag_size)]
            by_bag = [padded[bag * bag_size : (bag + 1) * bag_size] for bag in range(bags)]
            expected += by_bag[1 + distance :] + [[IGNORE] * bag_size] * min(bags, 1 + distance)
        expected += [[IGNORE] * bag_size] * (positions - len(expected))
        assert found[number] == expected[:-1]


# What the heads are trained on ------------------------------------------------------------------------------


class Recorded:
    """A loss that keeps what it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, hidden, output, targets, weights):
        self.calls.append((hidden, output, targets, weights))
        return hidden.sum() * 0 + len(self.calls)


def test_each_head_has_its_distance_and_the_mean_its_weight(model):
    heads, loss = heads_of(model, heads=3, weight=0.5), Recorded()
    hidden, output = torch.randn(2, 6, 16), torch.randn(257, 16)
    targets, weights = torch.randint(257, (2, 6, 4)), torch.rand(2, 6, 4)
    total = heads(hidden, output, loss, targets, weights)
    assert total.item() == 0.5 * (1 + 2 + 3) / 3
    for distance, (_, given, ids, of_ids) in enumerate(loss.calls, start=1):
        assert given is output
        assert torch.equal(ids[:, :-distance], targets[:, distance:])
        assert (ids[:, -distance:] == IGNORE).all()
        assert torch.equal(of_ids[:, :-distance], weights[:, distance:])


@pytest.mark.parametrize(("bag_size", "sliding"), [(1, False), (4, False), (4, True)])
def test_the_loss_is_that_of_every_position_by_itself(model, bag_size, sliding):
    """Untrained heads are the identity: the mean cross-entropy of position j's logits and the tokens further on."""
    rows, length = 2, 6
    heads = heads_of(model, heads=2, weight=1.0).double()
    hidden, output = torch.randn(rows, length, 16).double(), torch.randn(257, 16).double()
    single = 1 if sliding else bag_size
    targets = torch.randint(257, (rows, length, single))
    weights = tuple(w / 10 for w in (1, 2, 3, 4)) if bag_size == 4 else (1.0,)
    found = heads(hidden, output, MultiHotCrossEntropy(weights, sliding=sliding), targets)
    logits = hidden @ output.T
    expected = []
    for k in (1, 2):
        of_positions = []
        for row in range(rows):
            for j in range(length - k):
                ids = targets[row, j + k] if not sliding else targets[row, j + k : j + k + bag_size, 0]
                used = torch.tensor(weights[: len(ids)]).double()
                each = F.cross_entropy(logits[row, j].expand(len(ids), -1), ids, reduction="none")
                of_positions.append((each * used).sum() / used.sum())
        expected.append(torch.stack(of_positions).mean())
    torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("head", [1, 2])
def test_a_head_learns_what_lies_its_distance_further(model, head):
    """Bags are uniform but for one; the hidden state that its loss pulls on is the one that far before it."""
    length, special = 8, 5  # the special bag is the main head's target at position 5
    heads = heads_of(model, heads=2, weight=1.0)
    hidden = torch.zeros(1, length, 16, requires_grad=True)
    output = torch.zeros(257, 16)
    output[7] = torch.randn(16)
    targets = torch.full((1, length, 4), IGNORE)
    targets[0, special] = 7
    losses = []

    def loss(*arguments):
        losses.append(MultiHotCrossEntropy((0.25,) * 4)(*arguments))
        return losses[-1]

    heads(hidden, output, loss, targets)
    losses[head - 1].backward()
    pulled = hidden.grad[0].abs().sum(-1).nonzero().flatten().tolist()
    assert pulled == [special - head]


# What the heads are ------------------------------------------------------------------------------------------


def test_heads_begin_as_the_identity_and_learn(model):
    head = heads_of(model, heads=1).heads[0]
    hidden = torch.randn(3, 16)
    assert torch.equal(head(hidden), hidden)
    head(hidden).square().sum().backward()
    assert head.down.weight.grad.abs().sum() > 0
    assert head.up.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_their_weights_depend_on_the_seed_alone(model):
    def up(seed, drawn_before):
        torch.manual_seed(drawn_before)
        return [head.up.weight for head in heads_of(model, seed=seed).heads]

    first, second = up(1, drawn_before=5), up(1, drawn_before=6)
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], up(2, drawn_before=5)[0])
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    heads_of(model)
    assert torch.rand(1) == expected


# Refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": -1}, r"multi_token.heads=-1"),
        ({"weight": -0.1}, r"multi_token.weight=-0.1"),
        ({"weight": float("nan")}, r"multi_token.weight=nan"),
        ({"weight": float("inf")}, r"multi_token.weight=inf"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        MultiToken(**options)


def test_models_whose_logits_are_more_than_a_product_are_refused():
    granite = GraniteConfig(**tiny_llama().to_diff_dict() | {"model_type": "granite", "logits_scaling": 8.0})
    sizes = {"vocab_size": 257, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    for config, message in (
        (granite, "GraniteForCausalLM rescales them"),
        (GPTJConfig(**sizes, rotary_dim=4), "GPTJForCausalLM adds a bias to them"),
    ):
        with pytest.raises(UserError, match=message):
            tiny_module(config, multi_token=MultiToken()).configure_model()
    tiny_module(GPT2Config(**sizes), multi_token=MultiToken()).configure_model()
