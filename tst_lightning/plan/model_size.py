"""How many parameters the model of a configuration has, told on the meta device: no weight exists."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tst_lightning.accounting import matrix_parameters
from tst_lightning.errors import UserError
from tst_lightning.modeling.outlined import Outlined
from tst_lightning.module import CausalLMModule
from tst_lightning.parsing.errors import as_user_error


@dataclass(frozen=True)
class ModelSize:
    """Numbers of parameters; a tied head is counted with the embedding."""

    total: int
    """Of the language model, as exported."""
    active: int
    """That take part in a position: of a mixture's experts, as many as it is sent to."""
    embedding: int
    """Also of positions, where they are learned."""
    head: int
    layers: int
    """All else."""
    training_only: int
    """Beside the model: heads of multi-token prediction."""


class OutlinedModel(Outlined):
    """The model of a LightningModule without weights.

    Args:
        module: without a model yet.
    """

    def __init__(self, module: CausalLMModule) -> None:
        super().__init__(module.config, module.multi_token)

    def size(self) -> ModelSize:
        """Count the parameters."""
        tables = [part for part in self.model.modules() if isinstance(part, nn.Embedding)]
        in_tables = {parameter for part in tables for parameter in part.parameters()}
        head = self.model.get_output_embeddings()
        in_head = set() if head is None else set(head.parameters()) - in_tables
        every = set(self.model.parameters())
        total, embedding, of_head = (sum(p.numel() for p in group) for group in (every, in_tables, in_head))
        matrices = sum(
            weight.numel()
            for part in self.model.modules()
            if not isinstance(part, nn.Embedding)
            for weight in part.parameters(recurse=False)
            if weight.ndim >= 2
        )
        inactive = matrices - matrix_parameters(self.model)
        beside = sum(parameter.numel() for parameter in self.auxiliary.parameters())
        return ModelSize(total, total - inactive, embedding, of_head, total - embedding - of_head, beside)


def module_of(config: Mapping[str, Any]) -> CausalLMModule:
    """The LightningModule of a resolved configuration; its model is not built yet.

    Raises:
        UserError: options that `fit` would refuse.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(CausalLMModule, "model")
    try:
        with as_user_error():
            return parser.instantiate(parser.parse_object({"model": dict(config["model"])})).model
    except (ValueError, TypeError, ArithmeticError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the model's configuration is refused: {_first_cause(error)}") from error


def _first_cause(error: BaseException) -> str:
    """What was raised first, without the words that the parser has put around it."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
