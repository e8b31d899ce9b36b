"""Token superposition: its tensor code. The loss is one line, `logsumexp(z) - sum_i w_i z[y_i]`, and is in `losses.py`.

The idea. Read ``s`` times as much text and give every ``s`` contiguous tokens *one* position: the input of a
position is the mean of its tokens' embeddings, its target is the next bag of ``s`` tokens. The transformer
between them does not change and pays for ``L`` positions, not for ``L*s`` tokens. After the first 20-40 % of
the steps, go on with ``s = 1``, which is ordinary next-token training, through the same code.

Peng, Gigant, Quesnelle, *Efficient Pre-Training with Token Superposition*, arXiv 2605.06546, section 3.

Shape suffixes: B rows, L positions of a row, s tokens of a bag, d embedding width, T = (L+1)*s tokens.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tst_lightning.errors import UserError

IGNORE = -100
"""Target id that no loss counts."""

WeightKind = Literal["uniform", "power_law", "exponential", "first_token"]


def fold(tokens_BT: Tensor, bag_size: int) -> Tensor:
    """View contiguous tokens as bags: ``(B, (L+1)*s)`` integers become ``(B, L+1, s)``.

    Raises:
        UserError: ``T`` is not a multiple of ``bag_size``.
    """
    length = tokens_BT.shape[-1]
    if length % bag_size:
        raise UserError(f"{length} tokens do not fold into bags of {bag_size}: read (L+1)*bag_size tokens per row")
    return tokens_BT.unflatten(-1, (length // bag_size, bag_size))


def shift(bags: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets of ``(B, L+1, s)`` bags: bags ``0..L-1`` predict bags ``1..L``, each ``(B, L, s)``.

    Every position has a whole target bag and nothing is padded. (The paper's listing reads ``L*s + 1`` tokens
    instead and ignores what its last bag lacks; all positions but the last are the same.)
    """
    return bags[:, :-1], bags[:, 1:]


def sliding_bags(next_tokens_BL: Tensor, bag_size: int) -> Tensor:
    """Targets of output-only superposition: the ``s`` tokens that follow each single token.

    ``(B, L)`` next tokens become ``(B, L, s)``; what would lie past the row's end is ``IGNORE``, and so is what
    would lie past an ignored token, where another document or padding begins.
    """
    padded = nn.functional.pad(next_tokens_BL, (0, bag_size - 1), value=IGNORE)
    bags = padded.unfold(-1, bag_size, 1)
    return bags.masked_fill((bags == IGNORE).cumsum(-1) > 0, IGNORE)


def superpose(embeddings_BLsd: Tensor) -> Tensor:
    """Mean embedding of every bag, ``(B, L, d)`` in the input's dtype, accumulated in fp32."""
    wide = torch.promote_types(embeddings_BLsd.dtype, torch.float32)
    return embeddings_BLsd.mean(-2, dtype=wide).to(embeddings_BLsd.dtype)


def superpose_embedding(embedding: nn.Module) -> RemovableHandle:
    """Teach an input embedding to take bags: ``(B, L, s)`` ids give ``(B, L, d)``, ``(B, L)`` ids as before.

    A forward hook, so the module keeps its class, its parameter names and its exports.

    Returns:
        The hook's handle; ``handle.remove()`` leaves the module as it was.
    """

    def hook(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return superpose(output) if arguments[0].ndim == 3 else output

    return embedding.register_forward_hook(hook)


def bag_weights(weights: WeightKind | Sequence[float], bag_size: int) -> tuple[float, ...]:
    """Weight of each of a bag's tokens in the loss, summing to 1 (paper, section 3.3).

    Args:
        weights: ``uniform``; ``power_law``, 1/i, better from ``s = 8`` on; ``exponential``, exp(-i);
            ``first_token``, which makes superposition input-only; or ``s`` numbers of one's own.
        bag_size: ``s``, at least 1.

    Raises:
        UserError: an unknown kind, or numbers that are not ``s`` finite values >= 0 with a positive sum.
    """
    kinds = {
        "uniform": lambda i: 1.0,
        "power_law": lambda i: 1.0 / i,
        "exponential": lambda i: math.exp(-i),
        "first_token": lambda i: float(i == 1),
    }
    if isinstance(weights, str):
        if weights not in kinds:
            raise UserError(f"unknown bag weights '{weights}': choose {', '.join(kinds)} or a list")
        values = [kinds[weights](i) for i in range(1, bag_size + 1)]
    else:
        values = [float(value) for value in weights or ()]
    total = sum(values)
    if len(values) != bag_size or not all(0 <= v < math.inf for v in values) or not total > 0:
        raise UserError(
            f"bag weights {values} do not fit bag_size={bag_size}: "
            f"give {bag_size} finite numbers >= 0, at least one of them positive"
        )
    return tuple(value / total for value in values)
