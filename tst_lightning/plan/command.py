"""``tst-lightning plan``: what a `fit` costs and needs, before anything is paid for."""

import json as json_format
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tst_lightning.errors import UserError

CHECK_FAILED = 3
"""Exit status of ``--check``. 1 is a process that ended, 2 a mistake in the command or a config that does not parse."""


def plan(
    config: Sequence[str],
    *,
    machine: str | None = None,
    memory_gb: float | str | None = None,
    peak_tflops: float | str | None = None,
    mfu: float | str | None = None,
    flops_budget: float | str | None = None,
    token_budget: float | str | None = None,
    json: str | None = None,
    check: bool = False,
) -> int:
    """Say what a fit costs and needs: FLOPs, tokens, memory, time, disk; and which bag size to begin with.

    Takes the --config files and keys of `tst-lightning fit`, and its own options below. Needs neither the devices
    nor the prepared data nor memory for the model: a step is rehearsed on tensors without values.

    Args:
        config: Files of a `fit`, each given as --config FILE; beside them goes any other --KEY VALUE of it.
        machine: A YAML file with name, memory_gb, peak_tflops and mfu of one device, such as
            configs/machine/h100_sxm.yaml. How many devices there are is the trainer's.
        memory_gb: Memory of a device in 10^9 bytes, in place of the file's.
        peak_tflops: Peak of a device in 10^12 dense FLOPs a second at trainer.precision, in place of the file's.
        mfu: Model FLOPs utilisation, the share of the peak that the run makes use of, in FLOPs that count attention
            over whole rows, as if it were not causal. Of a short run it is flops / train_seconds of progress.json /
            (devices * peak). Default: 0.4, an assumption.
        flops_budget: Training FLOPs for which to recommend s and r, such as 1e20. Default: those of the config.
        token_budget: Tokens that there are to read, such as 5B, for the recommendation. Default: what is prepared,
            times data.epochs.
        json: File for the plan as JSON, in a folder that exists.
        check: End with status 3 if `fit` would refuse the run, its prepared text does not suffice or a device has too
            little memory.

    Returns:
        The exit status: 0, or ``CHECK_FAILED``.

    Raises:
        UserError: the config does not parse or has no length in steps; a machine or a budget that is none; a place
            for the JSON that is none; a check without a device's memory.
    """
    from tst_lightning.plan import quantities

    flops = quantities.count("flops_budget", flops_budget)
    tokens = quantities.count("token_budget", token_budget)
    device_options = (
        quantities.amount("memory_gb", memory_gb, "80"),
        quantities.amount("peak_tflops", peak_tflops, "989.5"),
        quantities.share("mfu", mfu),
    )
    if json is not None:
        _require_place(Path(json))
    from tst_lightning.plan.machine import machine_of
    from tst_lightning.plan.run import fit_plan
    from tst_lightning.plan.summary import text
    from tst_lightning.plan.values import Budgets, values
    from tst_lightning.run.lightning_cli import parse_fit

    planned = fit_plan(parse_fit(config))
    device = machine_of(machine, planned.precision, *device_options)
    if check and device.memory_gb is None:
        raise UserError(
            "check needs a device's memory: give --machine FILE, such as configs/machine/h100_sxm.yaml, or --memory_gb"
        )
    found = values(planned, device, Budgets(flops, tokens), is_checked=check)
    if json is not None:
        _write(Path(json), found)
    print(text(found))
    return CHECK_FAILED if check and not found["check"]["passed"] else 0


def _require_place(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"json '{path}' is a folder: give a file")
    if not path.parent.is_dir():
        raise UserError(f"json '{path}': there is no folder '{path.parent}': make it, or choose another place")


def _write(path: Path, found: dict[str, Any]) -> None:
    from tst_lightning.files import write_atomically

    try:
        write_atomically(path, json_format.dumps(found, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"json '{path}' cannot be written ({error.strerror or error}): choose another place") from error
