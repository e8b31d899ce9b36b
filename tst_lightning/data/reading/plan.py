"""The data plan: which tokens a rank reads in a micro-batch, as a pure function of its number.

What is determined by what:

- Nothing is remembered between calls. The rows of a micro-batch are a function of the prepared corpora, the
  options of the plan and the micro-batch's number. So prefetching workers may run ahead of a switch of bag
  size, a resumed run starts anywhere at the same cost, and ranks agree without talking.
- A run is cut into *segments*, in which bag size and number of devices stay the same. In a segment the rows of
  all ranks, in order (the global batch), depend on ``world_size * batch_size`` only.
- Which corpus of a mixture a row is from is decided first (``mixture``). Each corpus then has a line of groups
  of its own (``order``), shuffled anew in each of its own passes.
- The *group* is the unit that segments share: contiguous text of one shard. A segment takes only groups that no
  earlier segment has touched, so that a switch replays nothing. ``concat`` and ``packed`` say what the rows of
  a group are.

Left unread, and reported (``coverage``):

- without packing, the tail of each shard that is no whole group;
- ``groups of a corpus % streams`` groups in each of its passes;
- at the end of a segment, the rest of the last block of groups whose rows were mixed. Without packing and at
  a bag size that makes a group one row, there is no rest.

Quality of the shuffling: the shards of a corpus stand in a random order and groups are shuffled within windows
of ``shuffle_shards`` consecutive shards, so text of one shard is spread over as much text as a window holds,
no further. Rows of one group are spread over the rows of a block, 16 micro-batches.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tst_lightning.data.reading.mixture import Mixture
from tst_lightning.data.reading.order import FieldsOnly
from tst_lightning.data.reading.rows import CorpusRows, Row, Stretch
from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule


class Segment(NamedTuple):
    """Part of a run with one bag size and one number of devices, in the plan's units."""

    index: int
    bag_size: int
    first_micro: int
    global_batch: int
    """Rows of all ranks in a micro-batch of this segment."""
    stretches: tuple[Stretch, ...]
    """How each corpus is read."""


@dataclass(frozen=True)
class Plan(FieldsOnly):
    """See the module's description. Picklable; its caches stay behind, every process fills its own.

    Raises:
        UserError: the numbers do not divide as the plan needs.
    """

    corpora: tuple[CorpusRows, ...]
    """All with the same streams."""
    schedule: Schedule = Schedule()  # noqa: RUF009 - immutable
    mixture: Mixture = Mixture()  # noqa: RUF009 - immutable
    """Which corpus a row is from."""
    accumulate: int = 1
    """Micro-batches of an optimizer step."""
    world_size: int = 1
    """Data-parallel ranks now."""
    batch_size: int = 1
    """Rows per rank and micro-batch now."""
    history: tuple[tuple[int, int], ...] = ()
    """``(first optimizer step, rows of all ranks in a micro-batch)`` of every part of the run, in order; the last
    is the present one. By default the run has one part."""

    def __post_init__(self) -> None:
        _require_valid(self)

    @property
    def streams(self) -> int:
        return self.corpora[0].order.streams

    @property
    def global_batch(self) -> int:
        """Rows of all ranks in a micro-batch now, of a stage with ``row_divisor`` 1."""
        return self.world_size * self.batch_size

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """``history``, or the one part."""
        return self.history or ((0, self.global_batch),)

    def batch(self, micro: int, rank: int) -> list[Row]:
        """The rows that ``rank`` reads in micro-batch ``micro``.

        Args:
            micro: counted from the start of the run: ``optimizer step * accumulate + i``.
            rank: data-parallel rank, below ``world_size``.

        Returns:
            ``batch_size`` rows of the segment's bag size.

        Raises:
            UserError: a corpus does not hold one group per stream.
        """
        self._require_groups()
        segment = self.segment(micro)
        per_stream = segment.global_batch // self.streams
        first_number = (micro - segment.first_micro) * per_stream
        of_rank = segment.global_batch // self.world_size
        rows = []
        for sample in range(rank * of_rank, (rank + 1) * of_rank):
            stream, position = divmod(sample, per_stream)
            corpus, number = self.mixture.locate(segment.index, stream, first_number + position)
            rows.append(self.corpora[corpus].row(segment.stretches[corpus], stream, number))
        return rows

    def segment(self, micro: int) -> Segment:
        """The segment that a micro-batch belongs to."""
        return self._segments[bisect_right(self._first_micros, micro) - 1]

    def segments_by(self, steps: int) -> list[tuple[Segment, int]]:
        """The segments of the first ``steps`` optimizer steps, each with its number of micro-batches in them."""
        self._require_groups()
        end = steps * self.accumulate
        next_starts = [*self._first_micros[1:], end]
        return [
            (segment, min(end, next_start) - segment.first_micro)
            for segment, next_start in zip(self._segments, next_starts, strict=True)
            if segment.first_micro < end
        ]

    def rows_of_streams(self, segment: Segment, micros: int) -> list[list[int]]:
        """Rows of each corpus that each stream reads in the first ``micros`` micro-batches of a segment."""
        rows = micros * (segment.global_batch // self.streams)
        counts = [self.mixture.counts(segment.index, stream, rows) for stream in range(self.streams)]
        return [list(of_corpus) for of_corpus in zip(*counts, strict=True)]

    def rows_read(self, steps: int) -> int:
        """Rows of all ranks in ``steps`` optimizer steps."""
        return sum(micros * segment.global_batch for segment, micros in self.segments_by(steps))

    def data_tokens(self, steps: int) -> int:
        """Tokens that ``steps`` optimizer steps of all ranks have as targets (with ``s = 1``: would have)."""
        return sum(
            corpus.targets(stretch, rows)
            for segment, micros in self.segments_by(steps)
            for corpus, stretch, of_streams in zip(
                self.corpora, segment.stretches, self.rows_of_streams(segment, micros), strict=True
            )
            for rows in of_streams
        )

    def groups_needed(self, steps: int) -> tuple[int, ...]:
        """Groups of each corpus that ``steps`` optimizer steps reach into, all streams together.

        Counts what is left unread at the end of each segment: what must be there, not what is read.
        """
        segments = self.segments_by(steps)
        if not segments:
            return (0,) * len(self.corpora)
        return tuple(self.streams * group for group in self._first_unread(*segments[-1]))

    def passes_needed(self, steps: int) -> tuple[float, ...]:
        """Passes over each corpus that ``steps`` optimizer steps take.

        Raises:
            UserError: a corpus does not hold one group per stream.
        """
        per_pass = (corpus.order.groups_per_stream * self.streams for corpus in self.corpora)
        return tuple(groups / of_pass for groups, of_pass in zip(self.groups_needed(steps), per_pass, strict=True))

    def most_steps(self, passes: int, below: int) -> int:
        """The most optimizer steps, fewer than ``below``, that take at most ``passes`` passes over each corpus."""
        return bisect_right(range(below), passes, key=lambda steps: max(self.passes_needed(steps))) - 1

    def _require_groups(self) -> None:
        for number, corpus in enumerate(self.corpora):
            if corpus.order.groups_per_stream == 0:
                which = f"corpus {number + 1} holds" if len(self.corpora) > 1 else "the shards hold"
                raise UserError(
                    f"{which} {sum(corpus.order.shard_groups)} groups ({corpus.group_description()}), and "
                    f"{self.streams} stream(s) need one each: prepare more text, or lower sequence_length, "
                    "rows_per_group or the bag size"
                )

    @cached_property
    def _first_micros(self) -> list[int]:
        return [segment.first_micro for segment in self._segments]

    @cached_property
    def _segments(self) -> tuple[Segment, ...]:
        segments: list[Segment] = []
        first_steps = {stage.first_step for stage in self.schedule.stages} | {step for step, _ in self.parts}
        for step in sorted(first_steps):
            stage = self.schedule.stage(step)
            bag_size = stage.bag_size
            global_batch = next(rows for first, rows in reversed(self.parts) if first <= step) // stage.row_divisor
            previous = segments[-1] if segments else None
            if previous and (bag_size, global_batch) == (previous.bag_size, previous.global_batch):
                continue  # the same reading goes on, whatever else the stage changes
            first_micro = step * self.accumulate
            first_groups = [0] * len(self.corpora)
            if previous:
                first_groups = self._first_unread(previous, first_micro - previous.first_micro)
            stretches = []
            for corpus, first_group, share in zip(self.corpora, first_groups, self.mixture.shares, strict=True):
                batch_rows = math.ceil(global_batch // self.streams * share)
                blocks = corpus.block_groups(bag_size, batch_rows)
                stretches.append(Stretch(len(segments), bag_size, first_group, blocks, batch_rows))
            segments.append(Segment(len(segments), bag_size, first_micro, global_batch, tuple(stretches)))
        return tuple(segments)

    def _first_unread(self, segment: Segment, micros: int) -> list[int]:
        """The first group of each corpus that no stream has touched after ``micros`` micro-batches of ``segment``."""
        return [
            stretch.first_group + corpus.groups_reached(stretch, max(rows))
            for corpus, stretch, rows in zip(
                self.corpora, segment.stretches, self.rows_of_streams(segment, micros), strict=True
            )
        ]


def _require_valid(plan: Plan) -> None:
    for name in ("accumulate", "world_size", "batch_size"):
        if getattr(plan, name) < 1:
            raise UserError(f"{name} is at least 1, got {getattr(plan, name)}")
    for corpus in plan.corpora:
        corpus.require_bag_sizes([stage.bag_size for stage in plan.schedule.stages])
    if plan.streams % plan.world_size and plan.world_size % plan.streams:
        raise UserError(
            f"streams={plan.streams} is neither a multiple nor a divisor of the {plan.world_size} ranks: "
            f"set streams to 1 or to a multiple of {plan.world_size}"
        )
    for divisor in {stage.row_divisor for stage in plan.schedule.stages}:
        if plan.batch_size % divisor:
            raise UserError(
                f"batch_size={plan.batch_size} rows are to be {divisor} times fewer in bags of {divisor} tokens "
                f"(tokens_per_step=constant): set batch_size to a multiple of {divisor}"
            )
        if plan.global_batch // divisor % plan.streams:
            fewer = f", in bags of {divisor} tokens {divisor} times fewer," if divisor > 1 else ""
            raise UserError(
                f"the global batch of {plan.global_batch} rows ({plan.world_size} ranks x {plan.batch_size}){fewer} is "
                f"not divisible by streams={plan.streams}: set streams to a divisor of it, such as 1"
            )
