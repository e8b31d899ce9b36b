"""The U: difference to the baseline over bag size, a line for each ratio."""

from typing import TYPE_CHECKING

from tst_lightning.comparison.reporting.figures.grid import Grid, grids
from tst_lightning.comparison.reporting.figures.looks import ratio_styles
from tst_lightning.comparison.reporting.figures.paper_curves import PaperCurves
from tst_lightning.comparison.reporting.figures.shared import (
    Material,
    Picture,
    half_widths,
    longest_of_each,
    plain_log_ticks,
    title,
)
from tst_lightning.drawing import empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINE_COLOUR = "#8a8a8a"
_PAPER_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Shown where the comparison has no ratio in common with the paper."""


def bag_size_picture(material: Material, paper: list[PaperCurves]) -> Picture | None:
    """A panel for each grid of the longest runs; below, in axes of their own, the paper's."""
    own = [grid for grid in longest_of_each(grids(material)) if any(len(grid.line(r)) > 1 for r in grid.ratios)]
    if not own:
        return None
    ratios = sorted({ratio for grid in own for ratio in grid.ratios})
    known = {ratio for curves in paper for ratio in curves.differences}
    paper_ratios = [ratio for ratio in ratios if ratio in known] or [r for r in _PAPER_RATIOS if r in known]
    styles = ratio_styles([*ratios, *(paper_ratios if paper else [])])
    sizes = sorted({size for grid in own for size in grid.bag_sizes})
    figure, panels = _empty(len(own), len(paper), sizes)
    for panel, grid in zip(panels, own, strict=False):
        _draw_own(panel, grid, material, styles)
    for panel, curves in zip(panels[len(own) :], paper, strict=False):
        _draw_paper(panel, curves, paper_ratios, styles)
    _legend(figure, styles)
    return Picture(figure, _caption(own, material, bool(paper)))


def _empty(own: int, paper: int, sizes: list[float]) -> tuple["Figure", list["Axes"]]:
    """Panels on one logarithmic axis of bag sizes: own ones above, as wide as the page if there is one."""
    wide = own == 1 and paper > 0
    rows = [["0", "0"]] if wide else []
    names = [str(place) for place in range(len(rows), own)]
    below = [str(place) for place in range(own, own + paper)]
    columns = 1 if own + paper == 1 else 2
    for group in (names, below):
        group += ["."] * (-len(group) % columns)
        rows += [group[start : start + columns] for start in range(0, len(group), columns)]
    figure, _ = empty_figure(0, 0, (6.5 if columns == 1 else 9.0, 3.4 * len(rows)))
    panels = figure.subplot_mosaic(rows, sharex=True)
    for panel in panels.values():
        panel.set_xscale("log", base=2)
        plain_log_ticks(panel.xaxis, sizes, most=12)
        panel.tick_params(labelbottom=True)
        panel.grid(axis="x", visible=False)
        panel.set_xlabel("bag size s")
    return figure, [panels[str(place)] for place in range(own + paper)]


def _draw_own(panel: "Axes", grid: Grid, material: Material, styles) -> None:
    panel.axhline(0, color=material.looks[material.baseline].colour, linewidth=1.4)
    lines = [ratio for ratio in grid.ratios if grid.line(ratio)]
    for number, ratio in enumerate(lines):
        line, (style, marker) = grid.line(ratio), styles[ratio]
        # Side by side, so that the intervals of one bag size can be told apart.
        shift = 1.025 ** (number - (len(lines) - 1) / 2)
        places = [size * shift for size in line]
        means = [cell.difference.mean for cell in line.values()]
        panel.plot(places, means, color=_LINE_COLOUR, linestyle=style, linewidth=1.3, zorder=2)
        for place, cell in zip(places, line.values(), strict=True):
            difference = cell.difference
            panel.errorbar(
                place, difference.mean, yerr=half_widths(difference.mean, difference.low, difference.high),
                fmt=marker, markersize=6, color=material.look(cell.arm).colour, capsize=2.5, linewidth=1.2, zorder=3,
                markerfacecolor=None if difference.is_shown or difference.n == 1 else "white",
            )  # fmt: skip
    panel.set_ylabel("difference to the baseline\n(nats per token)")
    panel.set_title(title(grid.variant, grid.length, grid.rest) or "this comparison")


def _draw_paper(panel: "Axes", curves: PaperCurves, ratios: list[float], styles) -> None:
    panel.axhline(0, color="#222222", linewidth=1.4)
    for ratio in ratios:
        line = curves.differences.get(ratio, {})
        style, marker = styles[ratio]
        panel.plot(list(line), list(line.values()), color="#555555", linestyle=style, marker=marker, markersize=3.5,
                   linewidth=1.2)  # fmt: skip
    panel.set_title(f"published: {curves.name}", color="#555555")
    panel.set_ylabel("difference (own scale)", color="#555555")
    panel.tick_params(axis="y", colors="#555555")


def _legend(figure, styles) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=_LINE_COLOUR, linestyle=style, marker=marker, markerfacecolor="#444444",
               markeredgecolor="#444444", label=f"r = {ratio:g}")
        for ratio, (style, marker) in styles.items()
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=min(6, len(handles)), handlelength=3.2)


def _caption(own: list[Grid], material: Material, has_paper: bool) -> str:
    counts = sorted({cell.difference.n for grid in own for cell in grid.cells.values() if cell.difference})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = (
        "Difference of the final validation loss to the baseline's (the line at zero) over bag size s, a line for "
        f"each step ratio r; below zero is better. Colours are the arms', n = {n}."
    )
    if counts[-1] > 1:
        text += " Bars are 95 % intervals over seeds; open points are not significant after Holm's correction."
    shorter = {arm.nominal_length for arm in material.summary.arms.values()} - {grid.length for grid in own}
    if any(shorter):
        text += " Only the longest runs are drawn."
    if has_paper:
        text += (
            " The grey panels show the published runs, named by file, at the same ratios: compare their shape, not "
            "their size, since each has a scale of its own."
        )
    return text
