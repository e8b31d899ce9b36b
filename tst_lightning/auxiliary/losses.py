"""What a training step adds to its loss: multi-token prediction, the balance of experts, or nothing."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from tst_lightning.auxiliary.multi_token import MultiToken, MultiTokenHeads
from tst_lightning.auxiliary.router import router_balance
from tst_lightning.errors import UserError


class AuxiliaryLosses(nn.Module):
    """Losses of training alone: in evaluation mode there are none.

    Its parameters belong to the LightningModule, not to the language model.

    Args:
        model: the Hugging Face causal LM, before it is sharded or compiled.
        multi_token: options, or None.
        seed: of the heads' random weights.

    Raises:
        UserError: a model that they do not suit.
    """

    def __init__(self, model: nn.Module, multi_token: MultiToken | None = None, seed: int = 0) -> None:
        super().__init__()
        wanted = multi_token is not None and multi_token.is_trained
        self.multi_token = MultiTokenHeads(model, multi_token, seed) if wanted else None
        self.router = router_balance(model.config)
        self.register_load_state_dict_pre_hook(_require_same_heads)

    @property
    def matrix_parameters(self) -> int:
        """Weights of matrix products that training adds for each position; for FLOPs."""
        return 0 if self.multi_token is None else self.multi_token.matrix_parameters

    def forward(
        self,
        output: Any,
        output_Vd: Tensor,
        loss: Callable[..., Tensor],
        targets_BLs: Tensor,
        target_weights_BLs: Tensor | None = None,
        position_ids_BL: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Each auxiliary loss by name, a scalar with its weight multiplied in: to be added to the main loss.

        Args:
            output: of the model's body, or of the whole model.
            output_Vd: weight of the main head.
            loss: the main loss: ``loss(hidden, output, targets, target_weights)``.
            targets_BLs: of the main head; see ``MultiTokenHeads``, also for the others.
        """
        losses = {}
        if self.training and self.multi_token is not None:
            hidden_BLd = output.last_hidden_state
            losses["multi_token"] = self.multi_token(
                hidden_BLd, output_Vd, loss, targets_BLs, target_weights_BLs, position_ids_BL
            )
        if self.training and self.router is not None:
            losses["router"] = self.router(output.router_logits)
        return losses


def _require_same_heads(module: AuxiliaryLosses, state_dict: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Say what is wrong before torch lists the keys."""
    stem = f"{prefix}multi_token.heads."
    saved = len({name.removeprefix(stem).split(".")[0] for name in state_dict if name.startswith(stem)})
    heads = 0 if module.multi_token is None else len(module.multi_token.heads)
    if saved != heads:
        raise UserError(
            f"the checkpoint has {saved} heads of multi-token prediction, and this run {heads}: set "
            f"model.multi_token.heads to {saved}, or start a new run"
        )
