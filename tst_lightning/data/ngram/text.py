"""A training split as one line of tokens, shard after shard: any stretch of it, and where its documents begin."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np

from tst_lightning.data.reading.cache import ShardCache
from tst_lightning.data.reading.documents import Documents
from tst_lightning.data.reading.order import FieldsOnly
from tst_lightning.data.reading.prepared import PreparedCorpus
from tst_lightning.data.reading.shards import Shards


@dataclass(frozen=True)
class TrainingText(FieldsOnly):
    """Positions count the tokens from the start of the first shard."""

    shards: Shards
    documents: Documents
    """With one group a shard."""

    @classmethod
    def of_corpus(cls, corpus: PreparedCorpus, cache: ShardCache) -> "TrainingText":
        """The training split of a prepared corpus; raises ``UserError`` if its files are not what it lists."""
        corpus.require_shards("train")
        split = corpus.manifest.train
        documents = Documents.of_split(
            corpus.folder / "train", split, max(split.shard_tokens, default=1), corpus.document_ends_sha256
        )
        return cls(corpus.shards("train", cache), documents)

    @property
    def tokens(self) -> int:
        """Of all shards."""
        return self._bounds[-1]

    @property
    def token_dtype(self) -> str:
        return self.shards.token_dtype

    @property
    def token_bits(self) -> int:
        """Enough for every id."""
        return max(1, (self.shards.vocab_size - 1).bit_length())

    def read(self, first: int, stop: int) -> np.ndarray:
        """The token ids at positions ``[first, stop)``, 1-D in the stored dtype."""
        pieces = [
            self.shards.tokens(shard, max(0, first - start), min(stop, end) - max(first, start))
            for shard, start, end in self._overlapping(first, stop)
        ]
        return np.concatenate([np.empty(0, self.token_dtype), *pieces])

    def document_starts(self, first: int, stop: int) -> np.ndarray:
        """The positions in ``[first, stop)`` at which a document begins: int64, in order."""
        starts = [np.empty(0, np.int64)]
        for shard, start, _ in self._overlapping(first, stop):
            in_shard, _ = self.documents.group(shard, 0)
            starts.append(start + in_shard[1 if self._goes_on(shard) else 0 :])
        positions = np.concatenate(starts)
        return positions[(positions >= first) & (positions < stop)]

    def _goes_on(self, shard: int) -> bool:
        """Whether a shard begins inside a document."""
        if shard == 0:
            return False
        in_previous, _ = self.documents.group(shard - 1, 0)
        return len(in_previous) > self.documents.shard_documents[shard - 1]

    def _overlapping(self, first: int, stop: int) -> list[tuple[int, int, int]]:
        """Number, start and end of the shards that have positions in ``[first, stop)``."""
        found = []
        shard = max(0, bisect_right(self._bounds, first) - 1)
        for number, (start, end) in enumerate(pairwise(self._bounds[shard:]), shard):
            if start >= stop:
                break
            if end > max(first, start):
                found.append((number, start, end))
        return found

    @cached_property
    def _bounds(self) -> list[int]:
        return list(accumulate((shard.tokens for shard in self.shards.shards), initial=0))
