"""Rows packed from documents: as many rows a group as its documents need."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from tst_lightning.data.reading.concat import MICRO_BATCHES_PER_BLOCK
from tst_lightning.data.reading.order import BLOCK, FieldsOnly, GroupOrder, generator
from tst_lightning.data.reading.pack_groups import GroupPacking, PackedGroup
from tst_lightning.data.reading.rows import CorpusRows, Row, Stretch

_GOLDEN_RATIO = (1 + math.sqrt(5)) / 2


class _Sums(NamedTuple):
    """What comes before each group of a pass when the groups are packed for a bag size (one entry more)."""

    rows: np.ndarray
    targets: np.ndarray


class _Block(NamedTuple):
    """Groups whose rows are mixed: row ``order[i]``, counted through the groups, is the ``i``-th that is read."""

    groups: list[PackedGroup]
    group_starts: np.ndarray
    order: np.ndarray


@dataclass(frozen=True)
class PackedRows(FieldsOnly, CorpusRows):
    """Rows of a corpus whose groups are packed; one stream.

    Rows are numbered along the line of groups by cumulative sums, so that the place of any row is found
    without looking at the rows before it.
    """

    order: GroupOrder
    """``order.shard_groups`` are the groups of ``packing.documents``; ``order.streams`` is 1."""
    packing: GroupPacking
    group_rows: int
    """A group holds the text of about as many rows of single tokens."""

    def block_groups(self, bag_size: int, batch_rows: int) -> int:
        return math.ceil(MICRO_BATCHES_PER_BLOCK * batch_rows * bag_size / self.group_rows)

    def groups_reached(self, stretch: Stretch, rows: int) -> int:
        if rows == 0:
            return 0
        return (self._block_of(stretch, rows - 1)[0] + 1) * stretch.block_groups

    def row(self, stretch: Stretch, stream: int, number: int) -> Row:
        number_of_block, position = self._block_of(stretch, number)
        block = self._cached_block(stretch, number_of_block)
        row = block.order[position]
        group = int(block.group_starts.searchsorted(row, side="right")) - 1
        return block.groups[group].row(int(row - block.group_starts[group]), self.order.corpus)

    def targets(self, stretch: Stretch, rows: int) -> int:
        return self._in_blocks(stretch, rows) + self._in_begun_block(stretch, rows, "row_targets")

    def tokens(self, stretch: Stretch, rows: int) -> int:
        whole = self.groups_reached(stretch, rows) - (stretch.block_groups if rows else 0)
        begun = self._in_begun_block(stretch, rows, "row_tokens")
        return self.group_span_tokens(stretch.first_group, whole) + begun

    def group_span_tokens(self, first_group: int, groups: int) -> int:
        return self._tokens_before(first_group + groups) - self._tokens_before(first_group)

    def group_description(self) -> str:
        return f"documents in groups of {self.packing.documents.group_tokens:,} tokens"

    def fill_ratio(self, bag_size: int) -> float:
        """Share of the rows' token slots that hold text."""
        slots = int(self._cached_sums(bag_size, 0).rows[-1]) * self.packing.row_positions * bag_size
        return self.tokens_per_pass / slots

    def _in_blocks(self, stretch: Stretch, rows: int) -> int:
        """Targets of all blocks before that of the last row, by cumulative sums."""
        if rows == 0:
            return 0
        end = stretch.first_group + self._block_of(stretch, rows - 1)[0] * stretch.block_groups
        first = self._before("targets", stretch.bag_size, stretch.first_group)
        return self._before("targets", stretch.bag_size, end) - first

    def _in_begun_block(self, stretch: Stretch, rows: int, of_rows: str) -> int:
        """Targets or tokens of the rows that are read in the block of the last row, row by row."""
        if rows == 0:
            return 0
        number, position = self._block_of(stretch, rows - 1)
        block = self._cached_block(stretch, number)
        values = np.concatenate([getattr(group, of_rows) for group in block.groups])
        return int(values[block.order[: position + 1]].sum())

    def _block_of(self, stretch: Stretch, number: int) -> tuple[int, int]:
        """The block of a row, and the row's position in it."""
        bag_size, first = stretch.bag_size, stretch.first_group
        in_run = self._before("rows", bag_size, first) + number
        epoch, in_pass = divmod(in_run, int(self._cached_sums(bag_size, 0).rows[-1]))
        in_line = int(self._cached_sums(bag_size, epoch).rows.searchsorted(in_pass, side="right")) - 1
        block = (epoch * self.order.groups_per_stream + in_line - first) // stretch.block_groups
        return block, in_run - self._before("rows", bag_size, first + block * stretch.block_groups)

    def _before(self, count: str, bag_size: int, group: int) -> int:
        """Rows or targets of all groups that are read before the ``group``-th of the run."""
        epoch, position = divmod(group, self.order.groups_per_stream)
        of_a_pass = getattr(self._cached_sums(bag_size, 0), count)[-1]
        return epoch * int(of_a_pass) + int(getattr(self._cached_sums(bag_size, epoch), count)[position])

    def _tokens_before(self, group: int) -> int:
        epoch, position = divmod(group, self.order.groups_per_stream)
        of_a_pass = self._cached_token_sums(0)[-1]
        return epoch * int(of_a_pass) + int(self._cached_token_sums(epoch)[position])

    def _numbers(self, epoch: int) -> np.ndarray:
        """The groups of a pass in reading order, numbered through the shards."""
        shards, groups = self._cached_line(epoch)
        return self.packing.first_groups[shards] + groups

    def _sums(self, bag_size: int, epoch: int) -> _Sums:
        numbers = self._numbers(epoch)
        return _Sums(*(_cumulative(count[numbers]) for count in self.packing.counts(bag_size)))

    def _token_sums(self, epoch: int) -> np.ndarray:
        return _cumulative(self.packing.documents.group_lengths[self._numbers(epoch)])

    def _block(self, stretch: Stretch, block: int) -> _Block:
        groups = []
        first = stretch.first_group + block * stretch.block_groups
        for number in range(first, first + stretch.block_groups):
            epoch, position = divmod(number, self.order.groups_per_stream)
            shard, group = (int(part[position]) for part in self._cached_line(epoch))
            groups.append(self.packing.pack(shard, group, stretch.bag_size))
        starts = _cumulative([group.rows for group in groups])
        random = generator(self.order.seed, self.order.corpus, BLOCK, stretch.segment, 0, block)
        return _Block(groups, starts, spread(int(starts[-1]), stretch.batch_rows, random))

    # Blocks may begin in one pass and end in the next.
    @cached_property
    def _cached_line(self):
        return lru_cache(maxsize=4)(lambda epoch: self.order.whole_pass(epoch, 0))

    @cached_property
    def _cached_sums(self):
        return lru_cache(maxsize=16)(self._sums)

    @cached_property
    def _cached_token_sums(self):
        return lru_cache(maxsize=4)(self._token_sums)

    @cached_property
    def _cached_block(self):
        return lru_cache(maxsize=2)(self._block)


def _cumulative(values) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])


def spread(rows: int, batch_rows: int, random: np.random.Generator) -> np.ndarray:
    """A reading order of ``rows`` rows in which rows that follow one another in the text are far apart.

    The text is laid out in a table, line by line, and read column by column; a column is a batch or a little
    more. Neighbouring columns are not read one after the other, because batches do not begin where columns do,
    and so that a row and the next one do not meet in an optimizer step of two batches either. With 16 columns or
    more, rows of a batch are at least 5 rows apart in the text, and neighbours at least 2 batches in the order.

    Returns:
        A permutation of ``0 .. rows-1``.
    """
    columns = max(1, rows // batch_rows)
    step = round(columns / _GOLDEN_RATIO)
    while math.gcd(step, columns) > 1:
        step += 1
    first = int(random.integers(columns))
    return np.concatenate([np.arange((first + i * step) % columns, rows, columns) for i in range(columns)])
