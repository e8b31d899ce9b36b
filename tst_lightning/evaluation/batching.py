"""Which inputs run together: distinct rows, trees of rows that begin alike, and batches of similar length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

MIN_SAVING = 0.1
"""A row joins a tree that saves at least this share of its tokens; less would not pay for the mask."""
MAX_TREE_LENGTH = 2
"""Longest tree, in multiples of its longest row: attention inside a tree sees the other branches too, and masks
them. Measured on BLiMP's pairs: 2 saves 22 % of the tokens, no limit 25 % at five times the attention."""


@dataclass
class Row:
    """One distinct input and everything scored on it: (request, targets) pairs, targets at its end."""

    inputs: tuple[int, ...]
    scored: list[tuple[int, list[int]]]

    @property
    def positions(self) -> int:
        return sum(len(targets) for _, targets in self.scored)


@dataclass
class Tree:
    """Rows that begin with the same ``shared`` tokens, which run once: the stem, then each row's rest as a branch.

    One row alone is a tree without branches.
    """

    rows: list[Row]
    shared: int
    length: int = field(init=False)

    def __post_init__(self) -> None:
        self.length = self.shared + sum(len(row.inputs) - self.shared for row in self.rows)

    @property
    def positions(self) -> int:
        return sum(row.positions for row in self.rows)

    @property
    def is_row(self) -> bool:
        return len(self.rows) == 1

    def with_row(self, row: Row) -> "Tree | None":
        """This tree with another row, if that pays."""
        shared = common_length(self.rows[0].inputs[: self.shared], row.inputs)
        larger = Tree([*self.rows, row], shared)
        saving = self.length + len(row.inputs) - larger.length
        longest = max(len(row.inputs) for row in larger.rows)
        if saving < MIN_SAVING * len(row.inputs) or larger.length > MAX_TREE_LENGTH * longest:
            return None
        return larger


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading elements are equal; by halving, since comparing slices is far faster than elements."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def single_rows(rows: list[Row]) -> list[Tree]:
    """Every row for itself, longest first."""
    return sorted((Tree([row], len(row.inputs)) for row in rows), key=_order)


def trees(rows: list[Row]) -> list[Tree]:
    """Rows that begin alike together where that pays, first those alone and then those together, longest first."""
    found: list[Tree] = []
    for row in sorted(rows, key=lambda row: row.inputs):  # which puts next to one another what begins alike
        larger = found[-1].with_row(row) if found else None
        if larger:
            found[-1] = larger
        else:
            found.append(Tree([row], len(row.inputs)))
    return sorted(found, key=_order)


def _order(tree: Tree) -> tuple:
    return not tree.is_row, -tree.length, tree.rows[0].inputs


def batches(trees: Sequence[Tree], batch_tokens: int, max_positions: int) -> Iterator[list[Tree]]:
    """Cut into batches of at most ``batch_tokens`` padded tokens and ``max_positions`` scored positions.

    A tree that exceeds a bound alone is a batch of its own, and trees never run with rows, which need no mask.
    """
    batch: list[Tree] = []
    positions = 0
    for tree in trees:
        positions += tree.positions
        too_long = batch and (len(batch) + 1) * max(batch[0].length, tree.length) > batch_tokens
        other_kind = batch and batch[0].is_row != tree.is_row
        if batch and (too_long or other_kind or positions > max_positions):
            yield batch
            batch, positions = [], tree.positions
        batch.append(tree)
    if batch:
        yield batch
