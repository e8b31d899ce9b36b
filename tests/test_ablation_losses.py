"""The ablation losses against loops over single tokens in fp64, and the chunked form against the whole."""

import math

import pytest
import torch
from torch.nn import functional as F

from tst_lightning.ablation_losses import LOSSES, AblationLoss
from tst_lightning.bags import IGNORE, bag_weights, sliding_bags
from tst_lightning.errors import UserError
from tst_lightning.losses import MultiHotCrossEntropy

B, L, WIDTH, VOCABULARY = 2, 6, 5, 11
KINDS = list(LOSSES)


@pytest.fixture
def problem():
    """Hidden states, head, and ``(B, L, 4)`` targets with repeated and ignored tokens and an empty position."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(B, L, WIDTH, dtype=torch.float64, generator=generator, requires_grad=True)
    head = torch.randn(VOCABULARY, WIDTH, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = torch.randint(VOCABULARY, (B, L, 4), generator=generator)
    targets[0, 0] = torch.tensor([3, 7, 3, 3])
    targets[0, 1] = torch.tensor([0, IGNORE, 5, 0])
    targets[0, 2, 3] = IGNORE
    targets[1, 4] = IGNORE
    return hidden, head, targets


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def of_a_position(kind, logits, pairs):
    """The definition, from Python numbers; ``pairs`` are (token, weight) with positive weights."""
    bag = {token for token, _ in pairs}
    total = sum(weight for _, weight in pairs)
    outside = [z for token, z in enumerate(logits) if token not in bag]
    if kind == "mce_alt":
        exponentials = [math.exp(z) for z in logits]
        return -math.log(sum(exponentials[token] for token in bag) / sum(exponentials))
    if kind == "hinge":
        return sum(
            weight / total * sum(max(0.0, 1 - (logits[token] - z)) for z in outside) / len(logits)
            for token, weight in pairs
        )
    inside = sum(weight / total * softplus(-logits[token]) for token, weight in pairs)
    return inside + sum(softplus(z) for z in outside) / len(bag)


def reference(kind, hidden, head, targets, weights):
    """Mean over positions with a valid target of positive weight; ``weights`` are ``(B, L, s)``."""
    values = []
    logits = (hidden @ head.T).flatten(0, 1).tolist()
    for row, bag, slots in zip(logits, targets.flatten(0, 1).tolist(), weights.flatten(0, 1).tolist(), strict=True):
        pairs = [(t, w) for t, w in zip(bag, slots, strict=True) if t != IGNORE and w > 0]
        if pairs:
            values.append(of_a_position(kind, row, pairs))
    return sum(values) / len(values)


def like(targets, weights):
    return torch.tensor(weights, dtype=torch.float64).expand(targets.shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", ["uniform", "power_law", "first_token", [1, 0, 2, 0]], ids=str)
def test_equals_the_loop_over_tokens(problem, kind, weights):
    hidden, head, targets = problem
    weights = bag_weights(weights, 4)
    expected = reference(kind, hidden, head, targets, like(targets, weights))
    loss = AblationLoss(kind=kind, weights=weights)
    assert loss(hidden, head, targets).item() == pytest.approx(expected, rel=1e-12)
    assert loss.from_logits(hidden @ head.T, targets).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_loop_by_central_differences(problem, kind):
    hidden, head, targets = problem
    weights = bag_weights("power_law", 4)
    loss = 3 * AblationLoss(kind=kind, weights=weights, chunk_rows=5)(hidden, head, targets)
    gradients = torch.autograd.grad(loss, (hidden, head))
    step = 1e-6
    for tensor, gradient in zip((hidden, head), gradients, strict=True):
        numbers, slopes = tensor.detach().view(-1), gradient.flatten()
        for place in range(0, len(numbers), 3):
            kept, values = numbers[place].item(), []
            for moved in (kept + step, kept - step):
                numbers[place] = moved
                values.append(3 * reference(kind, hidden, head, targets, like(targets, weights)))
            numbers[place] = kept
            assert slopes[place].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk_rows", [1, 5, B * L, 1000, None])
def test_chunks_equal_the_whole(problem, kind, chunk_rows):
    hidden, head, targets = problem
    loss = AblationLoss(kind=kind, weights=bag_weights("power_law", 4), chunk_rows=chunk_rows)
    pairs = loss(hidden, head, targets), loss.from_logits(hidden @ head.T, targets)
    torch.testing.assert_close(*pairs, rtol=0, atol=1e-12)
    for ours, whole in zip(*(torch.autograd.grad(value, (hidden, head)) for value in pairs), strict=True):
        torch.testing.assert_close(ours, whole, rtol=0, atol=1e-12)


def test_chunks_are_not_kept_for_backward():
    """What autograd holds after forward does not grow with positions times vocabulary."""
    hidden = torch.randn(1, 64, 2, requires_grad=True)
    head, targets, saved = torch.randn(500, 2, requires_grad=True), torch.randint(500, (1, 64, 3)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda t: t):
        AblationLoss(kind="hinge", weights=bag_weights("uniform", 3), chunk_rows=8)(hidden, head, targets)
    assert sum(size for size in saved if size >= 8 * 500) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_the_batch_stand_in_for_those_of_places(problem, kind):
    hidden, head, targets = problem
    own = torch.rand(targets.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    own[own < 0.2] = 0
    own /= own.sum(-1, keepdim=True)
    expected = reference(kind, hidden, head, targets, own)
    loss = AblationLoss(kind=kind, weights=bag_weights("uniform", 4))
    assert loss(hidden, head, targets, own).item() == pytest.approx(expected, rel=1e-12)
    assert loss.from_logits(hidden @ head.T, targets, own).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_sliding_targets_are_the_following_tokens(problem, kind):
    hidden, head, targets = problem
    weights, following = bag_weights("uniform", 3), targets[..., :1]
    loss = AblationLoss(kind=kind, weights=weights, sliding=True)(hidden, head, following)
    bags = sliding_bags(following.squeeze(-1), 3)
    assert loss.item() == pytest.approx(reference(kind, hidden, head, bags, like(bags, weights)), rel=1e-12)


def test_mce_alt_of_one_target_is_next_token_cross_entropy_and_otherwise_ignores_weights(problem):
    hidden, head, targets = problem
    one = targets[..., :1]
    torch.testing.assert_close(
        AblationLoss(kind="mce_alt")(hidden, head, one), MultiHotCrossEntropy()(hidden, head, one)
    )
    values = [AblationLoss(kind="mce_alt", weights=bag_weights(kind, 4))(hidden, head, targets).item()
              for kind in ("uniform", "exponential")]  # fmt: skip
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    ends = AblationLoss(kind="mce_alt", weights=bag_weights("uniform", 4), next_token_share=1.0)
    only_first = MultiHotCrossEntropy(bag_weights("first_token", 4))
    torch.testing.assert_close(ends(hidden, head, targets), only_first(hidden, head, targets))


def test_hinge_and_binary_cross_entropy_are_those_of_torch(problem):
    """Where the weights are uniform and no token repeats."""
    hidden, head, _ = problem
    logits = (hidden @ head.T).flatten(0, 1)
    targets = torch.stack([torch.randperm(VOCABULARY)[:3] for _ in range(B * L)])
    hinge, binary = (
        AblationLoss(kind=kind, weights=bag_weights("uniform", 3)).from_logits(logits[None], targets[None])
        for kind in ("hinge", "binary_cross_entropy")
    )
    padded = F.pad(targets, (0, VOCABULARY - 3), value=-1)
    torch.testing.assert_close(hinge, F.multilabel_margin_loss(logits, padded) / 3)
    is_in_bag = torch.zeros_like(logits).scatter(-1, targets, 1.0)
    expected = F.binary_cross_entropy_with_logits(logits, is_in_bag, reduction="sum") / (B * L * 3)
    torch.testing.assert_close(binary, expected)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("mce_alt", math.log(1000 / 4)), ("hinge", 0.996), ("binary_cross_entropy", 1000 / 4 * math.log(2))],
)
def test_value_at_initialisation(kind, value):
    loss = AblationLoss(kind=kind, weights=bag_weights("uniform", 4))
    assert loss.from_logits(torch.zeros(1, 1, 1000), torch.tensor([[[1, 2, 3, 4]]])).item() == pytest.approx(value)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_ignored_targets_gives_zero_not_nan(problem, kind):
    hidden, head, targets = problem
    loss = AblationLoss(kind=kind, weights=bag_weights("uniform", 4))(hidden, head, torch.full_like(targets, IGNORE))
    assert loss.item() == 0
    assert all(gradient.abs().max() == 0 for gradient in torch.autograd.grad(loss, (hidden, head)))


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_autocast_is_near_fp64(problem, kind):
    hidden, head, targets = problem
    loss = AblationLoss(kind=kind, weights=bag_weights("power_law", 4), chunk_rows=5)
    exact = loss(hidden, head, targets)
    narrow = [tensor.detach().float().requires_grad_() for tensor in (hidden, head)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(*narrow, targets)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=0.01, atol=0)
    logits = narrow[0].bfloat16() @ narrow[1].bfloat16().T  # products in bf16, all else in fp32
    torch.testing.assert_close(value, loss.from_logits(logits, targets), rtol=1e-6, atol=0)
    gradients = torch.autograd.grad(exact, (hidden, head))
    for ours, true in zip(torch.autograd.grad(value, narrow), gradients, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - true).norm() < 0.03 * true.norm()


def test_unknown_kinds_are_refused():
    with pytest.raises(UserError, match="unknown loss 'squared'"):
        AblationLoss(kind="squared")
