"""Heat map of the difference to the baseline over bag size and ratio."""

from typing import TYPE_CHECKING

import numpy as np

from tst_lightning.comparison.reporting.figures.grid import Grid, grids
from tst_lightning.comparison.reporting.figures.shared import Material, Picture, title
from tst_lightning.drawing import empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_PANELS = 6


def heat_map_picture(material: Material) -> Picture | None:
    """A panel for each variant and length, the longest runs first."""
    found = [grid for grid in grids(material) if len(grid.ratios) > 1]
    if not found:
        return None
    shown = found[:_MOST_PANELS]
    differences = [cell.difference for grid in shown for cell in grid.cells.values() if cell.difference is not None]
    # Beyond the largest value, so that the darkest colours, on which nothing is legible, are not used.
    limit = 1.25 * max(abs(difference.mean) for difference in differences) or 1e-3
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    width = max(len(grid.bag_sizes) for grid in shown) * 0.85 + 1.3
    height = max(len(grid.ratios) for grid in shown) * 0.55 + 1.0
    figure, panels = empty_figure(rows, columns, (width * columns + 1.0, height * rows))
    for panel, grid in zip(panels, shown, strict=False):
        image = _draw(panel, grid, limit)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    figure.colorbar(image, ax=list(panels[: len(shown)]), label="difference (nats per token)", shrink=0.9, aspect=25)
    text = (
        "Difference of the final validation loss to the baseline's for each bag size s and step ratio r: blue and "
        "negative is better, red and positive is worse."
    )
    if max(difference.n for difference in differences) == 1:
        text += " One seed: no cell has a test."
    else:
        text += " Hatched cells, with their number in brackets, are not significant at 5 % after Holm's correction."
    left = f" Of {len(found)} grids the first {len(shown)} are drawn." if len(found) > len(shown) else ""
    return Picture(figure, text + left)


def _draw(panel: "Axes", grid: Grid, limit: float):
    values = np.full((len(grid.ratios), len(grid.bag_sizes)), np.nan)
    for row, ratio in enumerate(grid.ratios):
        for column, bag_size in enumerate(grid.bag_sizes):
            cell = grid.cells.get((bag_size, ratio))
            text, colour = "", "#222222"
            if cell is not None and cell.difference is not None:
                difference = cell.difference
                values[row, column] = difference.mean
                text = f"{difference.mean:+.3f}"
                if not difference.is_shown and difference.n > 1:
                    text = f"({text})"
                    _hatch(panel, column, row)
                if abs(difference.mean) > 0.6 * limit:
                    colour = "white"
            elif cell is not None:
                text = "diverged" if cell.diverged else "no result"
            outline = _outline("#00000080" if colour == "white" else "#ffffffd0")
            panel.text(column, row, text, ha="center", va="center", color=colour, fontsize=9, path_effects=outline)
    image = panel.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower", aspect="auto")
    panel.set_facecolor("#eeeeee")
    panel.set_xticks(range(len(grid.bag_sizes)), [f"{size:g}" for size in grid.bag_sizes])
    panel.set_yticks(range(len(grid.ratios)), [f"{ratio:g}" for ratio in grid.ratios])
    panel.set_xlabel("bag size s")
    panel.set_ylabel("step ratio r")
    panel.grid(visible=False)
    panel.set_title(title(grid.variant, grid.length, grid.rest))
    return image


def _hatch(panel: "Axes", column: int, row: int) -> None:
    from matplotlib.patches import Rectangle

    panel.add_patch(
        Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch="///", edgecolor="#b0b0b0", linewidth=0)
    )


def _outline(colour: str):
    """Numbers stay legible on a hatched ground."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground=colour)]
