"""In which order the groups of one corpus are read, pass after pass."""

from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

_PURPOSES = SHARD_ORDER, WINDOW, BLOCK, MIXTURE = range(4)
"""What random numbers are for, so that no two purposes draw the same ones."""


def generator(seed: int, corpus: int, purpose: int, *key: int) -> np.random.Generator:
    """Random numbers that are a function of the arguments; ``purpose`` is one of the constants above."""
    return np.random.default_rng([seed, len(_PURPOSES) * corpus + purpose, *key])


class FieldsOnly:
    """A frozen dataclass that is pickled without its caches; every process fills its own."""

    def __getstate__(self) -> dict:
        return {field.name: getattr(self, field.name) for field in fields(self)}


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
class GroupOrder(FieldsOnly):
    """The groups of a corpus, dealt out to streams and shuffled anew in every pass.

    In a pass the shards stand in a random order and their groups form one line, of which every stream has an
    equal contiguous part. Groups are shuffled within windows of ``shuffle_shards`` shards.
    """

    shard_groups: tuple[int, ...]
    """Groups in each shard."""
    streams: int = 1
    """Independent reading positions. With a multiple of the ranks, each rank reads shards of its own."""
    shuffle_shards: int = 8
    """Groups are shuffled among this many consecutive shards, which bounds the shards in use at a time."""
    seed: int = 0
    corpus: int = 0
    """Number of the corpus in a mixture; each is shuffled in a way of its own."""

    @cached_property
    def groups_per_stream(self) -> int:
        """Groups of a stream in one pass; ``total groups % streams`` are left out of the pass."""
        return sum(self.shard_groups) // self.streams

    def group(self, stream: int, number: int) -> tuple[int, int]:
        """Shard, and number within it, of the ``number``-th group that ``stream`` reads in the run."""
        epoch, position = divmod(number, self.groups_per_stream)
        line_position = stream * self.groups_per_stream + position
        starts = self._cached_pass(epoch).starts
        shard_position = int(starts.searchsorted(line_position, side="right")) - 1
        window = self._cached_window(epoch, stream, shard_position // self.shuffle_shards)
        offset = line_position - window.start
        return int(window.shards[offset]), int(window.groups[offset])

    def whole_pass(self, epoch: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
        """Shards, and numbers within them, of all groups that ``stream`` reads in a pass, in reading order."""
        windows = [
            self._window(epoch, stream, index) for index in range(-(-len(self.shard_groups) // self.shuffle_shards))
        ]
        return tuple(np.concatenate([getattr(window, part) for window in windows]) for part in ("shards", "groups"))

    def _pass(self, epoch: int) -> _Pass:
        order = generator(self.seed, self.corpus, SHARD_ORDER, epoch).permutation(len(self.shard_groups))
        starts = np.concatenate([[0], np.cumsum(np.asarray(self.shard_groups)[order])])
        return _Pass(order, starts)

    def _window(self, epoch: int, stream: int, index: int) -> _Window:
        order, starts = self._cached_pass(epoch)
        first = index * self.shuffle_shards
        last = min(first + self.shuffle_shards, len(order))
        # A window that a stream boundary cuts is shuffled on either side of it, never across.
        start = max(int(starts[first]), stream * self.groups_per_stream)
        end = max(start, min(int(starts[last]), (stream + 1) * self.groups_per_stream))
        random = generator(self.seed, self.corpus, WINDOW, epoch, stream, index)
        line = start + random.permutation(end - start)
        shard_positions = starts.searchsorted(line, side="right") - 1
        return _Window(start, end, order[shard_positions], line - starts[shard_positions])

    # Each stream of a rank is in one window at a time; during a step across, in two.
    @cached_property
    def _cached_pass(self):
        return lru_cache(maxsize=2)(self._pass)

    @cached_property
    def _cached_window(self):
        return lru_cache(maxsize=2 * self.streams + 2)(self._window)
