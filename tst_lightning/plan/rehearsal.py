"""A training step on fake tensors: the run's own code, with shapes and lifetimes but without memory or arithmetic.

The model, its sharding, superposition, loss and optimizer are the run's; only collectives do nothing (torch's ``fake``
process group) and every device is a CPU. What differs on a GPU and matters for memory is set as it would be there: the
chunks of the loss, and an AdamW that updates all parameters together.

The order is Lightning's: forward, then ``zero_grad``, then backward, so that the gradients of the step before are
there while activations grow.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from tst_lightning import losses
from tst_lightning.auxiliary.losses import AuxiliaryLosses
from tst_lightning.bags import shift, superpose_embedding
from tst_lightning.modeling.building import new_model
from tst_lightning.module import CausalLMModule
from tst_lightning.optimizers import parameter_groups
from tst_lightning.plan.live_bytes import LiveBytes, local

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
WEIGHTS = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}


@dataclass(frozen=True)
class StepShape:
    """A micro-batch on one device."""

    rows: int
    positions: int
    """Of a row."""
    bag_size: int
    target_bag_size: int
    loss: Callable[..., Tensor]
    isolated: bool = False
    """Whether it comes with the positions of documents."""


@dataclass(frozen=True)
class Peak:
    """Bytes alive at the fullest moment of a step, on one device."""

    by_kind: dict[str, int]
    """``parameters`` (with buffers), ``gradients``, ``optimizer``, ``activations``, ``loss``, ``gathered`` (weights
    and buffers of collectives), ``working`` (made in the backward pass or by the optimizer)."""
    moment: str
    """``activations`` (forward), ``loss``, ``working`` (backward) or ``optimizer``."""

    @property
    def total_bytes(self) -> int:
        return sum(self.by_kind.values())


@dataclass(frozen=True)
class Rehearsal:
    """What a device holds."""

    state_bytes: dict[str, int]
    """Of ``parameters`` (with buffers), ``gradients`` and ``optimizer`` when all are there."""
    peaks: tuple[Peak, ...]
    """Of each shape that was asked for."""
    checkpoint_bytes: int
    """Weights, buffers and optimizer state of all devices together."""


def rehearse(
    module: CausalLMModule,
    shapes: Sequence[StepShape],
    precision: str = "32-true",
    accumulate: int = 1,
    on_gpu: bool = False,
    mesh_sizes: tuple[int, int] | None = None,
) -> Rehearsal:
    """Take training steps of these shapes, one after the other.

    Args:
        module: new, without a model; it is of no use afterwards.
        shapes: of the micro-batches.
        precision: the Trainer's.
        accumulate: micro-batches of a step.
        on_gpu: whether the run is on GPUs.
        mesh_sizes: data-parallel and tensor-parallel size of ``ModelParallelStrategy``; None for whole models.
    """
    tracker = LiveBytes()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with _fake_mesh(module, mesh_sizes), _as_on(on_gpu), fake:
        # Built here, so that ``configure_model`` only shards it: also what starts from a checkpoint.
        module.model = new_model(module.config, module.init_seed)
        module.auxiliary_losses = AuxiliaryLosses(module.model, module.multi_token, module.init_seed)
        module.model.train()
        with unset_fake_temporarily():  # a mesh computes with the ranks of its processes
            module.configure_model()
        if dtype := WEIGHTS.get(precision):
            module.to(dtype)
        superpose_embedding(module.get_input_embeddings())
        optimizer = module.optimizer_factory(parameter_groups(module))
        for group in optimizer.param_groups:
            if on_gpu and group.get("foreach", False) is None and not group.get("fused"):
                group["foreach"] = True  # torch's default for CUDA
        tracker.relabel([*module.parameters(), *module.buffers()], "parameters")
        if mesh_sizes is None:
            for parameter in module.parameters():
                parameter.register_post_accumulate_grad_hook(lambda p: tracker.relabel([p.grad], "gradients"))
        with tracker:
            _make_state(optimizer)
            tracker.relabel([parameter.grad for parameter in module.parameters()], "gradients")
            states = [value for state in optimizer.state.values() for value in state.values()]
            tracker.relabel([value for value in states if isinstance(value, Tensor)], "optimizer")
            held = {kind: tracker.live[kind] for kind in ("parameters", "gradients", "optimizer")}
            step = _Step(module, optimizer, tracker, AUTOCAST.get(precision), min(accumulate, 2))
            whole = _saved_bytes([*module.state_dict().values(), *states])
            return Rehearsal(held, tuple(step(shape) for shape in shapes), whole)


def _saved_bytes(values: Sequence[Any]) -> int:
    """Of the whole tensors, each storage once: tied weights are saved once."""
    tensors = {id(local(value).untyped_storage()): value for value in values if isinstance(value, Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """Leave gradients and optimizer state as any step but the first finds them."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


class _Step:
    """One optimizer step on micro-batches of a shape."""

    def __init__(
        self,
        module: CausalLMModule,
        optimizer: torch.optim.Optimizer,
        tracker: LiveBytes,
        autocast: torch.dtype | None,
        accumulate: int,
    ) -> None:
        self._module, self._optimizer, self._tracker = module, optimizer, tracker
        self._autocast, self._accumulate = autocast, accumulate

    def __call__(self, shape: StepShape) -> Peak:
        tracker = self._tracker
        tracker.reset_peak()
        for micro in range(self._accumulate):
            with tracker.labelled("activations"):
                total = self._forward(shape)
            if micro == 0:
                self._optimizer.zero_grad()
            with tracker.labelled("working"):
                total.backward()
            del total
            tracker.relabel([parameter.grad for parameter in self._module.parameters()], "gradients")
        with tracker.labelled("optimizer step"):
            self._optimizer.step()
        kinds = dict(tracker.peak)
        kinds["working"] = kinds.get("working", 0) + kinds.pop("optimizer step", 0)
        return Peak({kind: count for kind, count in kinds.items() if count}, tracker.peak_moment)

    def _forward(self, shape: StepShape) -> Tensor:
        tracker = self._tracker

        def loss(*arguments: Any) -> Tensor:
            with tracker.labelled("loss"):
                return shape.loss(*arguments)

        tokens = torch.zeros((shape.rows, shape.positions + 1, shape.bag_size), dtype=torch.int32)
        inputs, targets = shift(tokens)
        position_ids = None
        if shape.isolated:
            position_ids = torch.zeros((shape.rows, shape.positions), dtype=torch.int32)
        autocast = torch.autocast("cpu", self._autocast) if self._autocast else contextlib.nullcontext()
        with autocast:
            main, auxiliary = self._module(inputs, targets, loss, position_ids)
            return sum(auxiliary.values(), main)


@contextlib.contextmanager
def _fake_mesh(module: CausalLMModule, sizes: tuple[int, int] | None) -> Iterator[None]:
    """Give the module a mesh of processes that do not exist."""
    if sizes is None:
        yield
        return
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=sizes[0] * sizes[1], store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("data_parallel", "tensor_parallel"))
        with patch.object(type(module), "device_mesh", mesh):  # Lightning's property, which only a strategy can set
            yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _as_on(on_gpu: bool) -> Iterator[None]:
    """The loss chooses its chunks by device; and it keeps constants, which must not be fake ones afterwards."""
    chunks = {"cpu": losses.CHUNK_ELEMENTS["cuda" if on_gpu else "cpu"]}
    losses.weights_on_device.cache_clear()
    try:
        with patch.dict(losses.CHUNK_ELEMENTS, chunks):
            yield
    finally:
        losses.weights_on_device.cache_clear()
