"""The shape of what a run trains, without weights: for counting."""

import torch
from torch import nn
from transformers import PretrainedConfig

from tst_lightning.accounting import flops_per_position, recomputed_flops_per_position
from tst_lightning.auxiliary.losses import AuxiliaryLosses
from tst_lightning.auxiliary.multi_token import MultiToken
from tst_lightning.modeling.initial_weights import outline


class Outlined:
    """A Hugging Face causal LM and what its training adds, with parameters on the meta device.

    Args:
        config: of the model.
        multi_token: options of multi-token prediction, or None.

    Raises:
        UserError: auxiliary losses that do not suit the model.
    """

    def __init__(self, config: PretrainedConfig, multi_token: MultiToken | None = None) -> None:
        self.model: nn.Module = outline(config)
        with torch.device("meta"):
            self.auxiliary = AuxiliaryLosses(self.model, multi_token)

    def flops_per_position(self, length: int) -> int:
        """As a run counts them for ``progress/flops``, of a row of ``length`` positions.

        Raises:
            UserError: a model whose FLOPs cannot be counted.
        """
        return flops_per_position(self.model, length, self.auxiliary.matrix_parameters)

    def recomputed_share(self, length: int) -> float:
        """FLOPs that activation checkpointing adds, at most, as a share of ``flops_per_position(length)``.

        Raises:
            UserError: a model whose FLOPs cannot be counted.
        """
        return recomputed_flops_per_position(self.model, length) / self.flops_per_position(length)
