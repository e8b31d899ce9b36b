"""A plan as values for JSON, and as text for people."""

from collections.abc import Mapping
from typing import Any

from tst_lightning.plan.formats import (
    INDENT,
    byte_count,
    columns,
    count_text,
    device_hours,
    duration,
    paragraph,
    pasted,
)
from tst_lightning.plan.remedies import batch_lines, fits_safely

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
    parts += [_check(plan)] if plan["check"] else []
    return "\n\n".join(parts)


def _head(plan: Mapping[str, Any]) -> str:
    return paragraph("Plan", [f"{plan['model']['type']}, {plan['devices']['text']}, {plan['precision']}"])


def _model(model: Mapping[str, Any]) -> str:
    rows = [("Parameters", "all", "active at a position")]
    rows += [(f"  {name}", count_text(model[name]), "") for name in ("embedding", "layers")]
    rows.append(("  head", count_text(model["head"]), "") if model["head"] else ("  head", "tied", ""))
    rows.append(("  whole model", count_text(model["total"]), count_text(model["active"])))
    if model["training_only"]:
        rows.append(("  for training", count_text(model["training_only"]), "heads of multi-token prediction"))
    return columns(rows)


def _phases(plan: Mapping[str, Any]) -> str:
    mfu = plan["machine"]["mfu"]
    timed = plan["total"]["seconds"] is not None
    of_time = (f"time at MFU {mfu:.2f}", "device hours") if timed else ()
    rows = [("Work", "steps", "positions", "data tokens", "FLOPs", *of_time)]
    phases = list(plan["phases"])
    if len(phases) > 1:
        phases.append({"name": "whole run", **plan["total"]})
    for phase in phases:
        cells = (
            f"{phase['steps']:,}",
            count_text(phase["positions"]),
            count_text(phase["data_tokens"]),
            f"{phase['flops']:.3g}",
        )
        of_time = (duration(phase["seconds"]), device_hours(phase["device_hours"])) if timed else ()
        rows.append((f"  {phase['name']}", *cells, *of_time))
    table = columns(rows)
    if timed and plan["machine"]["mfu_assumed"]:
        table += f"\n  MFU {mfu:.2f} is assumed: give the one that you measured with --mfu."
    if timed:
        table += "\n  FLOPs and MFU count attention over whole rows, as if it were not causal."
        if plan["recomputed_share"]:
            more = f"{plan['recomputed_share']:.0%} more work"
            table += f"\n  Recomputing activations is up to {more}, which they do not count."
    else:
        table += "\n  No time: give --machine FILE or --peak_tflops."
    return table


def _data(data: Mapping[str, Any]) -> str:
    lines = [f"{count_text(data['needed_tokens'])} tokens needed"]
    if data["missing"]:
        lines.append(f"prepared: not known, {data['missing']}")
    else:
        passes = data["passes_needed"]
        of = "" if passes is None else f"; {passes:.2f} of at most {data['epochs']} passes"
        lines.append(f"{count_text(data['prepared_tokens'])} tokens prepared{of}")
    if data["refused"]:
        lines.append(f"fit would refuse this: {data['refused']}")
    return paragraph("Data", lines)


def _memory(plan: Mapping[str, Any]) -> str:
    memory, machine = plan["memory"], plan["machine"]
    if "unknown" in memory:
        return paragraph("Memory", [f"not known, a step of this model cannot be rehearsed: {memory['unknown']}"])
    rows = [("Memory", "of a device", f"at its fullest: {_MOMENTS[memory['moment']]}, {memory['stage']}")]
    for kind, note in _KINDS.items():
        if (size := memory["by_kind"].get(kind, 0)) >= 5e-4 * memory["total_bytes"]:
            rows.append((f"  {kind}", byte_count(size), note))
    rows.append(("  together", byte_count(memory["total_bytes"]), _verdict(memory["total_bytes"], machine)))
    lines = [f"{name:<{INDENT}}{size:>11}  {note}" for name, size, note in rows]
    dropped = memory["state_bytes"]["gradients"] - memory["by_kind"].get("gradients", 0)
    if dropped > 0.5 * memory["state_bytes"]["gradients"] > 0:
        lines.append(f"  Gradients, {byte_count(memory['state_bytes']['gradients'])} in all, are not all there then.")
    return "\n".join(lines + batch_lines(plan))


def _verdict(total_bytes: int, machine: Mapping[str, Any]) -> str:
    if machine["memory_gb"] is None:
        return "give --machine FILE or --memory_gb to see whether it fits"
    share = total_bytes / (machine["memory_gb"] * 1e9)
    of = f"{share:.0%} of {machine['memory_gb']:g} GB"
    if share > 1:
        return f"does NOT fit: {of}"
    if not fits_safely(total_bytes, machine):
        return f"may not fit: {of}, which leaves little to the driver and fragmentation"
    return f"fits: {of}"


def _disk(checkpoints: Mapping[str, Any]) -> str:
    count = checkpoints["count"]
    if not count:
        return paragraph("Checkpoints", ["none: the config has no StepCheckpoint"])
    if checkpoints["bytes_each"] is None:
        return paragraph("Checkpoints", [f"{count:,} of unknown size"])
    each = byte_count(checkpoints["bytes_each"])
    disk = byte_count(checkpoints["disk_bytes"])
    every = checkpoints["every_n_steps"]
    often = f"every {every:,} steps" if every else "at the end"
    lines = [f"{count:,} of {each}, written {often}", f"{disk} of disk, one that is being written included"]
    return paragraph("Checkpoints", lines)


def _recommendation(plan: Mapping[str, Any]) -> str:
    one = plan["recommendation"]
    budget = f"for {one['flops']:.3g} FLOPs"
    if one["available_tokens"] is not None:
        budget += f" and {count_text(one['available_tokens'])} tokens of text"
    reasons = [f"- {reason}" for reason in one["reasons"]]
    if one["bag_size"] is None:
        return paragraph("Advice", [f"no s and no r {budget}: measure", *reasons])
    if one["bag_size"] == 1:
        advice = "s=1 (the baseline)" + (", or output-only superposition" if one["output_only"] else "")
        without = ["- for s=1 leave the SuperpositionCallback out of the files"] if one["superposed_now"] else []
        return paragraph("Advice", [f"{advice}, {budget}", *reasons, *without])
    advice = f"s={one['bag_size']}, r={one['step_ratio']:g} {budget}; it reads {count_text(one['data_tokens'])} tokens"
    if one["extrapolated"]:
        text = paragraph("Advice", [f"extrapolated: {advice}", *reasons])
    else:
        gain = f"- gained {one['expected_gain_nats']:.3f} nats over the baseline in the paper's grids"
        text = paragraph("Advice", [advice, gain, *reasons])
    return "\n".join([text, *_advised_flags(one)])


def _advised_flags(one: Mapping[str, Any]) -> list[str]:
    indent = " " * INDENT
    if one["flags"] is None:
        values = f"bag_size: {one['bag_size']}, step_ratio: {one['step_ratio']:g}"
        first = "give the SuperpositionCallback of your files no options but these"
        if one["excluding"]:
            first = f"leave {' and '.join(one['excluding'])} out, and give a SuperpositionCallback these options"
        return [f"{indent}To train so, {first}:", f"{indent}init_args: {{{values}}}"]
    if not one["flags"]:
        return [f"{indent}The config has these values."]
    return [f"{indent}To train so, put at the end of the command of fit:", *pasted(one["flags"], indent)]


def _check(plan: Mapping[str, Any]) -> str:
    found = plan["check"]
    unchecked = [f"- not looked at: {each}" for each in found["unchecked"]]
    if found["passed"]:
        return paragraph("Check", ["passed: nothing was found that would keep fit from running", *unchecked])
    return paragraph("Check", ["FAILED: fit would not run", *(f"- {each}" for each in found["problems"]), *unchecked])
