"""Multi-hot cross-entropy: one row of logits, ``s`` weighted targets, one log-sum-exp.

``loss = logsumexp(z) - sum_i w_i * z[y_i]``: the weighted mean of ``s`` ordinary cross-entropies over the
same logits. A token that occurs twice in a bag counts twice. With one target it is next-token cross-entropy.
It bottoms out near the bag's entropy, not near 0, so it is never compared with a next-token loss.

Peng, Gigant, Quesnelle, arXiv 2605.06546, section 3.2.

Shape suffixes: N positions (rows of logits), s targets of a position, d width, V vocabulary.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from tst_lightning.bags import IGNORE, sliding_bags

CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**27}
"""Logits held at a time, by device type: what fits the cache of a CPU core; 512 MiB in fp32 on a GPU."""


Weights = tuple[float, ...] | Tensor
"""Weight of each target of a position: ``s`` numbers for all positions alike, or a tensor ``(s,)`` or ``(N, s)``."""


def target_weights(targets_Ns: Tensor, weights: Weights, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Each target's weight in its position's loss, and each position's in the mean.

    Ignored targets weigh nothing and their position's other targets take their part; positions without any
    valid target do not count.

    Args:
        targets_Ns: integer ids, ``IGNORE`` where there is none.
        weights: all >= 0.
        dtype: of the result.

    Returns:
        ``(N, s)`` in ``dtype``, summing to 1 over each position that counts and to 0 elsewhere; and a scalar,
        1 over the number of positions that count.
    """
    if isinstance(weights, tuple):
        weights = weights_on_device(weights, dtype, targets_Ns.device)
    weights_Ns = weights.to(dtype) * (targets_Ns != IGNORE)
    total_N1 = weights_Ns.sum(-1, keepdim=True)
    per_position = 1 / (total_N1 > 0).sum().clamp(min=1).to(dtype)
    return weights_Ns / total_N1.clamp(min=torch.finfo(dtype).tiny), per_position


@lru_cache(maxsize=64)
def weights_on_device(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copied once: a copy from the host on every step would make it wait for the device."""
    with torch.inference_mode(False):
        return torch.tensor(weights, dtype=dtype, device=device)


def multi_hot_cross_entropy(logits_NV: Tensor, targets_Ns: Tensor, weights: Weights) -> Tensor:
    """Mean multi-hot cross-entropy over logits that exist: the eager twin, and the definition.

    Equal to ``sum(w_i * cross_entropy(logits, targets[:, i]))``.

    Args:
        logits_NV: ``(N, V)``, any float dtype; reduced in fp32, or in fp64 if they are fp64.
        targets_Ns: ``(N, s)`` integer ids, ``IGNORE`` where there is none.
        weights: of the targets, summing to 1 (see ``bags.bag_weights``).

    Returns:
        A scalar, in nats.
    """
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    weights_Ns, per_position = target_weights(targets_Ns, weights, logits_NV.dtype)
    picked_Ns = logits_NV.gather(-1, targets_Ns.long().clamp(min=0))
    return (logits_NV.logsumexp(-1) * weights_Ns.sum(-1) - (picked_Ns * weights_Ns).sum(-1)).sum() * per_position


class _ChunkedLinear(torch.autograd.Function):
    """``multi_hot_cross_entropy(hidden @ head.T, ...)`` a chunk of positions at a time.

    The gradient of a chunk's logits is known as soon as the chunk is, so forward computes it too, and no more
    than one chunk of logits is ever held. The loss is a scalar: backward only scales.
    """

    @staticmethod
    def forward(ctx, hidden_Nd, head_Vd, targets_Ns, weights_Ns, per_position, chunk_rows):
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        wide = weights_Ns.dtype
        grad_hidden = torch.empty_like(hidden_Nd) if needs_hidden else None
        grad_head = torch.zeros_like(head_Vd, dtype=wide) if needs_head else None
        loss = torch.zeros((), dtype=wide, device=hidden_Nd.device)
        for start in range(0, len(hidden_Nd), chunk_rows):
            rows = slice(start, start + chunk_rows)
            logits = (hidden_Nd[rows] @ head_Vd.T).to(wide)
            targets, weights = targets_Ns[rows], weights_Ns[rows]
            total = weights.sum(-1)
            log_sum = logits.logsumexp(-1)
            loss += (log_sum * total).sum() - (logits.gather(-1, targets) * weights).sum()
            if not (needs_hidden or needs_head):
                continue
            # Without the mean's 1/N, which would underflow in fp16: it is multiplied in by backward.
            slope = logits.sub_(log_sum[:, None]).exp_().mul_(total[:, None])
            slope = slope.scatter_add_(-1, targets, -weights).to(hidden_Nd.dtype)
            if needs_hidden:
                torch.mm(slope, head_Vd, out=grad_hidden[rows])
            if needs_head and wide == head_Vd.dtype:
                grad_head.addmm_(slope.T, hidden_Nd[rows])
            elif needs_head:
                grad_head += slope.T @ hidden_Nd[rows]
        ctx.save_for_backward(grad_hidden, grad_head, per_position)
        ctx.head_dtype = head_Vd.dtype
        return loss * per_position

    @staticmethod
    def backward(ctx, scale):
        grad_hidden, grad_head, per_position = ctx.saved_tensors
        scale = scale * per_position
        grad_hidden = None if grad_hidden is None else (grad_hidden.to(scale.dtype) * scale).to(grad_hidden.dtype)
        grad_head = None if grad_head is None else (grad_head * scale).to(ctx.head_dtype)
        return grad_hidden, grad_head, None, None, None, None


def linear_multi_hot_cross_entropy(
    hidden_Nd: Tensor,
    head_Vd: Tensor,
    targets_Ns: Tensor,
    weights: Weights,
    chunk_rows: int | None = None,
) -> Tensor:
    """``multi_hot_cross_entropy(hidden @ head.T, targets, weights)`` without ever holding ``(N, V)`` logits.

    Products run in the autocast dtype where autocast is on, reductions in fp32 (fp64 stays fp64). One
    log-sum-exp pass whatever ``s`` is. Not twice differentiable.

    Args:
        hidden_Nd: last hidden state, ``(N, d)``.
        head_Vd: weight of the output head, ``(V, d)``.
        targets_Ns: ``(N, s)`` integer ids, ``IGNORE`` where there is none.
        weights: of the targets, summing to 1.
        chunk_rows: positions whose logits are held at a time, by default from ``CHUNK_ELEMENTS``.

    Returns:
        A scalar, in nats.
    """
    device_type = hidden_Nd.device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        hidden_Nd, head_Vd = hidden_Nd.to(dtype), head_Vd.to(dtype)
    if chunk_rows is None:
        chunk_rows = max(128, CHUNK_ELEMENTS.get(device_type, CHUNK_ELEMENTS["cuda"]) // len(head_Vd))
    wide = torch.promote_types(hidden_Nd.dtype, torch.float32)
    weights_Ns, per_position = target_weights(targets_Ns, weights, wide)
    targets_Ns = targets_Ns.long().clamp(min=0)
    with torch.autocast(device_type, enabled=False):
        return _ChunkedLinear.apply(hidden_Nd, head_Vd, targets_Ns, weights_Ns, per_position, chunk_rows)


@dataclass(frozen=True)
class TargetLoss:
    """What the losses of a training step share: which tokens a position has as targets, and their weights.

    Args:
        weights: weight of each target of a position, summing to 1.
        sliding: whether targets come as single next tokens ``(B, L, 1)`` and are widened to the ``s`` tokens
            that follow (output-only superposition).
        next_token_share: how far the weights have moved from ``weights``, 0, to the first target alone, 1.
    """

    weights: tuple[float, ...] = (1.0,)
    sliding: bool = False
    next_token_share: float = 0.0

    def targets(self, targets_BLs: Tensor) -> Tensor:
        """``(N, s)`` targets of the rows of ``(B, L, s)`` or, sliding, ``(B, L, 1)`` ids."""
        if self.sliding:
            targets_BLs = sliding_bags(targets_BLs.squeeze(-1), len(self.weights))
        return targets_BLs.flatten(0, 1)

    def slot_weights(self, targets_Ns: Tensor, target_weights_BLs: Tensor | None) -> Weights:
        """Weights of the targets: those that came with the batch, or one for each place in a bag."""
        if target_weights_BLs is not None:
            return target_weights_BLs.flatten(0, 1)
        if not self.next_token_share:
            return self.weights
        # Two constants on the device, mixed there: weights that change at every step are not copied to it.
        first = (1.0,) + (0.0,) * (len(self.weights) - 1)
        ends = (weights_on_device(weights, torch.float32, targets_Ns.device) for weights in (self.weights, first))
        return torch.lerp(*ends, self.next_token_share)


@dataclass(frozen=True)
class MultiHotCrossEntropy(TargetLoss):
    """The loss of a training step; the default is next-token cross-entropy. See ``TargetLoss`` for the first options.

    Args:
        impl: ``chunked`` never holds all logits; ``eager`` does, and is its reference.
    """

    impl: Literal["chunked", "eager"] = "chunked"

    def __call__(
        self, hidden_BLd: Tensor, head_Vd: Tensor, targets_BLs: Tensor, target_weights_BLs: Tensor | None = None
    ) -> Tensor:
        """Mean loss in nats of hidden states ``(B, L, d)`` through the head's weight ``(V, d)``.

        Args:
            target_weights_BLs: weight of each target, ``(B, L, s)``, in place of ``weights``; sums to 1 over the
                targets of a position.
        """
        hidden_Nd, targets_Ns = hidden_BLd.flatten(0, 1), self.targets(targets_BLs)
        weights = self.slot_weights(targets_Ns, target_weights_BLs)
        if self.impl == "eager":
            return multi_hot_cross_entropy(hidden_Nd @ head_Vd.T, targets_Ns, weights)
        return linear_multi_hot_cross_entropy(hidden_Nd, head_Vd, targets_Ns, weights)

    def from_logits(self, logits_BLV: Tensor, targets_BLs: Tensor, target_weights_BLs: Tensor | None = None) -> Tensor:
        """Mean loss in nats of logits ``(B, L, V)``, for heads that are more than one matrix."""
        targets_Ns = self.targets(targets_BLs)
        return multi_hot_cross_entropy(
            logits_BLV.flatten(0, 1), targets_Ns, self.slot_weights(targets_Ns, target_weights_BLs)
        )
