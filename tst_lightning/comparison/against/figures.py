"""The pictures of two folders: losses and effects of both, row by row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tst_lightning.comparison.against.compare import Against
from tst_lightning.comparison.against.sentences import labels
from tst_lightning.comparison.analysis.statistics import PairedDifference, Summary
from tst_lightning.drawing import COLOURS, STYLE, empty_figure, png
from tst_lightning.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "D")
_OFFSETS = (-0.16, 0.16)
_WIDTH_INCHES = 4.8
"""Narrow, so that its text can be read on a phone."""


@dataclass(frozen=True)
class _Side:
    """One folder's share of a row."""

    values: Sequence[float]
    over_seeds: Summary | PairedDifference | None


def draw_figures(against: Against, folder: Path) -> dict[str, Path]:
    """Draw what there are data for.

    Returns:
        ``losses`` and ``effects`` -> PNG file in ``folder``.
    """
    import matplotlib

    names = labels(against)
    losses = {
        arm.name: (
            _Side(list(arm.here.losses.values()), arm.loss_here),
            _Side(list(arm.there.losses.values()), arm.loss_there),
        )
        for arm in against.arms
        if not arm.not_compared and (arm.loss_here or arm.loss_there)
    }
    effects = {
        f"{effect.arm}\nagainst {effect.reference}": tuple(
            _Side(list(side.by_seed.values()) if side else [], side) for side in (effect.here, effect.there)
        )
        for effect in against.effects
        if not effect.not_compared and (effect.here or effect.there)
    }
    pictures = {
        "losses": (losses, "final validation loss (nats per token)", False),
        "effects": (effects, "difference to the reference (nats per token)", True),
    }
    drawn = {}
    with matplotlib.rc_context(STYLE):
        for name, (rows, axis, with_zero) in pictures.items():
            if rows:
                drawn[name] = folder / f"against-{against.there.folder.resolve().name}-{name}.png"
                write_atomically(drawn[name], png(_rows_figure(rows, names, axis, with_zero)))
    return drawn


def _rows_figure(rows: dict[str, tuple[_Side, _Side]], names: tuple[str, str], axis: str, with_zero: bool) -> "Figure":
    figure, (panel,) = empty_figure(1, 1, (_WIDTH_INCHES, 1.3 + 0.5 * len(rows)))
    for row, sides in enumerate(rows.values()):
        for place, side in enumerate(sides):
            _draw_side(panel, row + _OFFSETS[place], side, place)
    if with_zero:
        panel.axvline(0, color="#888888", linewidth=1, zorder=1)
    for place, name in enumerate(names):
        face = COLOURS[place] if place == 0 else "white"
        panel.plot([], [], _MARKERS[place], color=COLOURS[place], markerfacecolor=face, label=name)
    panel.set_yticks(range(len(rows)), list(rows))
    panel.set_ylim(len(rows) - 0.45, -0.55)
    panel.grid(axis="y", visible=False)
    panel.locator_params(axis="x", nbins=5)
    panel.set_xlabel(axis)
    figure.legend(frameon=False, loc="outside upper center", ncols=2, labelcolor=COLOURS[:2])
    return figure


def _draw_side(panel: "Axes", y: float, side: _Side, place: int) -> None:
    colour = COLOURS[place]
    panel.scatter(side.values, [y] * len(side.values), s=14, color=colour, alpha=0.45, zorder=2, linewidths=0)
    if side.over_seeds is None:
        return
    mean, half = side.over_seeds.mean, None
    if side.over_seeds.low is not None:
        half = side.over_seeds.high - mean
    panel.errorbar(
        mean, y, xerr=half, fmt=_MARKERS[place], color=colour, markerfacecolor=colour if place == 0 else "white",
        capsize=4, markersize=6, zorder=3,
    )  # fmt: skip
