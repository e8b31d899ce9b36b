"""Folding and superposing, against loops written out."""

import math

import pytest
import torch
from torch import nn

from tst_lightning.bags import IGNORE, bag_weights, fold, shift, sliding_bags, superpose, superpose_embedding
from tst_lightning.errors import UserError


def test_fold_keeps_the_order_of_tokens():
    tokens = torch.arange(2 * 12).view(2, 12)
    bags = fold(tokens, 4)
    assert bags.shape == (2, 3, 4)
    for row in range(2):
        for position in range(3):
            assert bags[row, position].tolist() == tokens[row, position * 4 : position * 4 + 4].tolist()


def test_fold_refuses_a_length_that_does_not_divide():
    with pytest.raises(UserError, match="10 tokens do not fold into bags of 4"):
        fold(torch.zeros(2, 10), 4)


def test_shift_gives_every_position_a_whole_target_bag():
    inputs, targets = shift(fold(torch.arange(12).view(1, 12), 3))
    assert inputs.tolist() == [[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]
    assert targets.tolist() == [[[3, 4, 5], [6, 7, 8], [9, 10, 11]]]


def test_shift_agrees_with_the_papers_listing_on_all_positions_but_the_last():
    """The paper reads L*s + 1 tokens: inputs are the first L*s in bags, labels the next bag, the last one padded."""
    bag_size, length = 3, 5
    tokens = torch.arange((length + 1) * bag_size)
    inputs, targets = shift(fold(tokens[None], bag_size))
    paper_inputs = tokens[: length * bag_size].view(length, bag_size)
    flat_labels = torch.full((length * bag_size,), IGNORE)
    flat_labels[:-bag_size] = tokens[bag_size : length * bag_size]
    flat_labels[-bag_size] = tokens[length * bag_size]
    paper_labels = flat_labels.view(length, bag_size)
    assert torch.equal(inputs[0], paper_inputs)
    assert torch.equal(targets[0, :-1], paper_labels[:-1])


def test_sliding_bags_hold_the_tokens_that_follow():
    next_tokens = torch.arange(10, 16).view(1, 6)
    bags = sliding_bags(next_tokens, 3)
    assert bags[0].tolist() == [
        [10, 11, 12], [11, 12, 13], [12, 13, 14], [13, 14, 15], [14, 15, IGNORE], [15, IGNORE, IGNORE],
    ]  # fmt: skip
    assert torch.equal(sliding_bags(next_tokens, 1), next_tokens[..., None])


def test_sliding_bags_end_where_a_token_is_ignored():
    next_tokens = torch.tensor([[10, 11, IGNORE, 13, 14]])
    assert sliding_bags(next_tokens, 3)[0].tolist() == [
        [10, 11, IGNORE], [11, IGNORE, IGNORE], [IGNORE] * 3, [13, 14, IGNORE], [14, IGNORE, IGNORE],
    ]  # fmt: skip


def test_superpose_accumulates_in_fp32():
    torch.manual_seed(0)
    embeddings = torch.randn(2, 3, 64, 8).to(torch.bfloat16) + 100
    expected = embeddings.double().mean(-2)
    error = (superpose(embeddings).double() - expected).abs().max()
    assert superpose(embeddings).dtype == torch.bfloat16
    # Half a unit in the last place of bf16 at 100 is 0.25: a sum kept in bf16 is far beyond it.
    assert error <= 0.25


def test_the_hook_superposes_bags_and_leaves_single_tokens_alone():
    torch.manual_seed(0)
    embedding = nn.Embedding(11, 4)
    ids = torch.randint(11, (2, 5, 3))
    plain = embedding(ids[..., 0])
    names = dict(embedding.state_dict())
    handle = superpose_embedding(embedding)
    expected = sum(embedding.weight[ids[..., i]] for i in range(3)) / 3
    torch.testing.assert_close(embedding(ids), expected)
    assert torch.equal(embedding(ids[..., 0]), plain)
    assert torch.equal(embedding(ids[..., :1]), plain), "a bag of one is the token itself, bit for bit"
    assert embedding.state_dict().keys() == names.keys()
    handle.remove()
    assert embedding(ids).shape == (2, 5, 3, 4)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("uniform", [1 / 3] * 3),
        ("power_law", [6 / 11, 3 / 11, 2 / 11]),
        ("exponential", [math.exp(-i) / sum(math.exp(-j) for j in (1, 2, 3)) for i in (1, 2, 3)]),
        ("first_token", [1, 0, 0]),
        ([2, 1, 1], [0.5, 0.25, 0.25]),
    ],
)
def test_bag_weights(kind, expected):
    assert bag_weights(kind, 3) == pytest.approx(expected)


@pytest.mark.parametrize("bad", ["unifrom", [1, 2], [0, 0, 0], [1, -1, 1], [1, float("nan"), 1], [1, float("inf"), 1]])
def test_bad_weights_are_refused(bad):
    with pytest.raises(UserError, match="bag weights"):
        bag_weights(bad, 3)
