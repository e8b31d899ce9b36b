"""Losses of a bag that the paper tried beside multi-hot cross-entropy: for ablations, not for use.

The paper (arXiv 2605.06546) names them and gives no more than an outline, so the definitions here are this
project's. ``z`` is a position's row of logits, ``p = softmax(z)``, ``y_i`` its targets with weights ``w_i`` that sum
to 1, ``D`` the set of their distinct tokens, without those whose weight is 0:

- ``mce_alt``: ``-log sum_{y in D} p(y)``. It asks for one of the tokens, not for all. Neither weights nor how often
  a token occurs matter. About ``log(V / |D|)`` at initialisation. The paper: the same final quality.
- ``hinge``: ``sum_i w_i * 1/V * sum_{v not in D} max(0, 1 - (z[y_i] - z[v]))``, which is
  ``torch.nn.MultiLabelMarginLoss`` divided by ``s`` if the weights are uniform and no token repeats. About 1 at
  initialisation. The mean over the vocabulary is torch's; a sum would be ``V`` times the size, and gradient clipping
  would act on every step. The paper: worse than no superposition.
- ``binary_cross_entropy``: ``sum_i w_i * softplus(-z[y_i]) + 1/|D| * sum_{v not in D} softplus(z[v])``, which is
  minus the log-likelihood of ``D`` under ``V`` independent Bernoulli variables, divided by ``|D|``, if the weights
  are uniform and no token repeats. About ``V * log(2) / |D|`` at initialisation. Not the mean over the vocabulary,
  which with large vocabularies would make the gradient of a token ``1/V``, near AdamW's epsilon; so gradient
  clipping acts on the first steps. The paper: worse than no superposition.

With one target, ``mce_alt`` is next-token cross-entropy; the others are not. None compares with another's values.

Shape suffixes: B rows, L positions of a row, N = B*L positions, s targets of a position, d width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from tst_lightning.errors import UserError
from tst_lightning.losses import CHUNK_ELEMENTS, TargetLoss, target_weights

AblationKind = Literal["mce_alt", "hinge", "binary_cross_entropy"]

MARGIN = 1.0
"""Of the hinge loss, in logits."""

_TENSORS_OF_A_CHUNK = 8
"""About as many tensors of the size of a chunk's logits exist at a time, beside one for each target (hinge)."""


def mce_alt(logits_NV: Tensor, targets_Ns: Tensor, weights_Ns: Tensor, per_position: Tensor | float) -> Tensor:
    """``-log`` of the summed probability of a position's distinct tokens, over all positions; in nats.

    Args:
        logits_NV: ``(N, V)`` in the dtype to reduce in.
        targets_Ns: ``(N, s)`` int64 ids; of ignored targets any id, with weight 0.
        weights_Ns: ``(N, s)``, summing to 1 over a position's targets, or to 0 where the position does not count.
            See ``losses.target_weights``.
        per_position: what the sum over positions is multiplied by.
    """
    bag_NV = _weights_by_token(logits_NV, targets_Ns, weights_Ns) > 0
    # Of a position that does not count, all tokens: 0, and the gradient is 0 and not NaN.
    bag_NV = bag_NV | ~bag_NV.any(-1, keepdim=True)
    in_bag_N = logits_NV.masked_fill(~bag_NV, float("-inf")).logsumexp(-1)
    return (logits_NV.logsumexp(-1) - in_bag_N).sum() * per_position


def hinge(logits_NV: Tensor, targets_Ns: Tensor, weights_Ns: Tensor, per_position: Tensor | float) -> Tensor:
    """Mean over the vocabulary of how far tokens outside the bag come within ``MARGIN`` of each of its tokens.

    Args: as of ``mce_alt``.
    """
    bag_NV = _weights_by_token(logits_NV, targets_Ns, weights_Ns) > 0
    outside_NV = logits_NV.masked_fill(bag_NV, float("-inf"))
    total = logits_NV.new_zeros(())
    for targets_N1, weights_N1 in zip(targets_Ns.split(1, -1), weights_Ns.split(1, -1), strict=True):
        margins_NV = (MARGIN - logits_NV.gather(-1, targets_N1) + outside_NV).relu()
        total = total + (margins_NV.mean(-1, keepdim=True) * weights_N1).sum()
    return total * per_position


def binary_cross_entropy(
    logits_NV: Tensor, targets_Ns: Tensor, weights_Ns: Tensor, per_position: Tensor | float
) -> Tensor:
    """Cross-entropy of "is this token in the bag?", a question for each token of the vocabulary; in nats.

    Args: as of ``mce_alt``.
    """
    weights_NV = _weights_by_token(logits_NV, targets_Ns, weights_Ns)
    bag_NV = weights_NV > 0
    size_N = bag_NV.sum(-1)
    inside_N = (weights_NV * softplus(-logits_NV)).sum(-1)
    outside_N = softplus(logits_NV).masked_fill(bag_NV, 0).sum(-1) / size_N.clamp(min=1) * (size_N > 0)
    return (inside_N + outside_N).sum() * per_position


def _weights_by_token(logits_NV: Tensor, targets_Ns: Tensor, weights_Ns: Tensor) -> Tensor:
    """Weight of every token of the vocabulary, ``(N, V)``: a token that occurs twice has both weights."""
    return torch.zeros_like(logits_NV).scatter_add(-1, targets_Ns, weights_Ns)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | float], Tensor]] = {
    "mce_alt": mce_alt,
    "hinge": hinge,
    "binary_cross_entropy": binary_cross_entropy,
}


@dataclass(frozen=True)
class AblationLoss(TargetLoss):
    """One of the losses of this file, called as ``MultiHotCrossEntropy`` is. See ``TargetLoss`` for the first options.

    No more than one chunk of logits is held: backward computes each anew.

    Args:
        kind: which.
        chunk_rows: positions whose logits are held at a time, by default from ``losses.CHUNK_ELEMENTS``.

    Raises:
        UserError: an unknown kind.
    """

    kind: AblationKind = "mce_alt"
    chunk_rows: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in LOSSES:
            raise UserError(f"unknown loss '{self.kind}': choose multi_hot, {', '.join(get_args(AblationKind))}")

    def __call__(
        self, hidden_BLd: Tensor, head_Vd: Tensor, targets_BLs: Tensor, target_weights_BLs: Tensor | None = None
    ) -> Tensor:
        """Mean loss of hidden states ``(B, L, d)`` through the head's weight ``(V, d)``.

        Products run in the autocast dtype where autocast is on, reductions in fp32 (fp64 stays fp64).

        Args:
            target_weights_BLs: weight of each target, ``(B, L, s)``, in place of ``weights``.
        """
        hidden_Nd = hidden_BLd.flatten(0, 1)
        device_type = hidden_Nd.device.type
        product_dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
        dtype = torch.promote_types(product_dtype or hidden_Nd.dtype, torch.float32)
        targets_Ns, weights_Ns, per_position = self._weighted(targets_BLs, target_weights_BLs, dtype)

        def part(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
            # Cast here: the head's gradient is summed over chunks in the head's own dtype.
            logits = (hidden.to(product_dtype) @ head.to(product_dtype).T) if product_dtype else hidden @ head.T
            return LOSSES[self.kind](logits.to(dtype), targets, weights, 1.0)

        rows = self.chunk_rows or self._chunk_rows(device_type, len(head_Vd), targets_Ns.shape[-1])
        total = torch.zeros((), dtype=dtype, device=hidden_Nd.device)
        with torch.autocast(device_type, enabled=False):
            for chunk in zip(hidden_Nd.split(rows), targets_Ns.split(rows), weights_Ns.split(rows), strict=True):
                hidden, targets, weights = chunk
                total = total + checkpoint(
                    part, hidden, head_Vd, targets, weights, use_reentrant=False, preserve_rng_state=False
                )
        return total * per_position

    def from_logits(self, logits_BLV: Tensor, targets_BLs: Tensor, target_weights_BLs: Tensor | None = None) -> Tensor:
        """Mean loss of logits ``(B, L, V)``, for heads that are more than one matrix."""
        logits_NV = logits_BLV.flatten(0, 1)
        logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
        return LOSSES[self.kind](logits_NV, *self._weighted(targets_BLs, target_weights_BLs, logits_NV.dtype))

    def _weighted(
        self, targets_BLs: Tensor, target_weights_BLs: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``(N, s)`` targets without ``IGNORE``, their weights, and 1 over the number of positions that count."""
        targets_Ns = self.targets(targets_BLs)
        weights_Ns, per_position = target_weights(targets_Ns, self.slot_weights(targets_Ns, target_weights_BLs), dtype)
        return targets_Ns.long().clamp(min=0), weights_Ns, per_position

    @staticmethod
    def _chunk_rows(device_type: str, vocab_size: int, bag_size: int) -> int:
        elements = CHUNK_ELEMENTS.get(device_type, CHUNK_ELEMENTS["cuda"])
        return max(32, elements // (vocab_size * (_TENSORS_OF_A_CHUNK + bag_size)))
