"""Fully sharded training: every process keeps a share of the weights, gradients and optimizer state.

Lightning's ``ModelParallelStrategy`` makes the processes, torch's ``fully_shard`` does the work: a decoder layer's
weights are gathered while it computes. Embedding, last norm and head belong to the LightningModule itself, whose
``forward`` is the whole step: its loss reads the head's weight, and superposition calls the embedding, without a
layer's ``forward`` around them.
"""

from itertools import chain
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from transformers import PretrainedConfig

from tst_lightning.modeling.building import new_model
from tst_lightning.modeling.initial_weights import NotByLayerError, draw_weights
from tst_lightning.modeling.tensor_parallel import split


def shard(module: nn.Module, model: nn.Module, mesh: Any) -> None:
    """Shard the weights of ``module`` over the data-parallel part of ``mesh``, layer by layer.

    Args:
        module: its ``forward`` is the whole step.
        model: the Hugging Face model in it, with weights that are the same in every process, or on the meta device.
        mesh: of ``ModelParallelStrategy``.
    """
    from torch.distributed.fsdp import fully_shard

    if mesh["tensor_parallel"].size() > 1:
        split(module, model, mesh["tensor_parallel"])
    replicas = mesh["data_parallel"]
    layers = set(model._no_split_modules or ())  # names of the classes of layers, for all who split models
    for part in model.modules():
        if type(part).__name__ in layers:
            fully_shard(part, mesh=replicas)
    fully_shard(module, mesh=replicas)


def fill_shards(module: nn.Module, model: nn.Module, config: PretrainedConfig, seed: int) -> None:
    """Give a sharded model that has no weights yet those of ``new_model(config, seed)``; no communication.

    Every process draws all of them, a layer at a time, and keeps its shards: about as long as one process takes.

    Args:
        module: that ``shard`` has been applied to; what it has beside the model keeps its values.
        model: ``outline(config)`` in it.
        config: of the model.
        seed: of the weights; they are drawn on torch's default device.
    """
    device = torch.get_default_device()
    module._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
    places = dict(model.named_parameters()) | dict(model.named_buffers())

    def take(name: str, value: Tensor) -> None:
        copy_whole(places[name], value)

    try:
        draw_weights(config, seed, take)
    except NotByLayerError as why:
        rank_zero_warn(f"every process builds the whole {type(model).__name__} before it keeps its shards: {why}")
        whole = new_model(config, seed)
        for name, value in chain(whole.named_parameters(), whole.named_buffers()):
            take(name, value)


@torch.no_grad()
def copy_whole(place: Tensor, value: Tensor) -> None:
    """Set a tensor, or this process' shard of it, to ``value``, which is whole and the same in every process."""
    value = value.to(place.device, place.dtype)
    if hasattr(place, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value, place.device_mesh, place.placements, src_data_rank=None)
    place.copy_(value)


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
