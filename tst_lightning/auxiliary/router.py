"""The loss that keeps the experts of a mixture evenly used, as the models' own code has it.

``coefficient * experts * sum_e share(e) * probability(e)``, where ``share`` is the part of the positions that are sent
to an expert and ``probability`` what the router gives it on average (Fedus et al., *Switch Transformers*, arXiv
2101.03961, equations 4 to 6). Evenly used experts have a sum of ``experts_per_token / experts``, the lowest there is.

It is on where the model's configuration has ``output_router_logits: true``, with its ``router_aux_loss_coef``, and then
is what ``model(labels=...)`` adds to its loss. Every position counts alike, in superposition the bags, in packed rows
also those that pad them: the loss is about where positions are sent, and those are sent too. Experts are balanced over
each micro-batch of each device on its own.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from transformers import PretrainedConfig

from tst_lightning.errors import UserError

SUPPORTED = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe")
"""Model types, each tested against its own loss. Others name things differently, or only carry the flag."""


@dataclass(frozen=True)
class RouterBalance:
    """Args:
    loss: ``load_balancing_loss_func`` of the model's family.
    coefficient: ``router_aux_loss_coef``.
    experts: of a layer.
    experts_per_token: that a position is sent to.
    """

    loss: Callable[..., Tensor]
    coefficient: float
    experts: int
    experts_per_token: int

    def __call__(self, router_logits: tuple[Tensor, ...]) -> Tensor:
        """A scalar, from each layer's logits ``(B*L, experts)``."""
        return self.coefficient * self.loss(router_logits, self.experts, self.experts_per_token)


def router_balance(config: PretrainedConfig) -> RouterBalance | None:
    """What a model of this configuration adds to its loss; None if nothing.

    Raises:
        UserError: ``output_router_logits`` with a model whose loss is not known.
    """
    config = config.get_text_config()
    if not getattr(config, "output_router_logits", False):
        return None
    kind = config.model_type
    if kind not in SUPPORTED:
        raise UserError(
            "output_router_logits=true asks for the loss that balances the experts of a mixture, which is known for "
            f"{', '.join(SUPPORTED)} and not for {kind}: set it to false"
        )
    if not config.router_aux_loss_coef:
        return None
    modeling = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    experts = config.num_local_experts if kind == "mixtral" else config.num_experts
    return RouterBalance(
        modeling.load_balancing_loss_func, config.router_aux_loss_coef, experts, config.num_experts_per_tok
    )
