"""Loss over bag size from CSV files of published runs, to lay beside a comparison's own."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from tst_lightning.errors import UserError

PATTERN = "loss_grid_*.csv"
COLUMNS = ("step_ratio", "bag_size", "final_loss")


@dataclass(frozen=True)
class PaperCurves:
    """One file: differences of final losses to its baseline."""

    name: str
    """The file's, without what all names have in common."""
    differences: dict[float, dict[float, float]]
    """Step ratio -> bag size -> final loss minus the baseline's, in nats per token."""


def read_paper_curves(folder: str | Path) -> list[PaperCurves]:
    """Read every ``loss_grid_*.csv`` of a folder; its rows of bag size 1 are the baseline.

    Raises:
        UserError: there is no such file, or one lacks a column or the baseline, or holds what is not a number.
    """
    paths = sorted(Path(folder).glob(PATTERN))
    if not paths:
        raise UserError(
            f"paper_curves is '{folder}', which holds no {PATTERN}: give a folder of CSV files with the columns "
            f"{', '.join(COLUMNS)}"
        )
    return [_read(path) for path in paths]


def _read(path: Path) -> PaperCurves:
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        reader = csv.DictReader(stream)
        if lacking := [column for column in COLUMNS if column not in (reader.fieldnames or [])]:
            raise UserError(f"'{path}' lacks the column {', '.join(lacking)}: it needs {', '.join(COLUMNS)}")
        rows = []
        for line, row in enumerate(reader, start=2):
            try:
                rows.append([float(row[column]) for column in COLUMNS])
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"'{path}', line {line}: {', '.join(COLUMNS)} must be numbers, not {list(row.values())}"
                ) from error
    baseline = next((loss for _, bag_size, loss in rows if bag_size == 1), None)
    if baseline is None:
        raise UserError(f"'{path}' has no row of bag_size 1, which is the baseline: add one")
    differences: dict[float, dict[float, float]] = {}
    for ratio, bag_size, loss in rows:
        if bag_size > 1 and math.isfinite(loss):
            differences.setdefault(ratio, {})[bag_size] = loss - baseline
    return PaperCurves(path.stem.removeprefix("loss_grid_"), differences)
