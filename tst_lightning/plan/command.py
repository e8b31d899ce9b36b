"""``tst-lightning plan``: what a `fit` costs and needs, before anything is paid for."""

import json as json_format
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tst_lightning.errors import UserError


def plan(
    config: Sequence[str],
    *,
    machine: str | None = None,
    memory_gb: float | None = None,
    peak_tflops: float | None = None,
    mfu: float | None = None,
    flops_budget: float | None = None,
    token_budget: float | None = None,
    json: str | None = None,
) -> None:
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
        flops_budget: Training FLOPs for which to recommend s and r. Default: those of the config.
        token_budget: Tokens that there are to read, for the recommendation. Default: what is prepared, times
            data.epochs.
        json: File for the plan as JSON, in a folder that exists.

    Raises:
        UserError: the config does not parse or has no length in steps; a machine or a budget that is none; a place
            for the JSON that is none.
    """
    _require_positive(flops_budget=flops_budget, token_budget=token_budget)
    if json is not None:
        _require_place(Path(json))
    from tst_lightning.lightning_cli import parse_fit
    from tst_lightning.plan.machine import machine_of
    from tst_lightning.plan.run import fit_plan
    from tst_lightning.plan.summary import text

    planned = fit_plan(parse_fit(config))
    device = machine_of(machine, planned.precision, memory_gb, peak_tflops, mfu)
    values = _values(planned, device, flops_budget, token_budget)
    if json is not None:
        _write(Path(json), values)
    print(text(values))


def _values(planned: Any, device: Any, flops_budget: float | None, token_budget: float | None) -> dict[str, Any]:
    """Everything that is printed or written."""
    from dataclasses import asdict

    from tst_lightning.plan.checkpoints import checkpoints
    from tst_lightning.plan.machine import DEFAULT_MFU
    from tst_lightning.plan.memory import RehearsalError, memory
    from tst_lightning.plan.model_size import OutlinedModel, module_of
    from tst_lightning.plan.phases import phases
    from tst_lightning.plan.prepared import prepared
    from tst_lightning.plan.recommendation import recommend

    module = module_of(planned.config)
    outline = OutlinedModel(module)
    size = outline.size()
    corpus = prepared(planned)
    schedule = corpus.data.schedule if corpus.data is not None else planned.schedule
    work = phases(planned, corpus, outline.flops_per_position)
    total = {name: sum(getattr(one, name) for one in work) for name in ("steps", "positions", "data_tokens", "flops")}
    flops = total["flops"] if flops_budget is None else flops_budget
    positions = int(flops / outline.flops_per_position(planned.sequence_length))
    if positions < 1:
        raise UserError(f"flops_budget={flops:.3g} does not pay for one position of this model: give more")
    needed, unknown = None, ""
    try:
        needed = memory(planned, lambda: module_of(planned.config), schedule)
    except RehearsalError as error:
        unknown = str(error)
    share = DEFAULT_MFU if device.mfu is None else device.mfu
    peak = device.peak_flops(planned.precision)
    count = planned.devices.count
    speed = None if peak is None else peak * share * count
    tokens = corpus.usable_tokens if token_budget is None else int(token_budget)
    saved = checkpoints(planned, needed.checkpoint_bytes if needed else None)
    return {
        "precision": planned.precision,
        "devices": asdict(planned.devices) | {"text": str(planned.devices)},
        "machine": asdict(device) | {"mfu": share, "mfu_assumed": device.mfu is None},
        "model": {"type": module.config.model_type} | asdict(size),
        "phases": [asdict(one) | _time(one.flops, speed, count) for one in work],
        "total": total | _time(total["flops"], speed, count),
        "data": _data(corpus, total["data_tokens"]),
        "memory": _memory(needed, unknown),
        "checkpoints": asdict(saved) | {"disk_bytes": saved.disk_bytes},
        "recommendation": {"flops": flops, "positions": positions, "available_tokens": tokens}
        | asdict(recommend(positions, size.active, tokens, mixture=size.active < size.total)),
    }


def _time(flops: int, speed: float | None, devices: int) -> dict[str, float | None]:
    """At a speed in FLOPs a second that all devices have together; None if it is not known."""
    seconds = flops / speed if speed else None
    return {"seconds": seconds, "device_hours": None if seconds is None else seconds * devices / 3600}


def _data(corpus: Any, needed_tokens: int) -> dict[str, Any]:
    return {
        "folders": list(corpus.folders),
        "needed_tokens": needed_tokens,
        "prepared_tokens": corpus.tokens,
        "epochs": corpus.epochs,
        "passes_needed": corpus.passes_needed,
        "missing": corpus.missing,
        "refused": corpus.refused,
    }


def _memory(needed: Any, unknown: str) -> dict[str, Any]:
    if needed is None:
        return {"unknown": unknown}
    return {
        "state_bytes": needed.state_bytes,
        "by_kind": needed.peak.by_kind,
        "total_bytes": needed.peak.total_bytes,
        "moment": needed.peak.moment,
        "stage": needed.stage,
    }


def _require_positive(**options: float | None) -> None:
    for name, value in options.items():
        if value is not None and not 1 <= value < math.inf:
            raise UserError(f"{name}={value}: give a number of at least 1")


def _require_place(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"json '{path}' is a folder: give a file")
    if not path.parent.is_dir():
        raise UserError(f"json '{path}': there is no folder '{path.parent}': make it, or choose another place")


def _write(path: Path, values: dict[str, Any]) -> None:
    from tst_lightning.files import write_atomically

    try:
        write_atomically(path, json_format.dumps(values, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"json '{path}' cannot be written ({error.strerror or error}): choose another place") from error
