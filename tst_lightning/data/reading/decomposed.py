"""The data plan of a decomposed corpus: every micro-batch has rows of one length, as many as hold its tokens.

As ``plan`` has it, the rows of a micro-batch are a function of the corpus, the options and its number alone. Here
the schedule says which length an optimizer step reads. The rows of one length are a *bucket*, which is read in a
line of its own, shuffled anew in each pass; a step goes on where the last step of its length stopped. So nothing
is read twice in a pass, whatever the schedule, and another number of devices only makes the steps longer.

Quality of the shuffling: groups of documents are shuffled within windows of ``shuffle_shards`` shards (``order``),
and the rows of ``BLOCK_GROUPS`` groups that follow one another in that order are permuted.
"""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import ClassVar

import numpy as np

from tst_lightning.data.reading.decomposition import Decomposition
from tst_lightning.data.reading.mixture import Mixture
from tst_lightning.data.reading.order import BLOCK, FieldsOnly, GroupOrder, generator
from tst_lightning.data.reading.plan import Segment
from tst_lightning.data.reading.rows import Row, Span
from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule

BLOCK_GROUPS = 16


@dataclass(frozen=True)
class Bucket(FieldsOnly):
    """The chunks of one length, in reading order. Its *groups*, for ``coverage``, are single rows."""

    order: GroupOrder
    """Of the groups of ``decomposition.documents``; one stream."""
    decomposition: Decomposition
    length: int

    @cached_property
    def rows_per_pass(self) -> int:
        return int(self._counts.sum())

    @property
    def tokens_per_pass(self) -> int:
        """Tokens that one pass reads, the first of each row included."""
        return self.rows_per_pass * (self.length + 1)

    def group_span_tokens(self, first_row: int, rows: int) -> int:
        return rows * (self.length + 1)

    def group_description(self) -> str:
        return f"in rows of {self.length} + 1 tokens of one document"

    def rows(self, first: int, count: int) -> list[Row]:
        """Where the tokens of ``count`` rows of the run are, from its row ``first`` on."""
        rows: list[Row] = []
        while len(rows) < count:
            epoch, position = divmod(first + len(rows), self.rows_per_pass)
            starts = self._cached_starts(epoch)
            block = int(starts.searchsorted(position, side="right")) - 1
            part = slice(position - int(starts[block]), position - int(starts[block]) + count - len(rows))
            shards, first_tokens = (numbers[part].tolist() for numbers in self._cached_block(epoch, block))
            tokens, corpus = self.length + 1, self.order.corpus
            rows += [(Span(shard, token, tokens, corpus),) for shard, token in zip(shards, first_tokens, strict=True)]
        return rows

    @cached_property
    def _counts(self) -> np.ndarray:
        """Rows of each group, in the order of the shards."""
        return self.decomposition.counts[:, self.decomposition.lengths.index(self.length)]

    def _starts(self, epoch: int) -> np.ndarray:
        """Rows before each block of a pass, and at last all."""
        shards, groups = self._cached_line(epoch)
        rows = self._counts[self.decomposition.first_groups[shards] + groups]
        sums = np.concatenate([[0], np.cumsum(rows)])
        return np.append(sums[:-1:BLOCK_GROUPS], sums[-1])

    def _block(self, epoch: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Shard and first token of each row of a block, in reading order."""
        part = slice(block * BLOCK_GROUPS, (block + 1) * BLOCK_GROUPS)
        shards, groups = (numbers[part] for numbers in self._cached_line(epoch))
        rows = [self.decomposition.chunks(int(s), int(g), self.length) for s, g in zip(shards, groups, strict=True)]
        random = generator(self.order.seed, self.order.corpus, BLOCK, epoch, self.length, block)
        order = random.permutation(sum(map(len, rows)))
        return np.repeat(shards, [len(row) for row in rows])[order], np.concatenate(rows)[order]

    # A micro-batch may begin in one block or pass and end in the next.
    @cached_property
    def _cached_line(self):
        return lru_cache(maxsize=2)(lambda epoch: self.order.whole_pass(epoch, 0))

    @cached_property
    def _cached_starts(self):
        return lru_cache(maxsize=2)(self._starts)

    @cached_property
    def _cached_block(self):
        return lru_cache(maxsize=2)(self._block)


@dataclass(frozen=True)
class DecomposedPlan(FieldsOnly):
    """See the module's description; a ``plan.Plan`` for whoever asks it about a run.

    Raises:
        UserError: a stage of the schedule is none of rows of one of the buckets.
    """

    buckets: tuple[Bucket, ...]
    schedule: Schedule
    sequence_length: int
    """The greatest length of a row; of the buckets a multiple."""
    accumulate: int = 1
    world_size: int = 1
    batch_size: int = 1
    """Rows of ``sequence_length`` per rank and micro-batch now; shorter ones are as many times more."""
    history: tuple[tuple[int, int], ...] = ()
    """As in ``plan.Plan``: ``(first optimizer step, rows of all ranks in a micro-batch)``."""
    mixture: ClassVar[Mixture] = Mixture()
    streams: ClassVar[int] = 1

    def __post_init__(self) -> None:
        lengths = {bucket.length for bucket in self.buckets}
        for stage in self.schedule.stages:
            if stage.sequence_length not in lengths or (stage.bag_size, stage.target_bag_size) != (1, 1):
                raise UserError(
                    "the text is cut into rows of different lengths (LengthCurriculum), and another callback has "
                    f"set a schedule that does not know of them (bag size {stage.target_bag_size}, rows of "
                    f"{stage.sequence_length or self.sequence_length}): use LengthCurriculum without "
                    "SuperpositionCallback"
                )

    @property
    def corpora(self) -> tuple[Bucket, ...]:
        """What runs out of text, each by itself."""
        return self.buckets

    @property
    def global_batch(self) -> int:
        """Rows of all ranks in a micro-batch now, if they have ``sequence_length`` positions."""
        return self.world_size * self.batch_size

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """``history``, or the one part."""
        return self.history or ((0, self.global_batch),)

    def batch(self, micro: int, rank: int) -> list[Row]:
        """The rows that ``rank`` reads in micro-batch ``micro``, all of one length."""
        segment = self.segment(micro)
        step, part = divmod(micro, self.accumulate)
        length = self.schedule.stage(step).sequence_length
        bucket = next(bucket for bucket in self.buckets if bucket.length == length)
        of_rank = segment.global_batch // self.world_size
        first = self.rows_of(length, step) + part * segment.global_batch + rank * of_rank
        return bucket.rows(first, of_rank)

    def segment(self, micro: int) -> Segment:
        """The stage of a micro-batch, in the words of ``plan.Plan``."""
        step = micro // self.accumulate
        number = bisect_right(self._first_steps, step) - 1
        stage = self.schedule.stages[number]
        rows = next(rows for first, rows in reversed(self.parts) if first <= step)
        rows *= self.sequence_length // stage.sequence_length
        return Segment(number, 1, stage.first_step * self.accumulate, rows, ())

    def rows_of(self, length: int, steps: int) -> int:
        """Rows of one length that all ranks read in ``steps`` optimizer steps."""
        starts = [*(first for first, _ in self.parts), max(steps, self.parts[-1][0])]
        micros = (
            rows * (self.steps_of(length, min(end, steps)) - self.steps_of(length, min(start, steps)))
            for (_, rows), (start, end) in zip(self.parts, pairwise(starts), strict=True)
        )
        return sum(micros) * self.accumulate * (self.sequence_length // length)

    def steps_of(self, length: int, steps: int) -> int:
        """How many of the first ``steps`` optimizer steps read rows of one length."""
        if steps == 0:
            return 0
        number = bisect_right(self._first_steps, steps - 1) - 1
        stage = self.schedule.stages[number]
        here = steps - stage.first_step if stage.sequence_length == length else 0
        return int(self._steps_before[length][number]) + here

    def positions_by_length(self, steps: int) -> dict[int, int]:
        """Positions of all ranks in ``steps`` optimizer steps, by the length of their rows."""
        return {bucket.length: self.rows_of(bucket.length, steps) * bucket.length for bucket in self.buckets}

    def rows_read(self, steps: int) -> int:
        """Rows of all ranks in ``steps`` optimizer steps, in rows of ``sequence_length``."""
        return sum(self.positions_by_length(steps).values()) // self.sequence_length

    def data_tokens(self, steps: int) -> int:
        """Tokens that are targets in ``steps`` optimizer steps: one at each position."""
        return sum(self.positions_by_length(steps).values())

    def groups_needed(self, steps: int) -> tuple[int, ...]:
        """Rows of each bucket that ``steps`` optimizer steps read."""
        return tuple(self.rows_of(bucket.length, steps) for bucket in self.buckets)

    def passes_needed(self, steps: int) -> tuple[float, ...]:
        """Passes over each bucket that ``steps`` optimizer steps take."""
        return tuple(
            rows / bucket.rows_per_pass for rows, bucket in zip(self.groups_needed(steps), self.buckets, strict=True)
        )

    def most_steps(self, passes: int, below: int) -> int:
        """The most optimizer steps, fewer than ``below``, that take at most ``passes`` passes over each bucket."""
        return bisect_right(range(below), passes, key=lambda steps: max(self.passes_needed(steps))) - 1

    @cached_property
    def _first_steps(self) -> list[int]:
        return [stage.first_step for stage in self.schedule.stages]

    @cached_property
    def _steps_before(self) -> dict[int, np.ndarray]:
        """By length, how many steps read it before each stage."""
        stages = self.schedule.stages
        sizes = np.diff(self._first_steps)
        lengths = np.array([stage.sequence_length for stage in stages[:-1]])
        return {b.length: np.concatenate([[0], np.cumsum(sizes * (lengths == b.length))]) for b in self.buckets}
