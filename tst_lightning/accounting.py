"""What a run has cost and read.

FLOPs are counted structurally, per position and for forward and backward together: 6 for every weight of a
matrix product (the head included, the input embedding's table look-up not) and ``12 * width * L`` for the two
attention products of each layer, causal masking not discounted (the convention of PaLM, arXiv 2204.02311,
appendix B). Averaging a bag's embeddings costs ``s * d`` additions a position and is not counted, so a position
costs the same in superposition and in recovery. What an implementation computes twice is not counted either: attention
in the backward of a fused kernel, and what activation checkpointing computes again, for which there is
``recomputed_flops_per_position``. So a share of a device's peak is model FLOPs utilisation (MFU), with the same meaning
whether activations are recomputed or not; it is not hardware FLOPs utilisation (HFU).
"""

import re
from dataclasses import asdict, dataclass

from torch import nn
from transformers import PretrainedConfig

from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule

_EXPERTS = re.compile(r"(^|\.)experts\.")
"""In a weight's name. ``shared_experts`` are none of these: every position goes through them."""


def matrix_parameters(model: nn.Module) -> int:
    """Weights that take part in a matrix product for each position; a tied head counts, its table does not.

    Of a mixture of experts, as many count as a position is sent to.

    Raises:
        UserError: expert weights in a model whose configuration does not say how many experts are active, or weights
            with three and more dimensions that are no experts', such as a convolution's.
    """
    total = 0
    for module_name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            continue
        for name, weight in module.named_parameters(recurse=False):
            path = f"{module_name}.{name}"
            is_expert = _EXPERTS.search(path) is not None
            if weight.ndim >= 3 and not is_expert:
                raise UserError(
                    f"the FLOPs of a {model.config.model_type} model cannot be counted: '{path}' has {weight.ndim} "
                    "dimensions and is no expert's, and only plain matrix products are counted"
                )
            if weight.ndim >= 2:
                total += round(weight.numel() * (_active_share(model.config) if is_expert else 1))
    return total


def _active_share(config: PretrainedConfig) -> float:
    config = config.get_text_config()
    active = getattr(config, "num_experts_per_tok", None)
    experts = [getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")]
    every = next((number for number in experts if number), None)
    if not active or not every:
        raise UserError(
            f"the FLOPs of a {config.model_type} model cannot be counted: it has weights of experts, "
            "and its configuration has no num_experts_per_tok and num_experts to say how many are active"
        )
    return active / every


def flops_per_position(model: nn.Module, sequence_length: int, added_matrix_parameters: int = 0) -> int:
    """Training FLOPs (forward and backward) of one position in a row of ``sequence_length``.

    Args:
        model: a Hugging Face causal LM; its ``config`` gives layers and attention width.
        sequence_length: ``L``, positions of a row.
        added_matrix_parameters: weights of matrix products that only the training has, such as the heads of
            multi-token prediction.

    Raises:
        UserError: a model without attention heads or with low-rank keys and values, or see ``matrix_parameters``.
    """
    config = model.config.get_text_config()
    if not getattr(config, "num_attention_heads", None):
        raise UserError(f"the FLOPs of a {config.model_type} model cannot be counted: it has no attention heads")
    if getattr(config, "kv_lora_rank", None):
        raise UserError(
            f"the FLOPs of a {config.model_type} model cannot be counted: the heads of its latent attention "
            "(kv_lora_rank) have no single width"
        )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention_width = config.num_attention_heads * head_dim
    weights = matrix_parameters(model) + added_matrix_parameters
    return 6 * weights + 12 * config.num_hidden_layers * attention_width * sequence_length


def recomputed_flops_per_position(model: nn.Module, sequence_length: int) -> int:
    """FLOPs of a position that activation checkpointing adds to ``flops_per_position``, at most.

    A forward pass, a third of the whole, of all but the head. torch stops recomputing a layer once it has all that the
    backward pass needs, usually before the layer's last matrix product.

    Args:
        model: a Hugging Face causal LM.
        sequence_length: positions of a row.
    """
    head = model.get_output_embeddings()
    return (flops_per_position(model, sequence_length) - 6 * head.weight.numel()) // 3


@dataclass(frozen=True)
class Counts:
    """What a run has read by some optimizer step, over all devices."""

    data_tokens: int
    """Tokens that were targets, or would be with ``s = 1``."""
    positions: int

    @classmethod
    def of_schedule(cls, schedule: Schedule, positions_per_step: int, steps: int) -> "Counts":
        """After ``steps`` steps of ``positions_per_step`` positions (over micro-batches and devices), all of text."""
        return cls(schedule.data_tokens(steps, positions_per_step), schedule.positions(steps, positions_per_step))

    def with_flops(self, flops_per_position: int) -> dict[str, int]:
        """``data_tokens``, ``positions`` and ``flops``; see ``flops_per_position``."""
        return asdict(self) | {"flops": self.positions * flops_per_position}
