"""Finished models of several lengths: loss against FLOPs, and the speed-up at a loss."""

from typing import TYPE_CHECKING

import numpy as np

from tst_lightning.comparison.analysis.frontier import flops_at_loss
from tst_lightning.comparison.analysis.statistics import summarize
from tst_lightning.comparison.reporting.figures.shared import (
    MOST_ARMS,
    Material,
    Picture,
    half_widths,
    plain_log_ticks,
    unit,
)
from tst_lightning.drawing import empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tst_lightning.comparison.analysis.summary import Frontier, SpeedUp


def frontier_picture(material: Material) -> Picture | None:
    """A panel for each method beside its variant's baseline."""
    found = [(base, frontier) for base, frontier in _panels(material) if frontier is not base] or _panels(material)
    if not found:
        return None
    shown, note = _picked(found)
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure, panels = empty_figure(rows, columns, (6.2 if columns == 1 else 9.5, (4.2 if columns == 1 else 3.8) * rows))
    divisor, label = unit("flops", max(point.flops for _, frontier in shown for point in frontier.points))
    for place, (panel, (base, frontier)) in enumerate(zip(panels, shown, strict=False)):
        _draw_panel(panel, base, frontier, material, divisor)
        panel.set_xlabel(label)
        if place % columns == 0:
            panel.set_ylabel("final validation loss (nats per token)")
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    return Picture(figure, _caption(shown, material) + note)


def _panels(material: Material) -> list[tuple["Frontier | None", "Frontier"]]:
    frontiers = material.summary.frontiers
    bases = {frontier.variant: frontier for frontier in frontiers if frontier.method == material.baseline}
    return [(bases.get(frontier.variant), frontier) for frontier in frontiers if _means(frontier)[0].size]


def _picked(found: list) -> tuple[list, str]:
    if len(found) <= MOST_ARMS:
        return found, ""
    ranked = sorted(found, key=lambda both: _means(both[1])[1][-1])[:MOST_ARMS]
    return [both for both in found if both in ranked], f" Of {len(found)} methods the best {MOST_ARMS} are drawn."


def _draw_panel(panel: "Axes", base: "Frontier | None", frontier: "Frontier", material: Material, divisor: float):
    panel.set_xscale("log")
    panel.set_yscale("log")
    flops, losses = [], []
    for line in [frontier] if base is None or base is frontier else [base, frontier]:
        look = material.looks[line.method]
        x, y = _means(line)
        for point in line.points:
            summary = summarize(list(point.loss_by_seed.values()))
            if summary is None:
                continue
            panel.errorbar(
                point.flops, summary.mean, yerr=half_widths(summary.mean, summary.low, summary.high),
                fmt=look.marker, color=look.colour, markersize=6, capsize=3, linewidth=1.2,
            )  # fmt: skip
            losses += [value for value in (summary.mean, summary.low, summary.high) if value is not None and value > 0]
        panel.plot(x, y, **look.style, marker=look.marker, markersize=6, linewidth=1.6,
                   label=f"{line.method}\n({line.kind})")  # fmt: skip
        flops += list(x)
    speed_up = _speed_up(frontier, material)
    if base is not None and speed_up is not None:
        _draw_arrow(panel, base, frontier, speed_up, material)
    margin = (max(losses) / min(losses)) ** 0.08
    panel.set_ylim(min(losses) / margin, max(losses) * margin)
    plain_log_ticks(panel.xaxis, flops, lambda value: f"{value / divisor:.3g}")
    plain_log_ticks(panel.yaxis, _round_values(min(losses), max(losses)))
    panel.set_title(frontier.variant)
    panel.legend(loc="upper right", fontsize=9, labelcolor="linecolor")


def _speed_up(frontier: "Frontier", material: Material) -> "SpeedUp | None":
    """The one at the loss of the longest runs: nearest to what anyone would train for."""
    known = [
        found for found in material.summary.speed_ups
        if (found.method, found.variant) == (frontier.method, frontier.variant) and found.ratio is not None
    ]  # fmt: skip
    return max(known, key=lambda found: found.of_length, default=None)


def _draw_arrow(panel: "Axes", base: "Frontier", frontier: "Frontier", found: "SpeedUp", material: Material) -> None:
    """From the FLOPs that the baseline needs for a loss to those that the method needs."""
    own = flops_at_loss(*_means(frontier), found.loss)
    if own is None:
        return
    look = material.looks[frontier.method]
    from_flops = own * found.ratio
    panel.annotate(
        "", (own, found.loss), (from_flops, found.loss),
        arrowprops={"arrowstyle": "-|>", "color": "#222222", "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}, zorder=5,
    )  # fmt: skip
    # Both lines fall, so there is room to the left of the arrow and below.
    interval = "" if found.low is None else f"\n({found.low:.2f} to {found.high:.2f}, n = {found.n})"
    panel.annotate(
        f"{found.ratio:.2f} times{interval}", (min(own, from_flops), found.loss), xytext=(-8, 2),
        textcoords="offset points", ha="right", va="top", color=look.colour, weight="bold", fontsize=9, zorder=6,
    )  # fmt: skip


def _means(frontier: "Frontier") -> tuple[np.ndarray, np.ndarray]:
    points = [(p.flops, summarize(list(p.loss_by_seed.values())).mean) for p in frontier.points if p.loss_by_seed]
    return np.array([flops for flops, _ in points]), np.array([loss for _, loss in points])


def _round_values(low: float, high: float) -> list[float]:
    """Five or so round values in a range, for ticks."""
    from matplotlib.ticker import MaxNLocator

    values = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(value) for value in values if low * 0.98 <= value <= high * 1.02] or [low, high]


def _caption(shown, material: Material) -> str:
    counts = sorted({len(p.loss_by_seed) for _, frontier in shown for p in frontier.points if p.loss_by_seed})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = (
        "Every point is a finished model, its learning rate decayed to the end: validation loss against what its "
        f"training costs, both axes logarithmic, n = {n}"
    )
    text += ", bars are 95 % intervals over seeds." if counts[-1] > 1 else " seed."
    if any(_speed_up(frontier, material) for _, frontier in shown):
        text += (
            " An arrow at a loss leads from the FLOPs that the baseline needs for it to those that the method needs; "
            "its number is their ratio, with its interval over seeds. Nothing is extrapolated."
        )
    return text
