"""The devices that a plan is for: memory and arithmetic, as their maker states them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tst_lightning.errors import UserError
from tst_lightning.precision import ARITHMETIC

DEFAULT_MFU = 0.4
"""Of a plan that does not say: an assumption, not a measurement."""


@dataclass(frozen=True)
class Machine:
    """One device of a kind, and how well it is used. The run's config says how many there are."""

    name: str = "unnamed"
    memory_gb: float | None = None
    """Of a device, in 10^9 bytes."""
    peak_tflops: Mapping[str, float] = field(default_factory=dict)
    """10^12 dense FLOPs a second of a device, by ``bf16`` (and fp16), ``fp32`` and ``fp64``."""
    mfu: float | None = None
    """Model FLOPs utilisation: the share of the peak that a run makes use of."""

    def peak_flops(self, precision: str) -> float | None:
        """FLOPs a second of a device in matrix products of a precision (key of ``ARITHMETIC``); None if not known."""
        peak = self.peak_tflops.get(ARITHMETIC[precision])
        return None if peak is None else peak * 1e12


def machine_of(
    path: str | None, precision: str, memory_gb: float | None, peak_tflops: float | None, mfu: float | None
) -> Machine:
    """The machine in a file, with what is given beside it in place of the file's.

    Args:
        path: a YAML file as in configs/machine; None for a machine of which only the rest is known.
        precision: that ``peak_tflops`` is meant for, a key of ``ARITHMETIC``.
        memory_gb: see ``Machine``.
        peak_tflops: at ``precision``.
        mfu: see ``Machine``.

    Raises:
        UserError: no such file, or values that are none.
    """
    machine = Machine() if path is None else _read(Path(path))
    if memory_gb is not None:
        machine = replace(machine, memory_gb=memory_gb)
    if peak_tflops is not None:
        machine = replace(machine, peak_tflops={**machine.peak_tflops, ARITHMETIC[precision]: peak_tflops})
    if mfu is not None:
        machine = replace(machine, mfu=mfu)
    _require_valid(machine)
    return machine


def _read(path: Path) -> Machine:
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        folder = Path("configs/machine") if not path.parent.is_dir() else path.parent
        known = sorted(str(each) for each in folder.glob("*.yaml"))
        raise UserError(
            f"machine '{path}' cannot be read ({error.strerror}): give a YAML file"
            + (f", such as {', '.join(known[:6])}" if known else " with name, memory_gb and peak_tflops")
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"machine '{path}' is not YAML: {' '.join(str(error).split())}") from error
    names = {each.name for each in Machine.__dataclass_fields__.values()}
    if not isinstance(values, Mapping) or set(values) - names:
        wrong = ", ".join(sorted(map(str, set(values) - names))) if isinstance(values, Mapping) else "no keys"
        raise UserError(f"machine '{path}' has {wrong}: its keys are {', '.join(sorted(names))}")
    if not isinstance(values.get("peak_tflops", {}), Mapping):
        raise UserError(f"machine '{path}': peak_tflops is a mapping, such as {{bf16: 989, fp32: 67}}")
    return Machine(**values)


def _require_valid(machine: Machine) -> None:
    kinds = sorted(set(ARITHMETIC.values()))
    unknown = [str(kind) for kind in machine.peak_tflops if kind not in kinds]
    if unknown:
        raise UserError(f"peak_tflops of {', '.join(unknown)}: give them for {', '.join(kinds)}")
    numbers: dict[str, Any] = {"memory_gb": machine.memory_gb, "mfu": machine.mfu}
    numbers |= {f"peak_tflops {kind}": value for kind, value in machine.peak_tflops.items()}
    for name, value in numbers.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise UserError(f"{name} is {value!r}: give a number above 0")
    if machine.mfu is not None and machine.mfu > 1:
        raise UserError(f"mfu is {machine.mfu}: give a share of the peak, such as 0.4, at most 1")
