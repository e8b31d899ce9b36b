"""What to do about a batch that does not fit a device, or leaves much of it free, as text."""

from collections.abc import Mapping
from typing import Any

from tst_lightning.plan.batch_size import SAFE_SHARE
from tst_lightning.plan.formats import byte_count, pasted
from tst_lightning.plan.run import FSDP2

_RECOMPUTED = "--model.activation_checkpointing true"


def fits_safely(total_bytes: int, machine: Mapping[str, Any]) -> bool:
    """Whether a device has the memory, and some to spare."""
    return total_bytes <= SAFE_SHARE * machine["memory_gb"] * 1e9


def batch_lines(plan: Mapping[str, Any]) -> list[str]:
    """Lines below the memory of a plan; none if the batch is the largest that fits."""
    memory, machine = plan["memory"], plan["machine"]
    batch = memory["largest_batch"]
    if batch is None:
        return []
    takes = f"{byte_count(batch['total_bytes'])}, {batch['total_bytes'] / (machine['memory_gb'] * 1e9):.0%}"
    if not batch["fits"]:
        return _without_batch(plan, takes)
    is_larger = batch["batch_size"] > memory["configured"]["batch_size"]
    which = "larger micro-batches fit too, of" if is_larger else "micro-batches of"
    said = (
        f"  With as many rows a step, {which} up to {batch['batch_size']} rows{'' if is_larger else ' fit'} ({takes})."
    )
    lines = [said, "  At the end of the command:", *pasted(batch["flags"], "    ")]
    if not is_larger and memory["configured"]["activation_checkpointing"] is False:
        lines.append(f"  Or try the batch as it is with {_RECOMPUTED}: fewer activations, more time.")
    return lines


def _without_batch(plan: Mapping[str, Any], takes: str) -> list[str]:
    memory, devices = plan["memory"], plan["devices"]
    size, state = memory["largest_batch"]["batch_size"], sum(memory["state_bytes"].values())
    may_fit = memory["largest_batch"]["total_bytes"] <= plan["machine"]["memory_gb"] * 1e9
    smallest = f"  Micro-batches of {size}, the smallest with as many rows a step,"
    if not may_fit:
        lines = [f"{smallest} do not fit either ({takes})."]
    elif size < memory["configured"]["batch_size"]:
        lines = [f"{smallest} may fit ({takes}):", *pasted(memory["largest_batch"]["flags"], "    ")]
    else:
        lines = []
    lines += [
        f"  Weights, gradients and optimizer state alone are {byte_count(state)}. What else takes less of a device:",
    ]
    if memory["configured"]["activation_checkpointing"] is False and fits_safely(state, plan["machine"]):
        lines.append(f"  - {_RECOMPUTED}: fewer activations, more time")
    if devices["strategy"] != FSDP2:
        lines.append(
            "  - several devices that share weights, gradients and optimizer state: configs/trainer/fsdp2.yaml"
        )
    else:
        lines.append("  - more devices: trainer.devices or num_nodes, and the strategy's data_parallel_size with them")
        lines.append("  - a greater tensor_parallel_size of the strategy, for a dense model: devices share a row")
    return lines
