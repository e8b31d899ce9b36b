"""Multi-token prediction: heads beside the main one, each of which predicts further ahead, for training alone.

What the main head predicts at position ``j+k``, head ``k`` (1..K) predicts at position ``j``, from the hidden state
there: with single tokens the token at ``j+1+k``, in superposition the bag at ``j+1+k``, in output-only superposition
the tokens ``j+1+k .. j+s+k``. The heads are dropped with the training: exports and evaluations do not have them.

Heads stand side by side, each a function of the same hidden state (Gloeckle et al., arXiv 2404.19737). They share the
main head's output matrix, and the mean of their losses, times a weight, is added to the main loss (DeepSeek-V3, arXiv
2412.19437, equations 24 and 25; its modules are chained and read the tokens between, these do not).

Shape suffixes: B rows, L positions of a row, s targets of a position, d width, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn import functional as F

from tst_lightning.bags import IGNORE
from tst_lightning.errors import UserError
from tst_lightning.modeling.building import rescales_logits

SEED_OFFSET = 2_000_000
"""Added to the module's ``init_seed``: the heads' random numbers are not the model's, however it draws them."""


@dataclass(frozen=True)
class MultiToken:
    """Options of multi-token prediction.

    Args:
        heads: K, heads beside the main one; with 0 the run is the plain one, bit by bit.
        weight: of the mean of the heads' losses, beside 1 for the main loss; with 0 the run is the plain one too.

    Raises:
        UserError: a value out of range.
    """

    heads: int = 1
    weight: float = 0.1

    def __post_init__(self) -> None:
        if self.heads is None or self.heads < 0:
            raise UserError(f"multi_token.heads={self.heads}: give 0 (no multi-token prediction), 1, 2, ...")
        if self.weight is None or not 0 <= self.weight < math.inf:
            raise UserError(f"multi_token.weight={self.weight}: give a number of at least 0, such as 0.1")

    @property
    def is_trained(self) -> bool:
        """Whether there is a head that changes anything."""
        return self.heads > 0 and self.weight > 0


class Head(nn.Module):
    """Residual transform of a hidden state, ``(..., d)`` to ``(..., d)``; the identity until it is trained."""

    def __init__(self, width: int, initializer_range: float, device: torch.device) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6, device=device, dtype=torch.float32)
        self.up = nn.Linear(width, width, bias=False, device=device, dtype=torch.float32)
        self.down = nn.Linear(width, width, bias=False, device=device, dtype=torch.float32)
        nn.init.normal_(self.up.weight, std=initializer_range)
        nn.init.zeros_(self.down.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.down(F.silu(self.up(self.norm(hidden.to(self.norm.weight.dtype)))))


class MultiTokenHeads(nn.Module):
    """The heads of a model, and their loss.

    Args:
        model: a Hugging Face causal LM whose logits are its last hidden state times its head's weight.
        options: with at least one head.
        seed: of the heads' random weights; no other random numbers are drawn.

    Raises:
        UserError: the model does more to its logits.
    """

    def __init__(self, model: nn.Module, options: MultiToken, seed: int) -> None:
        super().__init__()
        output = model.get_output_embeddings()
        if output.bias is not None or rescales_logits(model.config):
            does = "adds a bias to" if output.bias is not None else "rescales"
            raise UserError(
                f"multi_token needs a model whose logits are its hidden state times its head's weight, and "
                f"{type(model).__name__} {does} them: leave multi_token out, or choose another model (such as Llama)"
            )
        vocabulary, width = output.weight.shape
        initializer_range = getattr(model.config.get_text_config(), "initializer_range", 0.02)
        # A model that is sharded before it has weights is on the meta device; the heads have theirs at once.
        device = torch.get_default_device() if output.weight.is_meta else output.weight.device
        with isolate_rng():
            torch.manual_seed(seed + SEED_OFFSET)
            self.heads = nn.ModuleList(Head(width, initializer_range, device) for _ in range(options.heads))
        self.weight = options.weight
        self.matrix_parameters = options.heads * (2 * width * width + vocabulary * width)
        """Weights of matrix products for each position, the shared output matrix once for each head."""

    def forward(
        self,
        hidden_BLd: Tensor,
        output_Vd: Tensor,
        loss: Callable[..., Tensor],
        targets_BLs: Tensor,
        target_weights_BLs: Tensor | None = None,
        position_ids_BL: Tensor | None = None,
    ) -> Tensor:
        """Mean of the heads' losses times the weight: a scalar.

        Args:
            hidden_BLd: last hidden state of the body.
            output_Vd: weight of the main head.
            loss: the main loss: ``loss(hidden, output, targets, target_weights)``.
            targets_BLs: of the main head, ``IGNORE`` where there is none.
            target_weights_BLs: weight of each target, if they have their own.
            position_ids_BL: positions within documents, if documents are isolated.
        """
        losses = [
            loss(
                head(hidden_BLd),
                output_Vd,
                targets_ahead(targets_BLs, distance, position_ids_BL),
                None if target_weights_BLs is None else _ahead(target_weights_BLs, distance, 0.0),
            )
            for distance, head in enumerate(self.heads, start=1)
        ]
        return self.weight * torch.stack(losses).mean()


def targets_ahead(targets_BLs: Tensor, distance: int, position_ids_BL: Tensor | None = None) -> Tensor:
    """The targets of the positions ``distance`` further on, ``IGNORE`` past the row's end or in another document.

    A document begins where ``position_ids`` are 0. Targets that are ignored there are ignored here.
    """
    ahead = _ahead(targets_BLs, distance, IGNORE)
    if position_ids_BL is None:
        return ahead
    documents = (position_ids_BL == 0).cumsum(-1)
    crosses = _ahead(documents.unsqueeze(-1), distance, 0) != documents.unsqueeze(-1)
    return ahead.masked_fill(crosses, IGNORE)


def _ahead(values_BLs: Tensor, distance: int, fill: float) -> Tensor:
    """``values[:, j + distance]`` at ``j``, ``fill`` past the end."""
    ahead = values_BLs[:, distance:]
    return F.pad(ahead, (0, 0, 0, values_BLs.shape[1] - ahead.shape[1]), value=fill)
