"""The weights of ``model.pretrained`` one after the other, for processes that must not hold all of them.

Names and shapes in a model's files may be others than the model's: transformers renames, splits and fuses them while it
loads (the experts of a mixture are separate in the files and one tensor in the model). So its own loading is run, on an
outline of the model, a parameter at a time; each one is handed over instead of being set.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from tst_lightning.modeling.building import pretrained_model
from tst_lightning.modeling.initial_weights import NotByLayerError, Take
from tst_lightning.modeling.sharding import copy_whole


def fill_shards_from(name: str, module: nn.Module, model: nn.Module, seed: int) -> None:
    """Give a sharded model that has no weights yet those of ``pretrained_model(name, seed)``; no communication.

    Every process reads all of them, a parameter at a time, and keeps its shards.

    Args:
        name: folder of the model, or its name on the hub.
        module: that ``shard`` has been applied to; what it has beside the model keeps its values.
        model: ``outline`` of the model's configuration, in ``module``.
        seed: for weights that the files lack; then every process loads the whole model, with a warning.

    Raises:
        UserError: as of ``pretrained_model``.
    """
    device = torch.get_default_device()
    module._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
    places = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.device("cpu"):  # on a GPU transformers would first reserve memory for all of the model
        try:
            read_weights(name, set(dict(model.named_parameters())), lambda key, value: copy_whole(places[key], value))
        except NotByLayerError as why:
            rank_zero_warn(f"every process loads the whole of '{name}' before it keeps its shards: {why}")
            whole = pretrained_model(name, seed)
            for key, value in chain(whole.named_parameters(), whole.named_buffers()):
                copy_whole(places[key], value)


def read_weights(name: str, parameters: set[str], take: Take) -> None:
    """Call ``take`` with the name and fp32 value of every parameter of ``pretrained_model(name)``, and saved buffers.

    Of safetensors files no more is in memory than what one parameter is made of.

    Args:
        name: folder of the model, or its name on the hub.
        parameters: their names; those of tied weights once, as ``named_parameters`` gives them.
        take: is called once for each.

    Raises:
        NotByLayerError: the files hold other parameters; ``take`` may have been called.
        UserError: as of ``pretrained_model``.
    """
    taken: set[str] = set()

    def take_one(model: nn.Module, key: str, value: Tensor, info: Any, quantizer: Any) -> None:
        place = model.get_parameter_or_buffer(key)
        if quantizer is not None or key in taken or value.shape != place.shape:
            raise NotByLayerError(f"'{key}' in its files is not as the model has it")
        if isinstance(place, nn.Parameter) and key not in parameters:
            raise NotByLayerError(f"its files hold '{key}', which is tied to another weight")
        take(key, value)
        taken.add(key)
        info.missing_keys.discard(key)

    with _loading(take_one):
        pretrained_model(name, seed=0)
    if missing := sorted(parameters - taken):
        raise NotByLayerError(f"its files lack '{missing[0]}'")


@contextmanager
def _loading(take_one: Callable[..., None]) -> Iterator[None]:
    """Within, ``from_pretrained`` hands each parameter to ``take_one``, and leaves the model without weights."""
    try:
        from transformers import PreTrainedModel, core_model_loading  # the latter is transformers' own business
    except ImportError as error:
        raise NotByLayerError(f"this release of transformers loads in another way ({error})") from error
    replaced = [
        (core_model_loading, "set_param_for_module", take_one),
        (PreTrainedModel, "_finalize_model_loading", staticmethod(lambda model, config, info: info)),
    ]
    missing = [name for owner, name, _ in replaced if not hasattr(owner, name)]
    if missing:
        raise NotByLayerError(f"this release of transformers has no {missing[0]}")
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in replaced]
    threads = os.environ.get("HF_DEACTIVATE_ASYNC_LOAD")
    try:
        os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # threads would read ahead, up to the whole model
        for owner, name, value in replaced:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
        if threads is None:
            del os.environ["HF_DEACTIVATE_ASYNC_LOAD"]
        else:
            os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = threads
