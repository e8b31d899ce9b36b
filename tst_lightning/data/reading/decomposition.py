"""Documents cut into chunks whose lengths are powers of two: dataset decomposition.

Pouransari et al., *Dataset Decomposition: Faster LLM Training with Variable Sequence Length Curriculum*, arXiv
2405.13226. A chunk lies in one document and is a training row by itself, so that nothing is masked, padded or
ignored. As in the authors' program (apple/ml-dataset-decomposition, ``make_dd_buckets.py``), a chunk of length
``L`` is ``L + 1`` tokens: each of its ``L`` positions has a target in the same document, and no token is in two
chunks. A document therefore gives the longest chunk that it holds, then the longest of its rest, and so on; a
rest of ``min_length`` tokens or less is left out.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from tst_lightning.data.reading.documents import Documents
from tst_lightning.data.reading.order import MIXTURE, generator

LongDocuments = Literal["random", "longest"]
"""How documents that hold two chunks of the greatest length or more are cut, as long as they do."""

# A decomposed corpus is never mixed, so the numbers that a mixture would draw are free.
CURRICULUM, CUTS = range(2)


class Chunks(NamedTuple):
    """All int64 and 1-D, in the order of the text."""

    document: np.ndarray
    """Number of each chunk's document."""
    first: np.ndarray
    """Where it begins in its document, in tokens."""
    length: np.ndarray
    """Positions: one less than its tokens."""


def decompose(
    document_tokens: np.ndarray, lengths: tuple[int, ...], random: np.random.Generator | None = None
) -> Chunks:
    """Cut documents into chunks of ``lengths`` positions.

    Args:
        document_tokens: of each document; 1-D integers.
        lengths: powers of two, ascending, none left out between the first and the last.
        random: from documents with room for two of the longest, and what is left of them, chunks of a random length
            are cut first: short ones more often, so that each length has as many tokens of them. By default the
            longest.
    """
    rest = np.array(document_tokens, dtype=np.int64)
    found = []  # (document, first token, length), each an array
    position = np.zeros_like(rest)
    if random is not None:
        for document in np.flatnonzero(rest > 2 * lengths[-1]):
            cut = _random_lengths(int(rest[document]), lengths, random)
            ends = np.cumsum(cut + 1)
            found.append((np.full(len(cut), document), ends - cut - 1, cut))
            position[document] = ends[-1]
            rest[document] -= ends[-1]
    for length in reversed(lengths):
        count = rest // (length + 1)
        document = np.repeat(np.arange(len(rest)), count)
        number = np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)
        found.append((document, position[document] + number * (length + 1), np.full(len(document), length)))
        position += count * (length + 1)
        rest -= count * (length + 1)
    document, first, length = (np.concatenate(parts).astype(np.int64) for parts in zip(*found, strict=True))
    order = np.lexsort((first, document))
    return Chunks(document[order], first[order], length[order])


def _random_lengths(tokens: int, lengths: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Lengths of chunks off the front of a document, as long as it holds two of the longest."""
    odds = 1 / np.array(lengths)
    drawn = random.choice(lengths, tokens // (lengths[0] + 1) + 1, p=odds / odds.sum())
    before = np.cumsum(drawn + 1) - drawn - 1
    return drawn[: np.searchsorted(before, tokens - 2 * lengths[-1])]


@dataclass(frozen=True)
class Decomposition:
    """The documents of a corpus cut into chunks, group by group; a function of the fields alone.

    Counting the chunks takes as long as cutting all documents, so the counts travel with a pickled copy.
    """

    documents: Documents
    lengths: tuple[int, ...]
    """Powers of two, ascending."""
    seed: int = 0
    long_documents: LongDocuments = "random"

    def __getstate__(self) -> dict:
        return {name: getattr(self, name) for name in (*(field.name for field in fields(self)), "counts")}

    def chunks(self, shard: int, group: int, length: int) -> np.ndarray:
        """First token in the shard of a group's chunks of one length, int64."""
        chunks, starts = self._cut(shard, group)
        return starts[chunks.length == length]

    @cached_property
    def counts(self) -> np.ndarray:
        """Chunks of every group by length: int64 ``(groups, lengths)``, groups in the order of the shards.

        Counted on the first call, which takes a second or so for every million documents.
        """
        groups = [(shard, group) for shard, count in enumerate(self.documents.shard_groups) for group in range(count)]
        shortest = self.lengths[0].bit_length()
        counts = np.zeros((len(groups), len(self.lengths)), dtype=np.int64)
        for row, (shard, group) in zip(counts, groups, strict=True):
            powers = np.log2(self._cut(shard, group)[0].length).astype(np.int64)
            row += np.bincount(powers - shortest + 1, minlength=len(self.lengths))
        return counts

    @cached_property
    def first_groups(self) -> np.ndarray:
        """Number of the first group of each shard, in the order of ``counts``."""
        return np.concatenate([[0], np.cumsum(self.documents.shard_groups)])

    def _cut(self, shard: int, group: int) -> tuple[Chunks, np.ndarray]:
        """The chunks of a group, and the first token of each in the shard."""
        starts, tokens = self.documents.group(shard, group)
        random = None
        if self.long_documents == "random":
            random = generator(self.seed, 0, MIXTURE, CUTS, shard, group)
        chunks = decompose(tokens, self.lengths, random)
        return chunks, starts[chunks.document] + chunks.first
