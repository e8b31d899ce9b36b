"""One colour, line style and point shape for each method, the same in every picture and table."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tst_lightning.comparison.design.comparability import read_config
from tst_lightning.drawing import COLOURS, GREYS, LINES, MARKERS

if TYPE_CHECKING:
    from tst_lightning.comparison.analysis.summary import ArmSummary, ComparisonSummary

_SEQUENCE = (0.1, 0.8)
"""Part of viridis that is neither too near the baseline's black nor too pale to print."""


@dataclass(frozen=True)
class Look:
    colour: str
    line: str | tuple
    marker: str

    @property
    def style(self) -> dict[str, Any]:
        """Keywords of ``Axes.plot`` for a line."""
        return {"color": self.colour, "linestyle": self.line}


def method_looks(summary: "ComparisonSummary", baseline: str) -> dict[str, Look]:
    """Method -> its look.

    What others are compared with is grey. Up to six methods have a colour each; a larger grid over bag size and
    ratio has a colour for each bag size, and a line style and point shape for each ratio.
    """
    arms = {arm.method: arm for arm in reversed(summary.arms.values())}
    methods = list(dict.fromkeys(arm.method for arm in summary.arms.values()))
    references = [baseline, *(summary.arms[pair.reference].method for pair in summary.pairs)]
    references = [method for method in dict.fromkeys(references) if method in methods]
    looks = {method: Look(GREYS[place % len(GREYS)], "-", "o") for place, method in enumerate(references)}
    others = [method for method in methods if method not in looks]
    grid = {method: superposition(arms[method]) for method in others}
    if len(others) > len(COLOURS) and None not in grid.values():
        return looks | _grid_looks(grid)
    return looks | {method: _nth_look(place) for place, method in enumerate(others)}


def ratio_styles(ratios: list[float]) -> dict[float, tuple[str | tuple, str]]:
    """Ratio -> line style and point shape."""
    places = enumerate(sorted(set(ratios)))
    return {ratio: (LINES[place % len(LINES)], MARKERS[place % len(MARKERS)]) for place, ratio in places}


def superposition(arm: "ArmSummary") -> tuple[float, float] | None:
    """Bag size and step ratio of an arm, from its factors ``s`` and ``r`` or else from a run's resolved
    configuration; None without superposition."""
    configured = next((_configured(run.config) for run in arm.runs if run.config), None) or (None, None)
    found = [arm.factors.get(name, value) for name, value in zip(("s", "r"), configured, strict=True)]
    return tuple(found) if all(isinstance(value, int | float) for value in found) else None


def _grid_looks(grid: Mapping[str, tuple[float, float]]) -> dict[str, Look]:
    import matplotlib
    from matplotlib.colors import to_hex

    bag_sizes = sorted({bag_size for bag_size, _ in grid.values()})
    low, high = _SEQUENCE
    colours = {
        bag_size: to_hex(matplotlib.colormaps["viridis"](low + (high - low) * place / max(1, len(bag_sizes) - 1)))
        for place, bag_size in enumerate(bag_sizes)
    }
    styles = ratio_styles([ratio for _, ratio in grid.values()])
    return {method: Look(colours[bag_size], *styles[ratio]) for method, (bag_size, ratio) in grid.items()}


def _nth_look(place: int) -> Look:
    """Colour and shape come round every six methods, each time with other line styles."""
    round_, colour = divmod(place, len(COLOURS))
    return Look(COLOURS[colour], LINES[(place + round_) % len(LINES)], MARKERS[(place + 2 * round_) % len(MARKERS)])


@functools.lru_cache(maxsize=1024)
def _configured(config: str) -> tuple[float, float] | None:
    try:
        callbacks = read_config(config)["trainer"]["callbacks"]
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        for callback in callbacks:
            if callback["class_path"].endswith("SuperpositionCallback"):
                return callback["init_args"]["bag_size"], callback["init_args"]["step_ratio"]
    except (KeyError, TypeError, AttributeError):  # cut off by a kill, or of another shape
        pass
    return None
