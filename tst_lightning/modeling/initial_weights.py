"""The random weights of a model a layer at a time, for processes that must not hold all of it.

``outline(config)`` is the model without weights; ``draw_weights(config, seed, take)`` calls ``take(name, value)`` with
each weight that ``new_model(config, seed)`` would have, bit by bit. torch has one stream of random numbers, so the
order in which they are drawn is part of the values. It is that of the constructors, which are run for it:

- torch's modules draw while they are made (``reset_parameters``). Their parameters are on the meta device, so the
  numbers are drawn into a tensor beside them, and dropped, as transformers' next step drops them too.
- transformers draws anew, for the body as soon as it is made, for the head after it. Here the weights of a layer (or
  of a module outside the layers) exist while the model's own ``_init_weights`` fills them, and are handed over.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.initialization import guard_torch_init_functions

Take = Callable[[str, Tensor], None]


class NotByLayerError(Exception):
    """A model whose weights cannot be drawn a layer at a time; why, as a clause."""


def outline(config: PretrainedConfig, dtype: torch.dtype | None = torch.float32) -> nn.Module:
    """The causal LM of ``config`` with its parameters on the meta device; buffers are whole, ties are tied."""
    with isolate_rng(), _construction(lambda part: None):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def draw_weights(config: PretrainedConfig, seed: int, take: Take) -> None:
    """Call ``take`` with the name and value of every parameter and buffer of ``new_model(config, seed)``.

    One layer's values exist at a time, on torch's default device. Tied weights come once, by the name that they are
    tied to. No other random numbers are drawn, and ``take`` must not draw any.

    Raises:
        NotByLayerError: the model is of another kind; ``take`` may have been called.
    """
    parts: list[PreTrainedModel] = []
    with isolate_rng(), _construction(parts.append):
        named = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # Bodies fill their weights before they belong to a model: their names are those of the same body there.
    names = {id(part): f"{name}." if name else "" for name, part in named.named_modules()}
    prefixes = (names.get(id(part)) for part in parts)
    numbers = _NumbersOfMeta()

    def fill(part: PreTrainedModel) -> None:
        prefix = next(prefixes)

        def take_named(name: str, value: Tensor) -> None:
            if prefix is not None and prefix + name not in named.all_tied_weights_keys:
                take(prefix + name, value)

        with guard_torch_init_functions(), torch.no_grad():
            _fill(part, part, "", take_named, numbers)

    with isolate_rng(), numbers, _construction(fill):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, buffer in model.named_buffers():
        take(name, buffer)


def _fill(module: nn.Module, owner: PreTrainedModel, prefix: str, take: Take, numbers: "_NumbersOfMeta") -> None:
    """What ``PreTrainedModel.initialize_weights`` does, in its order, with weights that come and go."""
    owner = module if isinstance(module, PreTrainedModel) else owner
    is_layer = type(module).__name__ in (owner._no_split_modules or ())
    if not is_layer:
        for name, child in module.named_children():
            _fill(child, owner, f"{prefix}{name}.", take, numbers)
    if getattr(module, "_is_hf_initialized", False):
        return
    with _weights(module, recurse=is_layer) as weights:
        with numbers.of_no_meta():
            for part, its_owner in _children_first(module, owner) if is_layer else [(module, owner)]:
                its_owner._initialize_weights(part, owner.is_custom_code())
        for name, value in weights.items():
            if value.is_floating_point() and value.isnan().any():
                raise NotByLayerError(f"'{prefix}{name}' is not filled by its _init_weights")
            take(prefix + name, value)


def _children_first(module: nn.Module, owner: PreTrainedModel) -> Iterator[tuple[nn.Module, PreTrainedModel]]:
    owner = module if isinstance(module, PreTrainedModel) else owner
    for child in module.children():
        yield from _children_first(child, owner)
    yield module, owner


@contextmanager
def _weights(module: nn.Module, recurse: bool) -> Iterator[dict[str, Tensor]]:
    """Give the parameters of ``module`` memory, NaN for now, and take it away again; the values by name."""
    places = [
        (part, name, parameter)
        for part in (module.modules() if recurse else [module])
        for name, parameter in part._parameters.items()
        if parameter is not None
    ]
    whole = {parameter: _with_memory(parameter) for _, _, parameter in places}
    named = dict(module.named_parameters(recurse=recurse))
    for part, name, parameter in places:
        part._parameters[name] = whole[parameter]
    try:
        yield {name: whole[parameter].detach() for name, parameter in named.items()}
    finally:
        for part, name, parameter in places:
            part._parameters[name] = parameter


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=torch.get_default_device())


def _with_memory(parameter: nn.Parameter) -> nn.Parameter:
    value = _empty(parameter)
    if value.is_floating_point():
        value.fill_(torch.nan)
    return nn.Parameter(value, requires_grad=parameter.requires_grad)


@contextmanager
def _construction(fill: Callable[[PreTrainedModel], None]) -> Iterator[None]:
    """Put parameters on the meta device as modules register them, and call ``fill`` to initialise a model's weights."""
    register, initialize = nn.Module.register_parameter, PreTrainedModel.initialize_weights

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            attributes = vars(parameter)
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
            vars(parameter).update(attributes)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta
    PreTrainedModel.initialize_weights = lambda model: fill(model)  # a function, so that it becomes a method
    try:
        yield
    finally:
        nn.Module.register_parameter, PreTrainedModel.initialize_weights = register, initialize


class _NumbersOfMeta(TorchDispatchMode):
    """Draws the random numbers that filling a tensor would take, where the tensor is on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self._meta_is_wrong = False

    @contextmanager
    def of_no_meta(self) -> Iterator[None]:
        """Nothing may be done to tensors on the meta device meanwhile: it would be lost."""
        self._meta_is_wrong = True
        try:
            yield
        finally:
            self._meta_is_wrong = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(value, Tensor) and value.is_meta for value in tree_leaves((args, kwargs))):
            if self._meta_is_wrong:
                raise NotByLayerError(f"its _init_weights reaches across layers ({function})")
            if torch.Tag.nondeterministic_seeded in function.tags:
                beside = tree_map_only(Tensor, lambda value: _empty(value) if value.is_meta else value, (args, kwargs))
                function(*beside[0], **beside[1])
        return function(*args, **kwargs)
