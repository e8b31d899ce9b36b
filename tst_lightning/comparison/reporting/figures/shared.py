"""What the pictures share: their material, what is picked of it, axes and labels."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tst_lightning.comparison.reporting.figures.looks import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tst_lightning.comparison.analysis.summary import ArmSummary, ComparisonSummary, PairSummary

MOST_ARMS = 6
"""Arms that one panel of curves has room for."""

_LABEL_GAP = 0.06
"""Least distance between two labels at line ends, as a share of the axes' height."""


@dataclass(frozen=True)
class Picture:
    figure: "Figure"
    caption: str


@dataclass(frozen=True)
class Material:
    """What pictures are drawn from."""

    summary: "ComparisonSummary"
    baseline: str
    """The method that the others are compared with."""
    looks: dict[str, Look]

    def look(self, arm: str) -> Look:
        return self.looks[self.summary.arms[arm].method]

    @property
    def variants(self) -> dict[str, list["ArmSummary"]]:
        """Variant -> its arms; one nameless variant where there are none."""
        arms = self.summary.arms.values()
        return {
            variant: [arm for arm in arms if arm.variant == variant]
            for variant in dict.fromkeys(arm.variant for arm in arms)
        }

    def to_baseline(self, arm: str) -> "PairSummary | None":
        """The arm's comparison with the baseline, among all its comparisons."""
        for pair in self.summary.pairs:
            if pair.arm == arm and self.summary.arms[pair.reference].method == self.baseline:
                return pair
        return None

    def pick(self, arms: Sequence["ArmSummary"]) -> tuple[list["ArmSummary"], str]:
        """All arms if there is room for them; otherwise the references, the best and the worst by final loss.

        Returns:
            The arms, and a sentence for the caption that says what is left out.
        """
        references = {pair.reference for pair in self.summary.pairs}
        kept = [arm for arm in arms if arm.method == self.baseline or arm.arm in references]
        ranked = sorted((arm for arm in arms if arm not in kept and finite_mean(arm)), key=lambda arm: arm.final.mean)
        if len(arms) <= MOST_ARMS or len(ranked) < 2:
            return list(arms), ""
        best, worst = ranked[0], ranked[-1]
        note = f"Of {len(arms)} arms only {best.arm} (best), {worst.arm} (worst) and what they are compared with are"
        return [arm for arm in arms if arm in (*kept, best, worst)], f"{note} drawn here; the tables have all."


def longest(arms: Sequence["ArmSummary"]) -> list["ArmSummary"]:
    """The arms of the greatest length."""
    most = max((arm.nominal_length or 0 for arm in arms), default=0)
    return [arm for arm in arms if (arm.nominal_length or 0) == most]


def finite_mean(arm: "ArmSummary") -> bool:
    return arm.final is not None and math.isfinite(arm.final.mean)


def half_widths(mean: float, low: float | None, high: float | None) -> list[list[float]] | None:
    """An interval as ``errorbar`` wants it; None without one."""
    return None if low is None or high is None else [[mean - low], [high - mean]]


def title(variant: str, steps: int | None = None, rest: str = "") -> str:
    """What a panel shows, if there is more than one kind."""
    return ", ".join(part for part in (variant, f"{steps:,} steps" if steps else "", rest) if part)


def unit(x: str, largest: float) -> tuple[float, str]:
    """Divisor and axis label that keep tick labels short; ``x`` is a field of ``Curve``."""
    if x == "flops":
        power = math.floor(math.log10(largest)) if largest > 0 else 0
        power -= power % 3
        return 10.0**power, f"training FLOPs ($10^{{{power}}}$)" if power else "training FLOPs"
    for seconds, name in ((3600.0, "hours"), (60.0, "minutes")):
        if largest >= 2 * seconds:
            return seconds, f"training time ({name})"
    return 1.0, "training time (seconds)"


def label_line_ends(panel: "Axes", ends: dict[str, float], colours: dict[str, str]) -> None:
    """Write names beside the ends of their lines, at these heights, pushed apart where they would overlap."""
    low, high = panel.get_ylim()
    heights = {
        name: float(np.clip((end - low) / (high - low), 0.02, 0.98)) for name, end in ends.items() if math.isfinite(end)
    }
    order = sorted(heights, key=heights.get)
    for before, name in itertools.pairwise(order):
        heights[name] = max(heights[name], heights[before] + _LABEL_GAP)
    for name, ceiling in zip(reversed(order), itertools.count(1.0, -_LABEL_GAP), strict=False):
        heights[name] = min(heights[name], ceiling)
    for name, height in heights.items():
        panel.text(1.02, height, name, transform=panel.transAxes, color=colours[name], va="center", weight="bold")


def plain_log_ticks(
    axis, values: Sequence[float], show: Callable[[float], str] = "{:.3g}".format, most: int = 6
) -> None:
    """Ticks of a logarithmic axis at given values, those too close to their neighbour left out."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    values = sorted(set(values))
    apart = math.log(values[-1] / values[0]) / most if len(values) > 1 else 0.0
    kept = values[-1:]
    for value in reversed(values[:-1]):
        if math.log(kept[-1] / value) >= apart * 0.999:
            kept.append(value)
    axis.set_major_locator(FixedLocator(kept))
    axis.set_major_formatter(FixedFormatter([show(value) for value in kept]))
    axis.set_minor_locator(NullLocator())


def longest_of_each(grids: Sequence) -> list:
    """Of things with a variant, a length and a ``rest``: the longest of each kind."""
    best: dict[tuple[str, str], object] = {}
    for grid in grids:
        known = best.get((grid.variant, grid.rest))
        if known is None or (grid.length or 0) > (known.length or 0):
            best[grid.variant, grid.rest] = grid
    return list(best.values())
