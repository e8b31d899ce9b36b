"""Activation checkpointing: a decoder layer keeps its input, and computes all else again in the backward pass.

Chen et al., *Training Deep Nets with Sublinear Memory Cost*, arXiv 1604.06174. transformers' models do it themselves,
with torch's ``checkpoint``, and only in training mode. Names of parameters stay as they are, random numbers (dropout)
are drawn again as they were, and what hooks have captured (a router's logits) is captured once. Embedding, head and
loss are outside the layers: they are computed once.
"""

from contextlib import suppress

from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

from tst_lightning.errors import UserError


def require_recomputable(config: PretrainedConfig) -> None:
    """Refuse a kind of model whose layers transformers cannot recompute, before one is built.

    Raises:
        UserError: it is of that kind.
    """
    kinds = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), ())
    kinds = kinds if isinstance(kinds, list | tuple) else (kinds,)
    if kinds and not any(kind.supports_gradient_checkpointing for kind in kinds):
        raise _unsupported(kinds[0])


def recompute_layers(model: nn.Module) -> None:
    """Let each decoder layer of a Hugging Face causal LM recompute its activations, in training mode.

    Args:
        model: its weights may be sharded already, or be sharded afterwards.

    Raises:
        UserError: transformers cannot do it for this model.
    """
    # Newer releases name it so, and warn of the older name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:  # a model that its library's mapping does not know
        raise _unsupported(type(model)) from error
    # For adapters on frozen weights it also makes the embedding's output require gradients, by hooks that cannot be
    # pickled. Here the embedding itself is trained.
    with suppress(AttributeError):  # releases that make none
        model.disable_input_require_grads()


def _unsupported(kind: type) -> UserError:
    return UserError(
        f"activation_checkpointing=true: transformers cannot recompute the layers of {kind.__name__}: set it to "
        "false, or choose another model (such as Llama)"
    )
