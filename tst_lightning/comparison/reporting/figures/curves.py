"""Loss on the way: against FLOPs or time, with the transient after the switch and the end enlarged."""

from typing import TYPE_CHECKING

import numpy as np

from tst_lightning.comparison.reporting.figures.shared import (
    Material,
    Picture,
    finite_mean,
    label_line_ends,
    longest,
    unit,
)
from tst_lightning.drawing import empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tst_lightning.comparison.analysis.summary import ArmSummary

_TRANSIENT_SHARE = 0.5
"""How much of what is left after a switch the inset shows."""


def loss_picture(material: Material, x: str) -> Picture | None:
    """One row of two panels for each variant: the whole of training, and its end."""
    rows, notes = {}, []
    for variant, arms in material.variants.items():
        started = [arm for arm in arms if len(arm.mean_curve(x)[0])]
        rows[variant], note = material.pick(longest(started))
        notes.append(note)
    rows = {variant: arms for variant, arms in rows.items() if arms}
    if not rows:
        return None
    divisor, label = unit(x, max(arm.mean_curve(x)[0][-1] for arms in rows.values() for arm in arms))
    figure, panels = empty_figure(len(rows), 2, (9.0, 3.9 * len(rows)), width_ratios=(1.15, 1))
    has_ends = has_inset = False
    for place, (variant, arms) in enumerate(rows.items()):
        whole, end = panels[2 * place : 2 * place + 2]
        for panel in (whole, end):
            for arm in arms:
                _draw_arm(panel, arm, material, x, divisor)
            panel.set_xlabel(label)
        whole.set_ylabel("validation loss (nats per token)")
        whole.set_xlim(left=0)
        _zoom(end, arms, x, divisor)
        _mark_switches(whole, end, arms, material, x, divisor)
        if x == "flops":
            has_ends |= _draw_shorter_ends(whole, arms, material, variant, divisor)
            has_inset |= _draw_transient(whole, arms, material, divisor)
        whole.set_title(variant)
        end.set_title("end of training")
        ends = {arm.method: arm.mean_curve(x)[1][-1] for arm in arms}
        label_line_ends(end, ends, {method: material.looks[method].colour for method in ends})
    return Picture(figure, _caption(material, x, list(rows.values()), notes, has_ends, has_inset))


def _draw_arm(panel: "Axes", arm: "ArmSummary", material: Material, x: str, divisor: float) -> None:
    look = material.look(arm.arm)
    started = [run.curve for run in arm.runs if getattr(run.curve, x)]
    if len(started) > 1:
        for curve in started:
            panel.plot(np.asarray(getattr(curve, x)) / divisor, curve.val_loss, **look.style, linewidth=0.7, alpha=0.4)
    values, losses = arm.mean_curve(x)
    panel.plot(values / divisor, losses, **look.style, linewidth=2.0)


def _zoom(panel: "Axes", arms: list["ArmSummary"], x: str, divisor: float) -> None:
    """Show the last part, with room for losses as they are there.

    It starts late enough to leave out most of the recovery after a switch, whose height would flatten the
    differences at the end.
    """
    curves = [arm.mean_curve(x) for arm in arms]
    end = max(values[-1] for values, _ in curves)
    switches = [place for arm in arms if (place := arm.switch_at(x)) is not None]
    latest = max([place for place in switches if place < 0.9 * end], default=0.0)
    start = max(0.5 * end, latest + 0.35 * (end - latest))
    parts = [losses[values >= start] for values, losses in curves]
    inside = np.concatenate([part[np.isfinite(part)] for part in parts] or [np.array([])])
    panel.set_xlim(start / divisor, end * 1.005 / divisor)
    if len(inside):
        margin = 0.08 * (inside.max() - inside.min()) or 0.01
        panel.set_ylim(inside.min() - margin, inside.max() + margin)


def _mark_switches(whole: "Axes", end: "Axes", arms, material: Material, x: str, divisor: float) -> None:
    places: dict[float, str] = {}
    for arm in arms:
        if (switch := arm.switch_at(x)) is not None:
            place = switch / divisor
            places[place] = "#555555" if place in places else material.look(arm.arm).colour
    for place, colour in places.items():
        for panel in (whole, end):
            panel.axvline(place, color=colour, linestyle=(0, (3, 2)), linewidth=1.0, zorder=1)
    if places:
        first = min(places)
        whole.annotate(
            "switch", (first, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
            textcoords="offset points", va="bottom", ha="center", color="#555555", fontsize=9,
        )  # fmt: skip


def _draw_shorter_ends(panel: "Axes", arms, material: Material, variant: str, divisor: float) -> bool:
    """Final losses of the same methods' shorter runs."""
    methods, drawn = {arm.method for arm in arms}, {arm.arm for arm in arms}
    ends = [
        arm for arm in material.variants[variant]
        if arm.method in methods and arm.arm not in drawn and finite_mean(arm) and arm.costs.get("flops")
    ]  # fmt: skip
    for arm in ends:
        look = material.look(arm.arm)
        panel.plot(
            arm.costs["flops"] / divisor, arm.final.mean, look.marker, markersize=6, color=look.colour,
            markerfacecolor="white", markeredgewidth=1.4, zorder=4,
        )  # fmt: skip
    return bool(ends)


def _draw_transient(panel: "Axes", arms: list["ArmSummary"], material: Material, divisor: float) -> bool:
    """Inset: how far above the baseline an arm is from its switch on, all switches at zero."""
    base = next((arm for arm in arms if arm.method == material.baseline), None)
    if base is None:
        return False
    base_flops, base_losses = base.mean_curve("flops")
    lines = []
    for arm in arms:
        switch = arm.switch_at("flops")
        if switch is None or arm is base:
            continue
        flops, losses = arm.mean_curve("flops")
        last = min(switch + _TRANSIENT_SHARE * (flops[-1] - switch), base_flops[-1])
        inside = (flops >= 0.999 * switch) & (flops <= last)
        if inside.sum() >= 2:
            excess = losses[inside] - np.interp(flops[inside], base_flops, base_losses)
            lines.append(((flops[inside] - switch) / divisor, excess, material.look(arm.arm)))
    if not lines:
        return False
    inset = panel.inset_axes((0.57, 0.5, 0.42, 0.38))
    for values, excess, look in lines:
        inset.plot(values, excess, **look.style, marker=look.marker, markersize=3, linewidth=1.4)
    inset.axhline(0, color=material.looks[material.baseline].colour, linewidth=1.2)
    inset.set_xlim(left=0)
    inset.set_title("loss minus baseline's\nafter the switch", fontsize=8)
    inset.set_zorder(5)
    inset.tick_params(labelsize=8)
    return True


def _caption(material: Material, x: str, rows, notes: list[str], has_ends: bool, has_inset: bool) -> str:
    against = "training FLOPs" if x == "flops" else "time spent training (validation and evaluation left out)"
    seeds = sorted({len([run for run in arm.drawn if getattr(run.curve, x)]) for arms in rows for arm in arms})
    n = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    lengths = sorted({arm.steps for arms in rows for arm in arms if arm.steps})
    parts = [f"Validation loss against {against}; lower is better."]
    if seeds[-1] > 1:
        parts.append(f"Thick lines are means of n = {n} seeds, thin lines the seeds.")
    else:
        parts.append("One seed.")
    if any(len(arm.drawn) < sum(bool(run.curve.steps) for run in arm.runs) for arms in rows for arm in arms):
        parts.append("Runs that have not finished, or have diverged, are thin lines and in no mean.")
    if len(lengths) == 1:
        parts.append(f"The lines are the runs of {lengths[0]:,} steps.")
    if has_ends:
        parts.append("Open points are the final losses of the shorter runs.")
    if any(arm.switch_at(x) is not None for arms in rows for arm in arms):
        parts.append("Dashed vertical lines mark the switch to plain next-token training.")
    if has_inset:
        parts.append("The inset shows how the loss comes down to the baseline's at equal FLOPs from the switch on.")
    parts.append("The right panel enlarges the end of training.")
    return " ".join([*parts, *dict.fromkeys(note for note in notes if note)])
