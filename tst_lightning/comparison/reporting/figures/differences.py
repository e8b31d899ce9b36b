"""Final losses beside what they are compared with: a row for each pair."""

import math
from typing import TYPE_CHECKING

from tst_lightning.comparison.reporting.figures.shared import Material, Picture, half_widths
from tst_lightning.drawing import empty_figure

if TYPE_CHECKING:
    from tst_lightning.comparison.analysis.summary import PairSummary

_MOST_ROWS = 45
_ROW_INCHES = 0.27


def differences_picture(material: Material) -> Picture | None:
    """Difference of each arm to its reference, with interval and seeds."""
    arms = material.summary.arms
    pairs = [p for p in material.summary.pairs if p.difference is not None and math.isfinite(p.difference.mean)]
    note = ""
    if len(pairs) > _MOST_ROWS:
        most = max(arms[pair.arm].nominal_length or 0 for pair in pairs)
        pairs = [pair for pair in pairs if (arms[pair.arm].nominal_length or 0) == most]
        note = f" Only the runs at a length of {most:,} steps are drawn; the table has all." if most else ""
    if not pairs:
        return None
    figure, (panel,) = empty_figure(1, 1, (7.5, 1.1 + _ROW_INCHES * len(pairs)))
    panel.axvline(0, color=material.looks[material.baseline].colour, linewidth=1.4)
    for row, pair in enumerate(pairs):
        difference, look = pair.difference, material.look(pair.arm)
        seeds = list(difference.by_seed.values())
        if len(seeds) > 1:
            panel.scatter(seeds, [row - 0.24] * len(seeds), s=9, color=look.colour, alpha=0.6, linewidths=0)
        panel.errorbar(
            difference.mean, row, xerr=half_widths(difference.mean, difference.low, difference.high),
            fmt=look.marker, markersize=6.5, color=look.colour, capsize=3, linewidth=1.5, markeredgewidth=1.4,
            markerfacecolor=look.colour if difference.is_shown else "white",
        )  # fmt: skip
    panel.set_yticks(range(len(pairs)), [_label(pair, material) for pair in pairs])
    panel.set_ylim(len(pairs) - 0.4, -0.6)
    panel.grid(axis="y", visible=False)
    panel.set_xlabel("difference in final validation loss (nats per token); left of zero is better")
    return Picture(figure, _caption(pairs) + note)


def _label(pair: "PairSummary", material: Material) -> str:
    if material.summary.arms[pair.reference].method == material.baseline:
        return pair.arm
    return f"{pair.arm}\nto {pair.reference}"


def _caption(pairs: list["PairSummary"]) -> str:
    counts = sorted({pair.difference.n for pair in pairs})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = f"Final validation loss of each arm minus that of what it is compared with, paired by seed (n = {n})."
    if counts[-1] == 1:
        return f"{text} With one seed there are no intervals, so nothing here is shown to differ from zero."
    return (
        f"{text} Bars are 95 % intervals (Student t), small points the seeds. Points are filled where the "
        "difference is significant at 5 % after Holm's correction, open where it is not."
    )
