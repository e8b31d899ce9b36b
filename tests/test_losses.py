"""Multi-hot cross-entropy against separate cross-entropies in fp64, and the chunked version against the eager."""

import pytest
import torch
from torch.nn import functional as F

from tst_lightning import losses
from tst_lightning.bags import IGNORE, bag_weights
from tst_lightning.losses import MultiHotCrossEntropy, linear_multi_hot_cross_entropy, multi_hot_cross_entropy

ROWS, WIDTH, VOCABULARY = 37, 8, 51


@pytest.fixture
def problem():
    """Hidden states, head, and a function that draws (rows, s) targets; some bags repeat a token."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, dtype=torch.float64, generator=generator, requires_grad=True)
    head = torch.randn(VOCABULARY, WIDTH, dtype=torch.float64, generator=generator, requires_grad=True)

    def targets(bag_size):
        drawn = torch.randint(VOCABULARY, (ROWS, bag_size), generator=generator)
        drawn[0] = drawn[0, 0]
        return drawn

    return hidden, head, targets


@pytest.mark.parametrize("kind", ["uniform", "power_law", "exponential", "first_token"])
@pytest.mark.parametrize("bag_size", [1, 2, 6, 16])
@pytest.mark.parametrize("impl", ["eager", "chunked"])
def test_equals_separate_cross_entropies_in_value_and_gradient(problem, kind, bag_size, impl):
    hidden, head, draw = problem
    targets, weights = draw(bag_size), bag_weights(kind, bag_size)
    logits = hidden @ head.T
    reference = sum(w * F.cross_entropy(logits, targets[:, i]) for i, w in enumerate(weights))
    if impl == "eager":
        loss = multi_hot_cross_entropy(hidden @ head.T, targets, weights)
    else:
        loss = linear_multi_hot_cross_entropy(hidden, head, targets, weights, chunk_rows=10)
    torch.testing.assert_close(loss, reference, rtol=0, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(3 * loss, (hidden, head)), torch.autograd.grad(3 * reference, (hidden, head)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_gradients_by_finite_differences(problem):
    hidden, head, draw = problem
    targets, weights = draw(3)[:5], bag_weights("power_law", 3)
    function = lambda h, w: linear_multi_hot_cross_entropy(h, w, targets, weights, chunk_rows=2)  # noqa: E731
    assert torch.autograd.gradcheck(function, (hidden[:5].detach().requires_grad_(), head))


@pytest.mark.parametrize("chunk_rows", [1, 7, ROWS, 1000, None])
def test_the_size_of_a_chunk_does_not_matter(problem, chunk_rows):
    hidden, head, draw = problem
    targets, weights = draw(4), bag_weights("uniform", 4)
    loss = linear_multi_hot_cross_entropy(hidden, head, targets, weights, chunk_rows)
    torch.testing.assert_close(loss, multi_hot_cross_entropy(hidden @ head.T, targets, weights), rtol=0, atol=1e-12)


@pytest.mark.parametrize("impl", ["eager", "chunked"])
def test_ignored_targets_do_not_count(problem, impl):
    """A position's remaining targets take the weight of the ignored ones; empty positions leave the mean."""
    hidden, head, draw = problem
    targets, weights = draw(3), bag_weights([3, 2, 1], 3)
    targets[4, 1] = IGNORE
    targets[9] = IGNORE
    log_probabilities = (hidden @ head.T).log_softmax(-1)
    rows = []
    for row in range(ROWS):
        valid = [(w, t) for w, t in zip(weights, targets[row].tolist(), strict=True) if t != IGNORE]
        if valid:
            rows.append(-sum(w * log_probabilities[row, t] for w, t in valid) / sum(w for w, _ in valid))
    reference = torch.stack(rows).mean()
    loss = MultiHotCrossEntropy(weights, impl=impl)(hidden[None], head, targets[None])
    torch.testing.assert_close(loss, reference, rtol=0, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(loss, (hidden, head)), torch.autograd.grad(reference, (hidden, head)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_nothing_but_ignored_targets_gives_zero_not_nan(problem):
    hidden, head, _ = problem
    loss = MultiHotCrossEntropy((1.0,))(hidden[None], head, torch.full((1, ROWS, 1), IGNORE))
    assert loss.item() == 0
    assert all(gradient.abs().max() == 0 for gradient in torch.autograd.grad(loss, (hidden, head)))


@pytest.mark.parametrize("impl", ["eager", "chunked"])
def test_sliding_targets_are_the_following_tokens(problem, impl):
    hidden, head, draw = problem
    next_tokens = draw(1).view(1, ROWS, 1)
    weights = bag_weights("uniform", 3)
    loss = MultiHotCrossEntropy(weights, sliding=True, impl=impl)(hidden[None], head, next_tokens)
    log_probabilities = (hidden @ head.T).log_softmax(-1)
    rows = [
        -torch.stack([log_probabilities[t, next_tokens[0, u, 0]] for u in range(t, min(t + 3, ROWS))]).mean()
        for t in range(ROWS)
    ]
    torch.testing.assert_close(loss, torch.stack(rows).mean(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("impl", ["eager", "chunked"])
@pytest.mark.parametrize("bag_size", [1, 6])
def test_bf16_error_is_no_larger_than_plain_cross_entropys(impl, bag_size):
    """The error budget: what torch's own cross-entropy loses on the same bf16 logits, twice."""
    torch.manual_seed(0)
    hidden, head = torch.randn(64, 32), torch.randn(300, 32) / 3
    targets = torch.randint(300, (64, bag_size))
    weights = bag_weights("uniform", bag_size)
    exact = multi_hot_cross_entropy(hidden.double() @ head.double().T, targets, weights)
    with torch.autocast("cpu", torch.bfloat16):
        plain = sum(F.cross_entropy(hidden @ head.T, targets[:, i]) for i in range(bag_size)) / bag_size
        ours = MultiHotCrossEntropy(weights, impl=impl)(hidden[None], head, targets[None])
    assert abs(ours - exact) <= 2 * abs(plain - exact) + 1e-4


@pytest.mark.parametrize("scale", [1.0, 65536.0])
def test_fp16_gradients_survive_loss_scaling(scale):
    """Against fp64: what a mean over many positions leaves of a gradient must neither underflow nor overflow."""
    torch.manual_seed(0)
    hidden, head = torch.randn(4096, 16), torch.randn(512, 16) / 4
    targets, weights = torch.randint(512, (4096, 2)), bag_weights("uniform", 2)
    exact_inputs = [tensor.double().requires_grad_() for tensor in (hidden, head)]
    exact = multi_hot_cross_entropy(exact_inputs[0] @ exact_inputs[1].T, targets, weights)
    inputs = [tensor.half().requires_grad_() for tensor in (hidden, head)]
    loss = linear_multi_hot_cross_entropy(*inputs, targets, weights)
    expected, got = (torch.autograd.grad(value * scale, tensors) for value, tensors in
                     ((exact, exact_inputs), (loss, inputs)))  # fmt: skip
    limits = (0.05 if scale == 1 else 0.005, 0.005)  # unscaled, the hidden gradient itself is subnormal in fp16
    for ours, reference, limit in zip(got, expected, limits, strict=True):
        assert ((ours.double() - reference).norm() / reference.norm()).item() < limit


def test_autocast_gradients_keep_the_parameters_dtype():
    hidden = torch.randn(1, 8, 16, requires_grad=True)
    head = torch.randn(20, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = MultiHotCrossEntropy()(hidden, head, torch.randint(20, (1, 8, 1)))
    loss.backward()
    assert loss.dtype == hidden.grad.dtype == head.grad.dtype == torch.float32


def test_chunked_never_holds_all_logits(monkeypatch):
    """The largest tensor made while a chunk of 5 rows is held has 5 x vocabulary elements, never rows x vocabulary."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.elements = max(self.elements, result.numel())
            return result

    rows, vocabulary = 100, 1000
    hidden, head = torch.randn(rows, 4, requires_grad=True), torch.randn(vocabulary, 4, requires_grad=True)
    targets = torch.randint(vocabulary, (rows, 3))
    with Largest() as seen:
        linear_multi_hot_cross_entropy(hidden, head, targets, bag_weights("uniform", 3), chunk_rows=5).backward()
    assert seen.elements == 5 * vocabulary
    with Largest() as seen:
        multi_hot_cross_entropy(hidden @ head.T, targets, bag_weights("uniform", 3))
    assert seen.elements == rows * vocabulary


def test_default_chunks_are_bounded_on_every_device():
    assert losses.CHUNK_ELEMENTS["cpu"] < losses.CHUNK_ELEMENTS["cuda"]


def test_initial_loss_is_log_vocabulary_whatever_the_bag():
    """Not log(V)/s: the multi-hot loss is a mean over the bag, not a probability of the whole bag."""
    hidden, head = torch.zeros(1, 4, 8), torch.randn(100, 8)
    for bag_size in (1, 6):
        loss = MultiHotCrossEntropy(bag_weights("uniform", bag_size))(
            hidden, head, torch.randint(100, (1, 4, bag_size))
        )
        assert loss.item() == pytest.approx(torch.tensor(100.0).log().item(), abs=1e-5)
