"""The data plan: which tokens a rank reads in a micro-batch, as a pure function of its number.

The unit is a *group*: ``group_rows`` rows of ``row_tokens`` tokens, contiguous inside one shard. In a stage
with bag size ``b`` a sample is ``b`` contiguous rows, so a group holds ``group_rows // b`` samples. A stage
takes only groups that no earlier stage has touched, so a switch of bag size replays nothing. Nothing is
remembered between calls, so prefetching workers may run ahead of the switch and a resumed run starts
anywhere.

Left unread, each of them less than a group or a block:

- the tail of each shard that is no whole group,
- ``total groups % streams`` groups in each pass,
- at the end of a stage, the rest of its last mixing block.
"""

import math
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule

MICRO_BATCHES_PER_BLOCK = 16
"""Over how many micro-batches the samples of a group are spread, where a group holds several."""

_SHARD_ORDER, _WINDOW, _BLOCK = range(3)
"""Purposes of a permutation, so that no two purposes draw the same random numbers."""


class Span(NamedTuple):
    """Contiguous tokens of one shard: ``[first_token, first_token + tokens)``."""

    shard: int
    first_token: int
    tokens: int


class _Segment(NamedTuple):
    """Stages of one bag size in a row, in the plan's units; groups are counted per stream."""

    index: int
    bag_size: int
    first_micro: int
    first_group: int
    samples_per_group: int
    block_groups: int


class _Pass(NamedTuple):
    """The shards of one pass in reading order, laid out as one line of groups that begin at ``starts``."""

    order: np.ndarray
    starts: np.ndarray


class _Window(NamedTuple):
    """Groups of one shuffle window in reading order; it covers ``[start, end)`` of the line of its pass."""

    start: int
    end: int
    shards: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class Plan:
    """See the module's description. Picklable; its caches stay behind, every process fills its own.

    The global batch (the samples of all ranks, in order) depends on ``world_size * batch_size`` only, so a
    run may go on with another number of ranks.

    Raises:
        UserError: the numbers do not divide as the plan needs.
    """

    shard_groups: tuple[int, ...]
    """Whole groups in each shard."""
    row_tokens: int
    """Tokens of a row: sequence length + 1."""
    schedule: Schedule = Schedule()  # noqa: RUF009 - immutable
    group_rows: int = 1
    """Rows of a group; every bag size of the schedule divides it."""
    accumulate: int = 1
    """Micro-batches of an optimizer step."""
    world_size: int = 1
    """Data-parallel ranks."""
    batch_size: int = 1
    """Samples per rank and micro-batch."""
    streams: int = 1
    """Independent reading positions. With a multiple of the ranks, each rank reads shards of its own."""
    shuffle_shards: int = 8
    """Groups are shuffled among this many consecutive shards, which bounds the shards in use at a time."""
    seed: int = 0

    def __post_init__(self) -> None:
        _require_valid(self)

    def __getstate__(self) -> dict:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def global_batch(self) -> int:
        """Samples of all ranks in a micro-batch."""
        return self.world_size * self.batch_size

    @property
    def group_tokens(self) -> int:
        return self.group_rows * self.row_tokens

    @cached_property
    def groups_per_stream(self) -> int:
        """Groups of a stream in one pass."""
        return sum(self.shard_groups) // self.streams

    @property
    def tokens_per_pass(self) -> int:
        """Tokens that one pass reads: the whole groups that every stream has."""
        return self.groups_per_stream * self.streams * self.group_tokens

    def batch(self, micro: int, rank: int) -> list[Span]:
        """The samples that ``rank`` reads in micro-batch ``micro``.

        Args:
            micro: counted from the start of the run: ``optimizer step * accumulate + i``.
            rank: data-parallel rank, below ``world_size``.

        Returns:
            ``batch_size`` spans, each of ``bag size * row_tokens`` tokens.

        Raises:
            UserError: the shards do not hold one group per stream.
        """
        self._require_groups()
        segment = next(s for s in reversed(self._segments) if s.first_micro <= micro)
        per_stream = self.global_batch // self.streams
        first_number = (micro - segment.first_micro) * per_stream
        spans = []
        for sample in range(rank * self.batch_size, (rank + 1) * self.batch_size):
            stream, position = divmod(sample, per_stream)
            spans.append(self._sample(segment, stream, first_number + position))
        return spans

    def groups_needed(self, steps: int) -> int:
        """Groups that ``steps`` optimizer steps reach into, all streams together.

        Counts what is left unread at the end of each stage: what must be there, not what is read.
        """
        micros = steps * self.accumulate
        begun = [segment for segment in self._segments if segment.first_micro < micros]
        if not begun:
            return 0
        return self.streams * (begun[-1].first_group + self._consumed(begun[-1], micros))

    def tokens_needed(self, steps: int) -> int:
        """``groups_needed`` in tokens."""
        return self.groups_needed(steps) * self.group_tokens

    def epochs_needed(self, steps: int) -> int:
        """Passes over the shards that hold ``steps`` optimizer steps.

        Raises:
            UserError: the shards do not hold one group per stream.
        """
        self._require_groups()
        return math.ceil(self.groups_needed(steps) / (self.groups_per_stream * self.streams))

    def _require_groups(self) -> None:
        if self.groups_per_stream == 0:
            raise UserError(
                f"the shards hold {sum(self.shard_groups)} groups of {self.group_tokens} tokens "
                f"({self.group_rows} rows of {self.row_tokens}), and {self.streams} stream(s) need one each: "
                "prepare more text, or lower sequence_length, rows_per_group or the bag size"
            )

    @cached_property
    def _segments(self) -> tuple[_Segment, ...]:
        per_stream = self.global_batch // self.streams
        segments: list[_Segment] = []
        for stage in self.schedule.stages:
            if segments and stage.bag_size == segments[-1].bag_size:
                continue  # the same reading goes on, whatever else the stage changes
            first_micro = stage.first_step * self.accumulate
            previous = segments[-1] if segments else None
            first_group = previous.first_group + self._consumed(previous, first_micro) if previous else 0
            samples_per_group = self.group_rows // stage.bag_size
            block_groups = 1
            if samples_per_group > 1:
                block_groups = MICRO_BATCHES_PER_BLOCK * math.ceil(per_stream / samples_per_group)
            segments.append(
                _Segment(len(segments), stage.bag_size, first_micro, first_group, samples_per_group, block_groups)
            )
        return tuple(segments)

    def _consumed(self, segment: _Segment, end_micro: int) -> int:
        """Groups per stream that ``segment`` reaches into before ``end_micro``, in whole blocks."""
        samples = (end_micro - segment.first_micro) * (self.global_batch // self.streams)
        blocks = math.ceil(samples / (segment.block_groups * segment.samples_per_group))
        return blocks * segment.block_groups

    def _sample(self, segment: _Segment, stream: int, number: int) -> Span:
        """The ``number``-th sample of a stream since the start of ``segment``."""
        if segment.samples_per_group == 1:
            group, part = number, 0
        else:
            block, position = divmod(number, segment.block_groups * segment.samples_per_group)
            mixed = int(self._cached_block(segment, stream, block)[position])
            group, part = divmod(mixed, segment.samples_per_group)
            group += block * segment.block_groups
        shard, group_in_shard = self._group(stream, segment.first_group + group)
        tokens = segment.bag_size * self.row_tokens
        return Span(shard, group_in_shard * self.group_tokens + part * tokens, tokens)

    def _group(self, stream: int, number: int) -> tuple[int, int]:
        """Shard, and number within it, of the ``number``-th group that ``stream`` reads in the run."""
        epoch, position = divmod(number, self.groups_per_stream)
        line_position = stream * self.groups_per_stream + position
        starts = self._cached_pass(epoch).starts
        shard_position = int(starts.searchsorted(line_position, side="right")) - 1
        window = self._cached_window(epoch, stream, shard_position // self.shuffle_shards)
        offset = line_position - window.start
        return int(window.shards[offset]), int(window.groups[offset])

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])

    def _pass(self, epoch: int) -> _Pass:
        order = self._generator(_SHARD_ORDER, epoch).permutation(len(self.shard_groups))
        starts = np.concatenate([[0], np.cumsum(np.asarray(self.shard_groups)[order])])
        return _Pass(order, starts)

    def _window(self, epoch: int, stream: int, index: int) -> _Window:
        order, starts = self._cached_pass(epoch)
        first = index * self.shuffle_shards
        last = min(first + self.shuffle_shards, len(order))
        # A window that a stream boundary cuts is shuffled on either side of it, never across.
        start = max(int(starts[first]), stream * self.groups_per_stream)
        end = min(int(starts[last]), (stream + 1) * self.groups_per_stream)
        line = start + self._generator(_WINDOW, epoch, stream, index).permutation(end - start)
        shard_positions = starts.searchsorted(line, side="right") - 1
        return _Window(start, end, order[shard_positions], line - starts[shard_positions])

    def _block(self, segment: _Segment, stream: int, block: int) -> np.ndarray:
        """Numbers ``group * samples_per_group + part`` of the samples of a block, in reading order.

        Round after round takes one sample of every group, so that the samples of a group, which are
        neighbours in the text, do not meet in a batch.
        """
        groups, parts = segment.block_groups, segment.samples_per_group
        generator = self._generator(_BLOCK, segment.index, stream, block)
        group_order = generator.permuted(np.tile(np.arange(groups), (parts, 1)), axis=1)
        part_order = generator.permuted(np.tile(np.arange(parts)[:, None], (1, groups)), axis=0)
        return (group_order * parts + np.take_along_axis(part_order, group_order, axis=1)).ravel()

    # Each stream of a rank is in one window and one block at a time; during a step across, in two.
    @cached_property
    def _cached_pass(self):
        return lru_cache(maxsize=2)(self._pass)

    @cached_property
    def _cached_window(self):
        return lru_cache(maxsize=2 * self.streams + 2)(self._window)

    @cached_property
    def _cached_block(self):
        return lru_cache(maxsize=2 * self.streams + 2)(self._block)


def _require_valid(plan: Plan) -> None:
    counts = ["row_tokens", "group_rows", "accumulate", "world_size", "batch_size", "streams", "shuffle_shards"]
    for name in counts:
        if getattr(plan, name) < 1:
            raise UserError(f"{name} is at least 1, got {getattr(plan, name)}")
    if plan.seed < 0:
        raise UserError(f"the seed of the data order is 0 or more, got {plan.seed}")
    odd = [stage.bag_size for stage in plan.schedule.stages if plan.group_rows % stage.bag_size]
    if odd:
        raise UserError(
            f"rows_per_group={plan.group_rows} is not divisible by the bag size {odd[0]} of the schedule: "
            f"set it to a multiple, such as {math.lcm(*(s.bag_size for s in plan.schedule.stages))}"
        )
    if plan.streams > 1 and plan.streams % plan.world_size:
        raise UserError(
            f"streams={plan.streams} is not divisible by the {plan.world_size} ranks: "
            f"set streams to 1 or to a multiple of {plan.world_size}"
        )
    if plan.global_batch % plan.streams:
        raise UserError(
            f"the global batch of {plan.global_batch} rows ({plan.world_size} ranks x {plan.batch_size}) is "
            f"not divisible by streams={plan.streams}: set streams to a divisor of it, such as 1"
        )
