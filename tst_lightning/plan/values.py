"""Everything that a plan says, as values that are printed or written as JSON."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from tst_lightning.errors import UserError
from tst_lightning.module import CausalLMModule
from tst_lightning.plan.batch_size import SAFE_SHARE, largest_batch
from tst_lightning.plan.checking import check
from tst_lightning.plan.checkpoints import checkpoints
from tst_lightning.plan.flags import batch_flags, excluding, superposition_flags
from tst_lightning.plan.machine import DEFAULT_MFU, Machine
from tst_lightning.plan.memory import Memory, RehearsalError, memory
from tst_lightning.plan.model_size import ModelSize, OutlinedModel, module_of
from tst_lightning.plan.phases import phases
from tst_lightning.plan.prepared import Prepared, prepared
from tst_lightning.plan.recommendation import recommend
from tst_lightning.plan.run import FitPlan
from tst_lightning.schedule import Schedule


@dataclass(frozen=True)
class Budgets:
    """For the advice; None takes what the config says or what is prepared."""

    flops: float | None = None
    tokens: float | None = None


def values(plan: FitPlan, machine: Machine, budgets: Budgets, is_checked: bool = False) -> dict[str, Any]:
    """Plan a run.

    Args:
        plan: what its config says.
        machine: one of its devices.
        budgets: for the advice.
        is_checked: whether to look for what would keep it from running; ``machine.memory_gb`` is known then.

    Returns:
        Fields as docs/plan.md lists them.

    Raises:
        UserError: a model that is none, or a budget that pays for nothing.
    """
    module = module_of(plan.config)
    outline = OutlinedModel(module)
    size = outline.size()
    corpus = prepared(plan)
    schedule = corpus.data.schedule if corpus.data is not None else plan.schedule
    work = phases(plan, corpus, outline.flops_per_position)
    total = {name: sum(getattr(one, name) for one in work) for name in ("steps", "positions", "data_tokens", "flops")}
    advice = _advice(plan, corpus, size, budgets, total["flops"], outline.flops_per_position(plan.sequence_length))
    needed, in_memory = _memory(plan, schedule, machine)
    saved = checkpoints(plan, needed.checkpoint_bytes if needed else None)
    share = DEFAULT_MFU if machine.mfu is None else machine.mfu
    peak, count = machine.peak_flops(plan.precision), plan.devices.count
    speed = None if peak is None else peak * share * count
    return {
        "precision": plan.precision,
        "devices": asdict(plan.devices) | {"text": str(plan.devices)},
        "machine": asdict(machine) | {"mfu": share, "mfu_assumed": machine.mfu is None},
        "model": {"type": module.config.model_type} | asdict(size),
        "phases": [asdict(one) | _time(one.flops, speed, count) for one in work],
        "recomputed_share": outline.recomputed_share(plan.sequence_length) if module.activation_checkpointing else 0.0,
        "total": total | _time(total["flops"], speed, count),
        "data": _data(corpus, total["data_tokens"]),
        "memory": in_memory,
        "checkpoints": asdict(saved) | {"disk_bytes": saved.disk_bytes},
        "recommendation": advice,
        "check": _check(plan, corpus, module, needed, machine) if is_checked else None,
    }


def _time(flops: int, speed: float | None, devices: int) -> dict[str, float | None]:
    """At a speed in FLOPs a second that all devices have together; None if it is not known."""
    seconds = flops / speed if speed else None
    return {"seconds": seconds, "device_hours": None if seconds is None else seconds * devices / 3600}


def _data(corpus: Prepared, needed_tokens: int) -> dict[str, Any]:
    return {
        "folders": list(corpus.folders),
        "needed_tokens": needed_tokens,
        "prepared_tokens": corpus.tokens,
        "epochs": corpus.epochs,
        "passes_needed": corpus.passes_needed,
        "missing": corpus.missing,
        "refused": corpus.refused,
    }


def _memory(plan: FitPlan, schedule: Schedule, machine: Machine) -> tuple[Memory | None, dict[str, Any]]:
    def rehearsed(run: FitPlan) -> Memory:
        return memory(run, lambda: module_of(run.config), schedule)

    try:
        needed = rehearsed(plan)
    except RehearsalError as error:
        return None, {"unknown": str(error)}
    batch = None
    if machine.memory_gb is not None:
        with suppress(RehearsalError):  # of another batch size
            batch = largest_batch(plan, schedule, needed, SAFE_SHARE * machine.memory_gb * 1e9, rehearsed)
    return needed, {
        "state_bytes": needed.state_bytes,
        "by_kind": needed.peak.by_kind,
        "total_bytes": needed.peak.total_bytes,
        "moment": needed.peak.moment,
        "stage": needed.stage,
        "configured": {
            "batch_size": plan.config["data"]["batch_size"],
            "accumulate": plan.accumulate,
            "activation_checkpointing": plan.config["model"].get("activation_checkpointing"),
        },
        "largest_batch": batch
        and asdict(batch) | {"flags": batch_flags(plan.config, batch.batch_size, batch.accumulate)},
    }


def _advice(
    plan: FitPlan, corpus: Prepared, size: ModelSize, budgets: Budgets, run_flops: int, flops_per_position: int
) -> dict[str, Any]:
    flops = run_flops if budgets.flops is None else budgets.flops
    positions = int(flops / flops_per_position)
    if positions < 1:
        raise UserError(f"flops_budget={flops:.3g} does not pay for one position of this model: give more")
    tokens = corpus.usable_tokens if budgets.tokens is None else int(budgets.tokens)
    advised = recommend(positions, size.active, tokens, mixture=size.active < size.total)
    flags = None
    if advised.bag_size is not None and advised.bag_size > 1:
        flags = superposition_flags(plan.config, advised.bag_size, advised.step_ratio)
    steps = positions // (plan.rows_per_step * plan.sequence_length)
    if flags is not None and budgets.flops is not None and steps not in (0, plan.max_steps):
        flags = (*flags, f"--trainer.max_steps={steps}")
    return (
        {"flops": flops, "positions": positions, "available_tokens": tokens}
        | asdict(advised)
        | {"flags": flags, "excluding": excluding(plan.config), "superposed_now": plan.superposition is not None}
    )


def _check(
    plan: FitPlan, corpus: Prepared, module: CausalLMModule, needed: Memory | None, machine: Machine
) -> dict[str, Any]:
    found = check(plan, corpus, module, needed and needed.peak.total_bytes, machine.memory_gb * 1e9)
    return asdict(found) | {"passed": found.passed}
