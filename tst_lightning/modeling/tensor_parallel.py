"""Tensor parallelism: several devices compute one row together, each with a part of every matrix of a layer.

Transformers' models say how their decoder layers are split (``base_model_tp_plan`` of the configuration); torch's
``parallelize_module`` splits them so. Queries, keys, values and the first matrices of an MLP are split by their
outputs, that is by attention heads and hidden units (``colwise``), the matrices after them by their inputs, with one
sum over the devices (``rowwise``; Shoeybi et al., *Megatron-LM*, arXiv 1909.08053, section 3). Norms inside a head see
the device's own heads (``replicated_with_grad_allreduce``).

All else is whole on each device of the tensor dimension: embedding, norms between layers, head, the heads of
multi-token prediction. Each device of a tensor group reads the same rows, superposes the same bags and has the same
loss. Their parameters become ``DTensor``s too, replicated, so that all parameters have one mesh, as clipping of
gradients and optimizers want it. ``sharding.shard`` then shards everything over the data dimension.
"""

from typing import Any

from torch import Tensor, nn

from tst_lightning.errors import UserError

SUPPORTED = (
    "arcee", "cohere", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text", "gpt_neox", "granite", "llama",
    "mistral", "nanochat", "olmo", "qwen2", "qwen3", "smollm3", "starcoder2",
)  # fmt: skip
"""Model types, each tested against its whole self. Not every plan is right for training: Apertus' leaves out the
gradient that a weight gets on the other devices. Mixtures of experts and latent attention are split in other ways."""


def require_splittable(config: Any, size: int) -> None:
    """Refuse a model that ``split`` cannot split into ``size`` equal parts.

    Args:
        config: of Hugging Face.
        size: devices of the tensor dimension.

    Raises:
        UserError: a type of model that is not in ``SUPPORTED``, or sizes that do not divide.
    """
    config = config.get_text_config()
    remedy = "set the strategy's tensor_parallel_size to 1 and its data_parallel_size to all devices"
    if config.model_type not in SUPPORTED:
        raise UserError(
            f"tensor_parallel_size={size} is tested for models of type {', '.join(SUPPORTED)}, and not for "
            f"{config.model_type}: {remedy}"
        )
    heads = config.num_attention_heads
    sizes = {"num_attention_heads": heads, "num_key_value_heads": getattr(config, "num_key_value_heads", None) or heads}
    sizes["intermediate_size"] = config.intermediate_size
    uneven = [f"{name}={value}" for name, value in sizes.items() if value % size]
    if uneven:
        raise UserError(
            f"tensor_parallel_size={size} does not divide the model's {', '.join(uneven)}: choose a size that divides "
            "all of them, or " + remedy
        )


def split(module: nn.Module, model: nn.Module, mesh: Any) -> None:
    """Split the layers of ``model`` over ``mesh``, and replicate all other parameters of ``module`` over it.

    Args:
        module: the LightningModule, whose parameters all become ``DTensor``s.
        model: the Hugging Face model in it.
        mesh: one-dimensional, the tensor dimension.

    Raises:
        UserError: parameters in a module that is not a plain layer, which its own code would read as whole tensors.
    """
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    styles = {
        "colwise": ColwiseParallel,
        "rowwise": RowwiseParallel,
        # (B, L, heads, head width): its "sequence" is the heads. The gradient is summed by fully_shard.
        "replicated_with_grad_allreduce": lambda: SequenceParallel(sequence_dim=2, use_local_output=True),
    }
    plan = model.config.get_text_config().base_model_tp_plan
    parallelize_module(model.base_model, mesh, {name: styles[style]() for name, style in plan.items()})
    style = _replicated_style()
    for name, part in list(module.named_modules()):
        own = list(part.parameters(recurse=False))
        if not own or all(isinstance(parameter, DTensor) for parameter in own):
            continue
        if next(part.children(), None) is not None:
            raise UserError(
                f"tensor parallelism: '{name}' ({type(part).__name__}) has parameters beside its layers, and is not "
                "supported: set the strategy's tensor_parallel_size to 1"
            )
        parallelize_module(part, mesh, style)


def _replicated_style() -> Any:
    """A style for ``parallelize_module``: every device computes the whole of a layer, from and to plain tensors."""
    from torch.distributed.tensor import DTensor, Replicate, distribute_module, distribute_tensor
    from torch.distributed.tensor.parallel import ParallelStyle

    replicas: dict[nn.Parameter, nn.Parameter] = {}  # a tied head is the embedding's parameter, here too

    class ReplicatedParallel(ParallelStyle):
        def _apply(self, module: nn.Module, device_mesh: Any) -> nn.Module:
            def replicate(_name: str, part: nn.Module, mesh: Any) -> None:
                for name, parameter in list(part.named_parameters(recurse=False)):
                    if parameter not in replicas:
                        whole = distribute_tensor(parameter, mesh, [Replicate()], src_data_rank=self.src_data_rank)
                        replicas[parameter] = nn.Parameter(whole, requires_grad=parameter.requires_grad)
                    part.register_parameter(name, replicas[parameter])

            def enter(_module: nn.Module, inputs: tuple, mesh: Any) -> tuple:
                return (DTensor.from_local(inputs[0], mesh, [Replicate()], run_check=False), *inputs[1:])

            def leave(_module: nn.Module, output: Any, mesh: Any) -> Tensor:
                return output.to_local()

            return distribute_module(module, device_mesh, replicate, enter, leave)

    return ReplicatedParallel()


def whole_weight(weight: Tensor) -> Tensor:
    """A replicated weight as the plain tensor that it is on this device; another one as it is.

    For code that multiplies by a head's weight itself. Its gradient has to be the same on every device of the mesh.
    """
    return weight.to_local() if hasattr(weight, "to_local") else weight
