"""Stretches of a corpus' training text in which pairs of tokens are counted."""

from collections.abc import Iterator

import numpy as np

from tst_lightning.data.reading.documents import Documents
from tst_lightning.data.reading.shards import Shards

WINDOW_TOKENS = 16_384
"""Of one stretch: long against the distances, short enough to hit most documents and shards."""
BLOCK_TOKENS = 1 << 18
"""Pairs given out at a time: what is computed of them stays in the processor's cache, five times as fast."""


class Sample:
    """Tokens, and where the pieces of documents that they make up end.

    Args:
        tokens: ids, 1-D, any integer type: one piece after the other.
        lengths: tokens of each piece: int64. A piece lies in one document and one shard.
    """

    def __init__(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        self.tokens = tokens
        self.lengths = lengths
        ends = np.repeat(lengths.cumsum(), lengths)
        self._tokens_after = (ends - np.arange(1, len(tokens) + 1)).astype(np.uint32)  # in the piece, of each token

    def pairs(self, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """First and second tokens of all pairs ``distance`` apart in the same piece, some at a time: 1-D, as stored."""
        ahead = self.tokens[distance:]
        for first, second, after in in_blocks(self.tokens[: len(ahead)], ahead, self._tokens_after[: len(ahead)]):
            inside = after >= distance
            yield first[inside], second[inside]

    def pair_count(self, distance: int) -> int:
        """How many there are."""
        return int(np.maximum(self.lengths - distance, 0).sum())


def in_blocks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """``BLOCK_TOKENS`` elements at a time of arrays of one length."""
    for begin in range(0, len(arrays[0]), BLOCK_TOKENS):
        yield tuple(array[begin : begin + BLOCK_TOKENS] for array in arrays)


def draw_sample(shards: Shards, documents: Documents, max_tokens: int, seed: int) -> Sample:
    """All of a split if it has at most ``max_tokens``, else stretches of it that lie evenly over its length.

    The split is divided into as many equal parts as stretches fit into ``max_tokens``; in each part there is one
    stretch, anywhere with the same probability. It is cut where a document or a shard ends.

    Args:
        shards: token ids of the split.
        documents: its documents, all of a shard in one group.
        max_tokens: how many to read, at least 1.
        seed: of where the stretches begin.
    """
    shard_ends = np.cumsum(documents.shard_tokens)
    total = int(shard_ends[-1])
    pieces, lengths = [], []
    for begin, end in _windows(total, max_tokens, seed):
        first_shard = int(shard_ends.searchsorted(begin, side="right"))
        last_shard = int(shard_ends.searchsorted(end))
        for shard in range(first_shard, last_shard + 1):
            shard_begin = int(shard_ends[shard]) - documents.shard_tokens[shard]
            first = max(0, begin - shard_begin)
            count = min(end - shard_begin, documents.shard_tokens[shard]) - first
            pieces.append(np.array(shards.tokens(shard, first, count)))
            starts, _ = documents.group(shard, 0)
            inside = starts[starts.searchsorted(first, side="right") : starts.searchsorted(first + count)]
            lengths.append(np.diff(inside, prepend=first, append=first + count))
    return Sample(np.concatenate(pieces), np.concatenate(lengths))


def _windows(total: int, max_tokens: int, seed: int) -> list[tuple[int, int]]:
    """First token, and the one after the last, of each stretch."""
    if total <= max_tokens:
        return [(0, total)]
    length = min(WINDOW_TOKENS, max_tokens)
    number = max_tokens // length
    edges = np.arange(number + 1) * total // number
    begins = np.random.default_rng(seed).integers(edges[:-1], edges[1:] - length, endpoint=True)
    return [(begin, begin + length) for begin in begins.tolist()]
