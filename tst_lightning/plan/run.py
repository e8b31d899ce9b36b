"""What a resolved `fit` configuration says of devices, steps and stages; nothing is built and no data are touched."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tst_lightning.comparison.design.configured import (
    SUPERPOSITION,
    built_callbacks,
    require_startable,
)
from tst_lightning.errors import UserError
from tst_lightning.precision import ARITHMETIC, precision_name
from tst_lightning.schedule import Schedule

SINGLE, DDP, FSDP2 = "one device", "DDP", "FSDP2"
_STRATEGIES = {
    "auto": None,
    "SingleDeviceStrategy": SINGLE,
    "single_device": SINGLE,
    "DDPStrategy": DDP,
    "ModelParallelStrategy": FSDP2,
}
_DDP_NAMES = re.compile(r"ddp(_spawn|_fork|_notebook)?(_find_unused_parameters_(true|false))?")
"""However Lightning starts the processes, each of them holds the same."""


@dataclass(frozen=True)
class Devices:
    """How many devices share the work, and how."""

    count: int
    """Over all machines."""
    strategy: str
    """``SINGLE``, ``DDP`` or ``FSDP2``."""
    data_parallel: int
    """Groups that each read batches of their own."""
    tensor_parallel: int
    """Devices that compute a row together."""
    on_gpu: bool
    buckets_are_gradients: bool = False
    """DDP's ``gradient_as_bucket_view``: without it, gradients are there twice."""

    def __str__(self) -> str:
        kind = "GPU" if self.on_gpu else "CPU process"
        text = f"{self.count} {kind}{'' if self.count == 1 else 's' if self.on_gpu else 'es'}"
        if self.count == 1 and self.strategy != FSDP2:
            return text
        sizes = f", tensor parallel {self.tensor_parallel}" if self.tensor_parallel > 1 else ""
        return f"{text}, {self.strategy} over {self.data_parallel}{sizes}"


@dataclass(frozen=True)
class FitPlan:
    """A `fit` as configured."""

    config: Mapping[str, Any]
    """Resolved, as `fit` keeps it in ``config.yaml``."""
    devices: Devices
    precision: str
    max_steps: int
    accumulate: int
    """Micro-batches of an optimizer step."""
    schedule: Schedule
    """Of superposition. With a length curriculum, of rows of full length: their lengths depend on the data."""
    superposition: Any = field(default=None, compare=False)
    """The callback, if there is one."""

    @property
    def rows_per_step(self) -> int:
        """Of a stage with ``row_divisor`` 1, over all devices."""
        return self.config["data"]["batch_size"] * self.accumulate * self.devices.data_parallel

    @property
    def sequence_length(self) -> int:
        return self.config["data"]["sequence_length"]


def fit_plan(config: Mapping[str, Any]) -> FitPlan:
    """Read a resolved configuration.

    Raises:
        UserError: it has no length in steps or no number of devices, a strategy or precision that is not planned for,
            or options that `fit` would refuse.
    """
    trainer, data = config["trainer"], config["data"]
    steps = trainer["max_steps"]
    if not isinstance(steps, int) or steps < 1:
        raise UserError(
            f"trainer.max_steps is {steps}, and a plan is by steps: set it to the number of optimizer steps"
        )
    for name in ("batch_size", "sequence_length"):
        if data[name] < 1:
            raise UserError(f"data.{name} is at least 1, got {data[name]}")
    precision = precision_name(trainer.get("precision"))
    if precision not in ARITHMETIC:
        raise UserError(f"trainer.precision={precision} is not planned for: choose {', '.join(sorted(ARITHMETIC))}")
    # Weights from a file need the file; one number more or less per target makes no difference here.
    callbacks = built_callbacks(config, SUPERPOSITION, without=("weights_file",))
    schedule = callbacks[0].stages.schedule(steps) if callbacks else Schedule()
    require_startable(config, schedule)
    return FitPlan(
        config, _devices(trainer), precision, steps, trainer["accumulate_grad_batches"], schedule,
        callbacks[0] if callbacks else None,
    )  # fmt: skip


def _devices(trainer: Mapping[str, Any]) -> Devices:
    accelerator = str(trainer.get("accelerator", "auto"))
    on_gpu = accelerator in ("gpu", "cuda", "mps")
    if accelerator not in ("gpu", "cuda", "mps", "cpu", "auto"):
        raise UserError(f"trainer.accelerator={accelerator} is not planned for: choose gpu or cpu")
    if accelerator == "auto":
        import torch

        on_gpu = torch.cuda.is_available()
    nodes = int(trainer.get("num_nodes") or 1)
    each = _number(trainer.get("devices", "auto"), on_gpu)
    count = nodes * each
    name, options = _strategy(trainer.get("strategy", "auto"))
    if _DDP_NAMES.fullmatch(name):
        name = "DDPStrategy"
    if name not in _STRATEGIES:
        known = ", ".join(["ddp", *_STRATEGIES])
        raise UserError(f"trainer.strategy={name} is not planned for: choose among {known}")
    strategy = _STRATEGIES[name] or (SINGLE if count == 1 else DDP)
    data, tensor = count, 1
    if strategy == FSDP2:
        data, tensor = options.get("data_parallel_size", "auto"), options.get("tensor_parallel_size", "auto")
        data, tensor = nodes if data == "auto" else int(data), each if tensor == "auto" else int(tensor)
        if data * tensor != count:
            raise UserError(
                f"data_parallel_size={data} times tensor_parallel_size={tensor} is not the number of devices, {count} "
                f"(trainer.devices={each} on trainer.num_nodes={nodes})"
            )
    elif strategy == SINGLE and count > 1:
        raise UserError(f"trainer.strategy={name} with {count} devices: choose ddp, or one device")
    return Devices(count, strategy, data, tensor, on_gpu, bool(options.get("gradient_as_bucket_view", False)))


def _number(devices: Any, on_gpu: bool) -> int:
    """Devices of one machine."""
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    if not on_gpu and devices == "auto":
        return 1
    try:
        number = int(devices)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise UserError(
            f"trainer.devices={devices} does not say how many: set it to the number of devices a machine has"
        )
    return number


def _strategy(strategy: Any) -> tuple[str, Mapping[str, Any]]:
    """Name, and options of its class."""
    if isinstance(strategy, Mapping):
        return str(strategy.get("class_path", "")).rpartition(".")[2], strategy.get("init_args") or {}
    return str(strategy), {}
