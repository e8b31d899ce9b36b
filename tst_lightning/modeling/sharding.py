"""Fully sharded training: every process keeps a share of the weights, gradients and optimizer state.

Lightning's ``ModelParallelStrategy`` makes the processes, torch's ``fully_shard`` does the work: a decoder layer's
weights are gathered while it computes. Embedding, last norm and head belong to the LightningModule itself, whose
``forward`` is the whole step: its loss reads the head's weight, and superposition calls the embedding, without a
layer's ``forward`` around them.
"""

from typing import Any

from torch import nn

from tst_lightning.errors import UserError


def require_supported(strategy: Any) -> None:
    """Refuse strategies that would train another thing.

    Raises:
        UserError: ``FSDPStrategy``, or ``ModelParallelStrategy`` with tensor parallelism.
    """
    remedy = "use ModelParallelStrategy with tensor_parallel_size=1, as configs/trainer/fsdp.yaml does"
    if type(strategy).__name__ == "FSDPStrategy":
        # It makes every weight a vector, and vectors get no weight decay.
        raise UserError(f"strategy FSDPStrategy is not supported, it hides which weights are matrices: {remedy}")
    mesh = getattr(strategy, "device_mesh", None)
    if mesh is not None and mesh["tensor_parallel"].size() > 1:
        raise UserError(f"tensor_parallel_size={mesh['tensor_parallel'].size()} is not supported: {remedy}")


def shard(module: nn.Module, model: nn.Module, mesh: Any) -> None:
    """Shard the weights of ``module`` over the data-parallel part of ``mesh``, layer by layer.

    Args:
        module: its ``forward`` is the whole step.
        model: the Hugging Face model in it, with its initial weights, the same in every process.
        mesh: of ``ModelParallelStrategy``.
    """
    from torch.distributed.fsdp import fully_shard

    replicas = mesh["data_parallel"]
    layers = set(model._no_split_modules or ())  # names of the classes of layers, for all who split models
    for part in model.modules():
        if type(part).__name__ in layers:
            fully_shard(part, mesh=replicas)
    fully_shard(module, mesh=replicas)


def is_sharded(module: nn.Module) -> bool:
    """Whether ``shard`` has been applied."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def reshard(module: nn.Module) -> None:
    """Drop whole weights that a validation has gathered and left, so that parameters are the shards again."""
    if is_sharded(module):
        for part in module.modules():
            if is_sharded(part):
                part.reshard()
