"""What a plan proposes as options of `fit`, in the form that its parser takes: words to put at a command's end."""

from collections.abc import Mapping
from typing import Any

from tst_lightning.comparison.design.configured import CURRICULUM, NGRAM_TARGETS, SUPERPOSITION, callback_options

CLASS_PATH = f"callbacks.{SUPERPOSITION}"
_CHOSEN = ("bag_size", "step_ratio")
_IN_THEIR_PLACE = ("recovery_step", "bag_sizes", "step_shares")
"""Options that say the same otherwise, and have to go."""
_KEPT = {
    "weights": ("uniform", "power_law", "exponential", "first_token"),
    "weights_file": (None,),
    "fraction_of": ("steps",),
    "tokens_per_step": ("scaled",),
    "loss": ("multi_hot",),
    "superpose_inputs": (True,),
    "superpose_outputs": (True,),
    "on_switch": ("carry",),
    "reinitialize": ("none",),
}
"""With these values of its other options a callback is the paper's method, for any bag size."""


def batch_flags(config: Mapping[str, Any], batch_size: int, accumulate: int) -> tuple[str, ...]:
    """Options of a run with other micro-batches, which validates at the same steps and on the same windows.

    Args:
        config: resolved, of the `fit`.
        batch_size: rows per device and micro-batch.
        accumulate: micro-batches of a step.
    """
    trainer = config["trainer"]
    before = trainer["accumulate_grad_batches"]
    flags = [f"--data.batch_size {batch_size}", f"--trainer.accumulate_grad_batches {accumulate}"]
    interval = trainer.get("val_check_interval")
    if isinstance(interval, int) and not isinstance(interval, bool):  # of micro-batches; a float is a share of the run
        flags.append(f"--trainer.val_check_interval {max(1, interval // before) * accumulate}")
    if _limits_windows(trainer.get("limit_val_batches")) and config["data"].get("validation_batch_size") is None:
        flags.append(f"--data.validation_batch_size {config['data']['batch_size']}")  # its default
    return tuple(flags)


def _limits_windows(batches: int | float | None) -> bool:
    """Whether a ``limit_val_batches`` leaves windows out: a number of batches, or a share of them, rounded down."""
    return bool(batches) and not (isinstance(batches, float) and batches == 1.0)


def excluding(config: Mapping[str, Any]) -> list[str]:
    """Names of a config's callbacks with which `fit` refuses superposition."""
    return [name for name in (CURRICULUM, NGRAM_TARGETS) if callback_options(config, name) is not None]


def superposition_flags(config: Mapping[str, Any], bag_size: int, step_ratio: float) -> tuple[str, ...] | None:
    """Options that give a run this superposition; none if it has it, None if another callback has to go first.

    Args:
        config: resolved, of the `fit`.
        bag_size: ``s``.
        step_ratio: ``r``.
    """
    if excluding(config):
        return None
    values = {"bag_size": bag_size, "step_ratio": f"{step_ratio:g}"}
    chosen = [f"--trainer.callbacks.{name}={value}" for name, value in values.items()]
    options = callback_options(config, SUPERPOSITION)
    if options is None:
        return (f"--trainer.callbacks+={CLASS_PATH}", *chosen)
    if any(options.get(name, allowed[0]) not in allowed for name, allowed in _KEPT.items()):
        return None
    callbacks = config["trainer"]["callbacks"]
    last = callbacks[-1] if isinstance(callbacks, list) else callbacks  # whose options the parser changes
    if last["class_path"].rpartition(".")[2] != SUPERPOSITION:
        return None
    others = [name for name in _IN_THEIR_PLACE if options.get(name) is not None]
    if not others and (options.get("bag_size"), options.get("step_ratio")) == (bag_size, step_ratio):
        return ()
    return (*chosen, *(f"--trainer.callbacks.{name}=null" for name in others))
