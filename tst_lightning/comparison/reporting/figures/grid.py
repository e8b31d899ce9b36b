"""The arms of a comparison as a grid over bag size and step ratio."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tst_lightning.comparison.reporting.figures.looks import superposition
from tst_lightning.comparison.reporting.figures.shared import Material

if TYPE_CHECKING:
    from tst_lightning.comparison.analysis.statistics import PairedDifference


@dataclass(frozen=True)
class Cell:
    arm: str
    difference: "PairedDifference | None"
    """To the baseline; None where there is nothing to compare yet."""
    diverged: bool


@dataclass(frozen=True)
class Grid:
    """Arms that differ in bag size and ratio alone."""

    variant: str
    length: int | None
    """The experiment's; the baseline has so many steps."""
    rest: str
    """What else the arms have in common, of other factors."""
    cells: dict[tuple[float, float], Cell]
    """(bag size, ratio) -> the arm's difference to the baseline."""

    @property
    def bag_sizes(self) -> list[float]:
        return sorted({bag_size for bag_size, _ in self.cells})

    @property
    def ratios(self) -> list[float]:
        return sorted({ratio for _, ratio in self.cells})

    @property
    def has_values(self) -> bool:
        return any(cell.difference is not None for cell in self.cells.values())

    def line(self, ratio: float) -> dict[float, Cell]:
        """Bag size -> cell with a difference, for one ratio."""
        return {
            bag_size: cell for (bag_size, of), cell in sorted(self.cells.items())
            if of == ratio and cell.difference is not None
        }  # fmt: skip


def grids(material: Material) -> list[Grid]:
    """Every grid of two bag sizes or more that the arms make up, the longest runs of each variant first.

    Arms that share bag size and ratio and are not told apart by other factors are no grid: they differ in
    something that is not known here.
    """
    found: dict[tuple, dict[tuple[float, float], Cell]] = {}
    ambiguous = set()
    for arm in material.summary.arms.values():
        place = superposition(arm)
        pair = material.to_baseline(arm.arm)
        if place is None or pair is None:
            continue
        rest = ", ".join(f"{name} = {value}" for name, value in sorted(arm.factors.items()) if name not in ("s", "r"))
        key = (arm.variant, arm.nominal_length, rest)
        cells = found.setdefault(key, {})
        if place in cells:
            ambiguous.add(key)
        difference = pair.difference
        if difference is not None and not math.isfinite(difference.mean):
            difference = None
        cells[place] = Cell(arm.arm, difference, bool(arm.diverged))
    variants = list(material.variants)
    order = sorted(found, key=lambda key: (variants.index(key[0]), -(key[1] or 0)))
    made = [Grid(*key, found[key]) for key in order if key not in ambiguous]
    return [grid for grid in made if len(grid.bag_sizes) > 1 and grid.has_values]
