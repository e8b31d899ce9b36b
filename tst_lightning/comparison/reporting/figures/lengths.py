"""At which run length a method overtakes the baseline."""

import math
from typing import TYPE_CHECKING

import numpy as np

from tst_lightning.comparison.reporting.figures.shared import MOST_ARMS, Material, Picture, half_widths, plain_log_ticks
from tst_lightning.drawing import empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tst_lightning.comparison.analysis.statistics import PairedDifference

_Lines = dict[str, dict[int, "PairedDifference"]]


def length_picture(material: Material) -> Picture | None:
    """A panel for each variant: difference to the baseline over the length of the runs."""
    found = {variant: _lines(material, variant) for variant in material.variants}
    found = {variant: lines for variant, lines in found.items() if lines}
    if not found:
        return None
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    figure, panels = empty_figure(
        rows, columns, (6.5 if columns == 1 else 9.5, 3.8 * rows), sharey=columns > 1 and rows == 1
    )
    notes = []
    for place, (panel, (variant, lines)) in enumerate(zip(panels, found.items(), strict=False)):
        shown, note = _picked(lines)
        notes.append(note)
        _draw_panel(panel, shown, material, variant)
        if place % columns == 0:
            panel.set_ylabel("difference to the baseline\nof the same length (nats per token)")
    for panel in panels[len(found) :]:
        panel.set_axis_off()
    counts = sorted({d.n for lines in found.values() for line in lines.values() for d in line.values()})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = (
        "Final validation loss minus that of a baseline of the same length, over the length of the runs: a method is "
        f"ahead where it lies below the line at zero. n = {n}"
    )
    text += "; bars are 95 % intervals over seeds." if counts[-1] > 1 else " seed."
    if any(overtaking.steps and not overtaking.from_start for overtaking in material.summary.overtakings):
        text += " A triangle on the line marks the length at which a method overtakes on the mean of the seeds."
    return Picture(figure, " ".join([text, *dict.fromkeys(note for note in notes if note)]))


def _lines(material: Material, variant: str) -> _Lines:
    """Method -> length -> difference, of methods with two lengths or more."""
    lines: _Lines = {}
    for arm in material.variants[variant]:
        pair = material.to_baseline(arm.arm)
        if arm.nominal_length and pair is not None and pair.difference is not None:
            lines.setdefault(arm.method, {})[arm.nominal_length] = pair.difference
    return {method: dict(sorted(line.items())) for method, line in lines.items() if len(line) > 1}


def _picked(lines: _Lines) -> tuple[_Lines, str]:
    if len(lines) <= MOST_ARMS:
        return lines, ""
    longest = max(max(line) for line in lines.values())
    ranked = sorted((m for m in lines if longest in lines[m]), key=lambda method: lines[method][longest].mean)
    kept = {*ranked[: MOST_ARMS - 1], ranked[-1]}
    note = f"Of {len(lines)} methods the best {len(kept) - 1} and the worst at {longest:,} steps are drawn."
    return {method: line for method, line in lines.items() if method in kept}, note


def _length_at(material: Material, method: str, variant: str, steps: float) -> float:
    """The length at which a method has so many steps, which are others for an arm with equal_flops_with."""
    arms = [arm for arm in material.variants[variant] if arm.method == method and arm.steps]
    arms.sort(key=lambda arm: arm.steps)
    known, lengths = np.log([(arm.steps, arm.nominal_length) for arm in arms]).T
    return math.exp(float(np.interp(math.log(steps), known, lengths)))


def _draw_panel(panel: "Axes", lines: _Lines, material: Material, variant: str) -> None:
    panel.set_xscale("log")
    panel.axhline(0, color=material.looks[material.baseline].colour, linewidth=1.4)
    for place, (method, line) in enumerate(lines.items()):
        look = material.looks[method]
        # Side by side, so that the intervals of one length can be told apart.
        shift = 1.018 ** (place - (len(lines) - 1) / 2)
        steps = [length * shift for length in line]
        panel.plot(
            steps, [difference.mean for difference in line.values()], **look.style, marker=look.marker,
            markersize=6, linewidth=1.6, label=method,
        )  # fmt: skip
        for x, difference in zip(steps, line.values(), strict=True):
            panel.errorbar(
                x, difference.mean, yerr=half_widths(difference.mean, difference.low, difference.high),
                fmt="none", color=look.colour, capsize=3, linewidth=1.2,
            )  # fmt: skip
        for overtaking in material.summary.overtakings:
            is_it = (overtaking.method, overtaking.variant) == (method, variant)
            if is_it and overtaking.steps and not overtaking.from_start:
                panel.plot(
                    _length_at(material, method, variant, overtaking.steps), 0,
                    marker="v", color=look.colour, markeredgecolor="white", markersize=11, zorder=5,
                )  # fmt: skip
    plain_log_ticks(panel.xaxis, [length for line in lines.values() for length in line], show="{:,.0f}".format)
    panel.set_xlabel("length of the run (steps)")
    panel.set_title(variant)
    panel.legend(fontsize=9, labelcolor="linecolor", handlelength=3.2)
