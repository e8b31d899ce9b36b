"""Rows of contiguous text: documents one after the other, cut wherever a row is full."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from tst_lightning.data.reading.order import BLOCK, FieldsOnly, GroupOrder, generator
from tst_lightning.data.reading.rows import CorpusRows, Row, Span, Stretch
from tst_lightning.errors import UserError

MICRO_BATCHES_PER_BLOCK = 16
"""Over how many micro-batches the rows of a group are spread, where a group holds several."""


@dataclass(frozen=True)
class ConcatRows(FieldsOnly, CorpusRows):
    """Groups of ``group_rows * row_tokens`` contiguous tokens; a row of bag size ``b`` is ``b * row_tokens`` of them.

    So a group holds ``group_rows // b`` rows, which are neighbours in the text.
    """

    order: GroupOrder
    row_tokens: int
    """Tokens of a row of single tokens: sequence length + 1."""
    group_rows: int = 1
    """Every bag size of the schedule divides it."""

    @property
    def group_tokens(self) -> int:
        return self.group_rows * self.row_tokens

    def require_bag_sizes(self, bag_sizes: list[int]) -> None:
        odd = [bag_size for bag_size in bag_sizes if self.group_rows % bag_size]
        if odd:
            raise UserError(
                f"rows_per_group={self.group_rows} is not divisible by the bag size {odd[0]} of the schedule: "
                f"set it to a multiple, such as {math.lcm(*bag_sizes)}"
            )

    def block_groups(self, bag_size: int, batch_rows: int) -> int:
        parts = self.group_rows // bag_size
        return 1 if parts == 1 else MICRO_BATCHES_PER_BLOCK * math.ceil(batch_rows / parts)

    def groups_reached(self, stretch: Stretch, rows: int) -> int:
        parts = self.group_rows // stretch.bag_size
        return math.ceil(rows / (stretch.block_groups * parts)) * stretch.block_groups

    def row(self, stretch: Stretch, stream: int, number: int) -> Row:
        parts = self.group_rows // stretch.bag_size
        if parts == 1:
            group, part = number, 0
        else:
            block, position = divmod(number, stretch.block_groups * parts)
            group, part = divmod(int(self._cached_block(stretch, stream, block)[position]), parts)
            group += block * stretch.block_groups
        shard, group_in_shard = self.order.group(stream, stretch.first_group + group)
        tokens = stretch.bag_size * self.row_tokens
        return (Span(shard, group_in_shard * self.group_tokens + part * tokens, tokens, self.order.corpus),)

    def targets(self, stretch: Stretch, rows: int) -> int:
        return rows * stretch.bag_size * (self.row_tokens - 1)

    def tokens(self, stretch: Stretch, rows: int) -> int:
        return rows * stretch.bag_size * self.row_tokens

    def group_span_tokens(self, first_group: int, groups: int) -> int:
        return groups * self.group_tokens

    def group_description(self) -> str:
        return f"whole groups of {self.group_tokens:,} tokens"

    def _block(self, stretch: Stretch, stream: int, block: int) -> np.ndarray:
        """Numbers ``group * parts + part`` of the rows of a block, in reading order.

        Round after round takes one row of every group, so that the rows of a group, which are neighbours in
        the text, do not meet in a batch.
        """
        groups, parts = stretch.block_groups, self.group_rows // stretch.bag_size
        random = generator(self.order.seed, self.order.corpus, BLOCK, stretch.segment, stream, block)
        group_order = random.permuted(np.tile(np.arange(groups), (parts, 1)), axis=1)
        part_order = random.permuted(np.tile(np.arange(parts)[:, None], (1, groups)), axis=0)
        return (group_order * parts + np.take_along_axis(part_order, group_order, axis=1)).ravel()

    # Each stream of a rank is in one block at a time; during a step across, in two.
    @cached_property
    def _cached_block(self):
        return lru_cache(maxsize=2 * self.order.streams + 2)(self._block)
