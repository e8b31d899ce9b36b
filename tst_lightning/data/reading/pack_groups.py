"""A group of documents packed into rows, and how many rows and targets every group of a corpus gives."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tst_lightning.data.reading.documents import Documents
from tst_lightning.data.reading.packing import Policy, pack
from tst_lightning.data.reading.rows import Row, Span


class PackedGroup(NamedTuple):
    """The rows of a group in the order of the text: pieces ``row_starts[i] : row_starts[i + 1]`` are row ``i``."""

    shard: int
    row_starts: np.ndarray
    first_tokens: np.ndarray
    """Of each piece, in the shard."""
    tokens: np.ndarray
    """Of each piece."""
    row_targets: np.ndarray
    """Tokens of each row that are targets."""

    @property
    def rows(self) -> int:
        return len(self.row_targets)

    @property
    def row_tokens(self) -> np.ndarray:
        """Tokens of each row."""
        ends = np.concatenate([[0], np.cumsum(self.tokens)])[self.row_starts]
        return np.diff(ends)

    def row(self, number: int, corpus: int) -> Row:
        pieces = slice(int(self.row_starts[number]), int(self.row_starts[number + 1]))
        first_tokens, tokens = self.first_tokens[pieces].tolist(), self.tokens[pieces].tolist()
        return tuple(Span(self.shard, first, count, corpus) for first, count in zip(first_tokens, tokens, strict=True))


class GroupCounts(NamedTuple):
    """Rows and targets of every group of a corpus, in the order of the shards: int64."""

    rows: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class GroupPacking:
    """Packs the groups of a corpus into rows of ``row_positions`` bags.

    Counting all groups takes as long as packing all of them, so the counts travel with a pickled copy.
    """

    documents: Documents
    row_positions: int
    """Bags of a row, the last of which is only a target: sequence length + 1."""
    policy: Policy
    isolate: bool
    """Whether the first bag of each piece is no target; else only the first of each row is none."""

    def __getstate__(self) -> dict:
        return {name: getattr(self, name) for name in (*(field.name for field in fields(self)), "_counts_by_bag_size")}

    @cached_property
    def first_groups(self) -> np.ndarray:
        """Number of the first group of each shard, in the order of ``GroupCounts``."""
        return np.concatenate([[0], np.cumsum(self.documents.shard_groups)])

    def pack(self, shard: int, group: int, bag_size: int) -> PackedGroup:
        """The rows of a group when bags hold ``bag_size`` tokens."""
        starts, lengths = self.documents.group(shard, group)
        packing = pack(-(-lengths // bag_size), self.row_positions, self.policy)
        offsets = packing.first * bag_size
        first_tokens = starts[packing.document] + offsets
        tokens = np.minimum(packing.length * bag_size, lengths[packing.document] - offsets)
        row_starts, pieces = _in_text_order(packing.row_starts, first_tokens)
        first_tokens, tokens = first_tokens[pieces], tokens[pieces]
        without_target = np.minimum(tokens, bag_size)
        if not self.isolate:
            opens_row = np.zeros(len(tokens), dtype=bool)
            opens_row[row_starts[:-1]] = True
            without_target[~opens_row] = 0
        row_targets = np.add.reduceat(tokens - without_target, row_starts[:-1]) if len(tokens) else tokens
        return PackedGroup(shard, row_starts, first_tokens, tokens, row_targets)

    def counts(self, bag_size: int) -> GroupCounts:
        """Counted on the first call, which takes a second or so for every million documents."""
        if bag_size not in self._counts_by_bag_size:
            groups = [
                self.pack(shard, group, bag_size)
                for shard, groups in enumerate(self.documents.shard_groups)
                for group in range(groups)
            ]
            self._counts_by_bag_size[bag_size] = GroupCounts(
                np.array([group.rows for group in groups], dtype=np.int64),
                np.array([group.row_targets.sum() for group in groups], dtype=np.int64),
            )
        return self._counts_by_bag_size[bag_size]

    @cached_property
    def _counts_by_bag_size(self) -> dict[int, GroupCounts]:
        return {}


def _in_text_order(row_starts: np.ndarray, first_tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows sorted by where their first piece in the text is: new row starts, and the pieces in their new order."""
    if not len(first_tokens):
        return np.zeros(1, np.int64), np.empty(0, np.int64)
    order = np.argsort(np.minimum.reduceat(first_tokens, row_starts[:-1]), kind="stable")
    sizes = np.diff(row_starts)[order]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    pieces = np.arange(len(first_tokens)) + np.repeat(row_starts[:-1][order] - starts[:-1], sizes)
    return starts, pieces
