"""What the options of a run must be that Lightning, PyTorch and transformers take as they come, or refuse late."""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tst_lightning.cores import available_cores
from tst_lightning.errors import UserError

MAX_PROCESSES_PER_CORE = 4
"""On a CPU, as "devices". Beyond it they only wait for one another, each with a model of its own in memory."""
MAX_SEED = 2**32 - 1
"""numpy's, which ``seed_everything`` sets too."""
_STARTED = ("LOCAL_RANK", "SLURM_PROCID", "TORCHELASTIC_RUN_ID")
"""In the environment of a process that Lightning, srun or torchrun has started, each beside the others."""
_LEAST_ONE = ("accumulate_grad_batches", "log_every_n_steps", "num_nodes")
_LIMITS = tuple(f"limit_{kind}_batches" for kind in ("train", "val", "test", "predict"))
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings",
)  # fmt: skip
"""Of a Hugging Face configuration, where it has them. Of -1 layers transformers makes a model that has none."""


def require_run_options(config: Any, defaults: Mapping[str, Any]) -> None:
    """Refuse values of a parsed ``fit``, ``validate`` or ``test`` that would end it later, or be trained with.

    Args:
        config: of the command.
        defaults: by dotted key.

    Raises:
        UserError: naming every problem found.
    """
    groups = {name: getattr(config, name, None) for name in ("model", "data", "trainer")}
    if wrong := [f"{name} is {value!r}" for name, value in groups.items() if not hasattr(value, "keys")]:
        raise UserError(f"{', '.join(wrong)}: give a mapping of its options, as the files in configs/ do")
    nulls = [key for key, default in defaults.items() if default is not None and config.get(key, default) is None]
    # Lightning's own null stands for a default of its own.
    if nulls := [key for key in nulls if not key.startswith("trainer.")]:
        raise UserError(f"{', '.join(nulls)}: null is no value here; give one, or leave it out for the default")
    if problems := [*_seed_problems(config), *_trainer_problems(config.trainer)]:
        raise UserError("; ".join(problems))


def require_model_sizes(config: Any) -> None:
    """Refuse a Hugging Face configuration of which no model can be made; raises ``UserError``."""
    from transformers.activations import ACT2FN

    config = config.get_text_config()
    sizes = {name: getattr(config, name, None) for name in _SIZES}
    wrong = [f"{name}={value}" for name, value in sizes.items() if isinstance(value, int | float) and not value >= 1]
    if wrong:
        raise UserError(f"model.config has {', '.join(wrong)}: give integers of at least 1")
    activation = getattr(config, "hidden_act", None)
    if isinstance(activation, str) and activation not in ACT2FN:
        raise UserError(f"model.config has hidden_act={activation!r}: choose one of {', '.join(sorted(ACT2FN))}")


def require_optimizer(factory: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Refuse options that the optimizer does not take, before there is a model; raises ``UserError``."""
    from torch import nn

    from tst_lightning.optimizers import parameter_groups

    try:
        factory(parameter_groups(_least_module(nn.Embedding(2, 2), nn.Linear(2, 2))))
    except UserError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:  # RuntimeError: torch's, of options that exclude each other
        raise UserError(f"model.optimizer refuses its options: {error}") from error


def _least_module(embedding: Any, hidden: Any) -> Any:
    """A module with a parameter of every kind."""
    from torch import nn

    module = nn.Sequential(embedding, hidden)
    module.get_input_embeddings = lambda: embedding
    module.get_output_embeddings = lambda: None
    return module


def _seed_problems(config: Any) -> Iterator[str]:
    for name, seed in (("seed_everything", config.seed_everything), ("model.init_seed", config.model.init_seed)):
        if seed is not None and not 0 <= seed <= MAX_SEED:
            yield f"{name}={seed}: give an integer from 0 to 2**32 - 1"


def _trainer_problems(trainer: Any) -> Iterator[str]:
    for name in _LEAST_ONE:
        value = trainer[name]
        if value is not None and value < 1:
            yield f"trainer.{name}={value}: give an integer of at least 1"
    interval = trainer.val_check_interval
    if isinstance(interval, int | float) and not 0 < interval < math.inf:
        yield (
            f"trainer.val_check_interval={interval}: give a number of batches of at least 1, or a share of the run "
            "above 0 and up to 1.0"
        )
    clip = trainer.gradient_clip_val
    if clip is not None and not clip >= 0:
        yield f"trainer.gradient_clip_val={clip}: give a number of at least 0"
    for name in _LIMITS:
        limit = trainer[name]
        if limit is not None and not (limit >= 0 and (isinstance(limit, int) or limit <= 1)):
            yield f"trainer.{name}={limit}: give a number of batches, or a share of them from 0.0 to 1.0"
    time = trainer.max_time
    if isinstance(time, str) and not re.fullmatch(r"\d+(:\d\d){3}", time.strip()):
        yield f"trainer.max_time={time}: give days, hours, minutes and seconds as DD:HH:MM:SS, such as 00:05:00:00"
    if not _names_devices(trainer.devices):
        yield f"trainer.devices={trainer.devices!r}: give auto, a number of at least 1, -1 for all devices, or a list"
    yield from _strategy_problems(trainer.strategy)


def _strategy_problems(strategy: Any) -> Iterator[str]:
    from lightning.pytorch.strategies import StrategyRegistry

    from tst_lightning.modeling.strategies import REFUSED, REMEDY

    is_name = isinstance(strategy, str)
    if is_name and strategy not in ("auto", *StrategyRegistry.available_strategies()):
        advice = f"there is no such strategy; leave it auto for one device, or {REMEDY}"
        if "." in strategy:
            advice = f"a class is given by its class_path, on the command line --trainer.strategy.class_path {strategy}"
        yield f"trainer.strategy={strategy}: {advice}"
    elif strategy != "auto":
        kind = StrategyRegistry[strategy]["strategy"].__name__ if is_name else strategy.class_path.rpartition(".")[2]
        if kind in REFUSED:
            yield f"trainer.strategy: {kind} is not supported ({REFUSED[kind]}): {REMEDY}"


def require_devices(trainer: Any) -> None:
    """Refuse an accelerator or devices that this machine does not have. For where a run starts, not where it is read.

    Args:
        trainer: its options, as parsed.

    Raises:
        UserError: what there is instead.
    """
    from lightning.pytorch.accelerators import AcceleratorRegistry

    if not isinstance(trainer.accelerator, str):  # an object, which knows itself
        return
    kinds = {name: AcceleratorRegistry[name]["accelerator"] for name in AcceleratorRegistry.available_accelerators()}
    here = sorted((name for name, kind in kinds.items() if kind.is_available()), key=lambda name: name == "cpu")
    meant = {"auto": list(kinds), "gpu": ["cuda", "mps"]}.get(trainer.accelerator, [trainer.accelerator])
    if unknown := [name for name in meant if name not in kinds]:
        raise UserError(f"trainer.accelerator={unknown[0]!r}: choose auto, gpu, {', '.join(sorted(kinds))}")
    usable = [name for name in here if name in meant]
    if not usable:
        raise UserError(
            f"trainer.accelerator={trainer.accelerator!r}: torch finds no such device on this machine, only "
            f"{', '.join(here)}: set --trainer.accelerator {here[0]} (or auto), as configs/trainer/cpu.yaml does, or "
            "see that the driver and a torch built for the device are installed"
        )
    if usable[0] == "cpu":
        _require_processes(trainer.devices)
    else:
        _require_indices(trainer.devices, kinds[usable[0]].auto_device_count(), usable[0])


def _require_processes(devices: Any) -> None:
    """On a CPU the number of devices is one of processes."""
    indices, count = _indices(devices)
    if indices is not None or count == -1:
        raise UserError(
            f"trainer.devices={devices!r} with the accelerator cpu, which has no devices to choose from: give the "
            "number of processes, such as 1"
        )
    if any(name in os.environ for name in _STARTED):  # whose cores may be one of many
        return
    if count is not None and count > MAX_PROCESSES_PER_CORE * (cores := available_cores()):
        raise UserError(
            f"trainer.devices={devices} starts {count} processes on the CPU, and there are {cores} cores for them: set "
            f"--trainer.devices 1, or at most {MAX_PROCESSES_PER_CORE * cores}"
        )


def _require_indices(devices: Any, there: int, accelerator: str) -> None:
    indices, count = _indices(devices)
    missing = [index for index in indices or () if not 0 <= index < there]
    if missing or (count or 0) > there:
        wanted = f"asks for {count}" if count else f"names {', '.join(map(str, missing))}"
        listed = "device, 0" if there == 1 else f"devices, 0 to {there - 1}"
        raise UserError(
            f"trainer.devices={devices!r} {wanted}, and this machine has {there} {accelerator} {listed}: set "
            f"--trainer.devices {there}, or auto for all"
        )


def _indices(devices: Any) -> tuple[list[int] | None, int | None]:
    """The devices that are named by number, or how many there are to be; neither for ``auto``."""
    if isinstance(devices, str):
        if devices.strip() == "auto":
            return None, None
        if "," not in devices:
            return None, int(devices)
        devices = [word for word in devices.split(",") if word.strip()]
    return (None, devices) if isinstance(devices, int) else ([int(device) for device in devices], None)


def _names_devices(devices: Any) -> bool:
    if isinstance(devices, str):
        words = devices.split(",")
        if devices.strip() == "auto" or (len(words) > 1 and all(word.strip().isdecimal() for word in words if word)):
            return True
        try:
            devices = int(devices)
        except ValueError:
            return False
    if isinstance(devices, int):
        return devices >= 1 or devices == -1
    return bool(devices)
