"""A plan as values for JSON, and as text for people."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 100
_INDENT = 14
_KINDS = {
    "parameters": "weights and buffers",
    "gradients": "of the weights",
    "optimizer": "state",
    "activations": "kept for the backward pass",
    "loss": "logits or their chunks, gradient of the head",
    "gathered": "weights of the layers in use, buffers of collectives",
    "buckets": "DDP's copies of the gradients",
    "working": "made in the backward pass or by the optimizer, and freed",
}
_MOMENTS = {
    "activations": "in the forward pass",
    "loss": "in the loss",
    "working": "in the backward pass",
    "optimizer step": "in the optimizer's step",
}


def text(plan: Mapping[str, Any]) -> str:
    """The plan as it is printed; ``plan`` is what ``--json`` writes."""
    parts = [_head(plan), _model(plan["model"]), _phases(plan), _data(plan["data"])]
    parts += [_memory(plan), _disk(plan["checkpoints"]), _recommendation(plan)]
    return "\n\n".join(parts)


def _head(plan: Mapping[str, Any]) -> str:
    return _lines("Plan", [f"{plan['model']['type']}, {plan['devices']['text']}, {plan['precision']}"])


def _model(model: Mapping[str, Any]) -> str:
    rows = [("Parameters", "all", "active at a position")]
    rows += [(f"  {name}", _count(model[name]), "") for name in ("embedding", "layers")]
    rows.append(("  head", _count(model["head"]), "") if model["head"] else ("  head", "tied", ""))
    rows.append(("  whole model", _count(model["total"]), _count(model["active"])))
    if model["training_only"]:
        rows.append(("  for training", _count(model["training_only"]), "heads of multi-token prediction"))
    return _table(rows)


def _phases(plan: Mapping[str, Any]) -> str:
    mfu = plan["machine"]["mfu"]
    timed = plan["total"]["seconds"] is not None
    of_time = (f"time at MFU {mfu:.2f}", "device hours") if timed else ()
    rows = [("Work", "steps", "positions", "data tokens", "FLOPs", *of_time)]
    phases = list(plan["phases"])
    if len(phases) > 1:
        phases.append({"name": "whole run", **plan["total"]})
    for phase in phases:
        cells = f"{phase['steps']:,}", _count(phase["positions"]), _count(phase["data_tokens"]), f"{phase['flops']:.3g}"
        of_time = (duration(phase["seconds"]), _hours(phase["device_hours"])) if timed else ()
        rows.append((f"  {phase['name']}", *cells, *of_time))
    table = _table(rows)
    if timed and plan["machine"]["mfu_assumed"]:
        table += f"\n  MFU {mfu:.2f} is assumed: give the one that you measured with --mfu."
    if timed:
        table += "\n  FLOPs and MFU count attention over whole rows, as if it were not causal."
    else:
        table += "\n  No time: give --machine FILE or --peak_tflops."
    return table


def _data(data: Mapping[str, Any]) -> str:
    lines = [f"{_count(data['needed_tokens'])} tokens needed"]
    if data["missing"]:
        lines.append(f"prepared: not known, {data['missing']}")
    else:
        passes = data["passes_needed"]
        of = "" if passes is None else f"; {passes:.2f} of at most {data['epochs']} passes"
        lines.append(f"{_count(data['prepared_tokens'])} tokens prepared{of}")
    if data["refused"]:
        lines.append(f"fit would refuse this: {data['refused']}")
    return _lines("Data", lines)


def _memory(plan: Mapping[str, Any]) -> str:
    memory, machine = plan["memory"], plan["machine"]
    if "unknown" in memory:
        return _lines("Memory", [f"not known, a step of this model cannot be rehearsed: {memory['unknown']}"])
    rows = [("Memory", "of a device", f"at its fullest: {_MOMENTS[memory['moment']]}, {memory['stage']}")]
    for kind, note in _KINDS.items():
        if (size := memory["by_kind"].get(kind, 0)) >= 5e-4 * memory["total_bytes"]:
            rows.append((f"  {kind}", byte_count(size), note))
    rows.append(("  together", byte_count(memory["total_bytes"]), _verdict(memory["total_bytes"], machine)))
    lines = [f"{name:<{_INDENT}}{size:>11}  {note}" for name, size, note in rows]
    dropped = memory["state_bytes"]["gradients"] - memory["by_kind"].get("gradients", 0)
    if dropped > 0.5 * memory["state_bytes"]["gradients"] > 0:
        lines.append(f"  Gradients, {byte_count(memory['state_bytes']['gradients'])} in all, are not all there then.")
    return "\n".join(lines)


def _verdict(total_bytes: int, machine: Mapping[str, Any]) -> str:
    if machine["memory_gb"] is None:
        return "give --machine FILE or --memory_gb to see whether it fits"
    share = total_bytes / (machine["memory_gb"] * 1e9)
    of = f"{share:.0%} of {machine['memory_gb']:g} GB"
    if share > 1:
        return f"does NOT fit: {of}"
    return f"fits: {of}" + (", too tight for what the driver and fragmentation take" if share > 0.9 else "")


def _disk(checkpoints: Mapping[str, Any]) -> str:
    count = checkpoints["count"]
    if not count:
        return _lines("Checkpoints", ["none: the config has no StepCheckpoint"])
    if checkpoints["bytes_each"] is None:
        return _lines("Checkpoints", [f"{count:,} of unknown size"])
    each = byte_count(checkpoints["bytes_each"])
    disk = byte_count(checkpoints["disk_bytes"])
    return _lines("Checkpoints", [f"{count:,} of {each}; {disk} of disk, one that is being written included"])


def _recommendation(plan: Mapping[str, Any]) -> str:
    one = plan["recommendation"]
    budget = f"for {one['flops']:.3g} FLOPs"
    if one["available_tokens"] is not None:
        budget += f" and {_count(one['available_tokens'])} tokens of text"
    reasons = [f"- {reason}" for reason in one["reasons"]]
    if one["bag_size"] is None:
        return _lines("Advice", [f"no s and no r {budget}: measure", *reasons])
    if one["bag_size"] == 1:
        advice = "s=1 (the baseline)" + (", or output-only superposition" if one["output_only"] else "")
        return _lines("Advice", [f"{advice}, {budget}", *reasons])
    advice = f"s={one['bag_size']}, r={one['step_ratio']:g} {budget}; it reads {_count(one['data_tokens'])} tokens"
    if one["extrapolated"]:
        return _lines("Advice", [f"extrapolated: {advice}", *reasons])
    gain = f"- gained {one['expected_gain_nats']:.3f} nats over the baseline in the paper's grids"
    return _lines("Advice", [advice, gain, *reasons])


def _lines(title: str, lines: Sequence[str]) -> str:
    wrapped = [
        piece
        for line in lines
        for piece in textwrap.wrap(line, WIDTH - _INDENT, subsequent_indent="  " if line.startswith("- ") else "")
    ]
    return "\n".join(f"{title if number == 0 else '':<{_INDENT}}{line}" for number, line in enumerate(wrapped))


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[0] = max(widths[0], _INDENT)
    lines = (
        f"{row[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _count(number: int) -> str:
    """In short scale with three digits: ``1.05 T``."""
    return _scaled(number, ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")))


def byte_count(number: int) -> str:
    """In powers of ten, as datasheets do: ``1.05 GB``."""
    return _scaled(number, ((1e12, " TB"), (1e9, " GB"), (1e6, " MB"), (1e3, " kB"))) + ("" if number >= 1e3 else " B")


def _scaled(number: int, units: Sequence[tuple[float, str]]) -> str:
    for scale, unit in units:
        if number >= 0.9995 * scale:
            value = number / scale
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:,.{digits}f}{unit}"
    return f"{number:,}"


def _hours(hours: float) -> str:
    return f"{hours:,.2g}" if hours < 10 else f"{hours:,.0f}"


def duration(seconds: float) -> str:
    """``36 s``, ``12 min``, ``3.4 h`` or ``12 days``."""
    for limit, scale, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / scale
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"
