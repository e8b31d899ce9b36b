"""Numbers as the cells of tables, and blocks that several sections share."""

from collections.abc import Mapping, Sequence

from tst_lightning.comparison.reporting.document import Block, Figure, Folded, Table

NONE = "-"
"""Where there is no number."""

_OPEN_ROWS = 40
"""Longer tables are folded."""


def number(value: float | None, sign: str = "") -> str:
    """Four decimals as far as they mean something: a perplexity of an untrained model has too many digits."""
    if value is None:
        return NONE
    decimals = 4 if abs(value) < 100 else 1 if abs(value) < 10_000 else 0
    return f"{value:{sign},.{decimals}f}"


def interval(low: float | None, high: float | None) -> str:
    return NONE if low is None or high is None else f"{number(low, '+')} to {number(high, '+')}"


def p_value(value: float | None) -> str:
    if value is None:
        return NONE
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def long_table(summary: str, table: Table) -> Block:
    """The table, folded under ``summary`` and its number of rows if it is long."""
    return Folded(f"{summary} ({len(table.rows):,} rows)", [table]) if len(table.rows) > _OPEN_ROWS else table


def pictures(figures: Mapping[str, Figure], *names: str) -> Sequence[Block]:
    """Those of the named pictures that there are."""
    return [figures[name] for name in names if name in figures]
