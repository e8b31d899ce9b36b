"""Token ids of a split by shard and position, from local files or through a cache of object storage.

The files are memory-mapped here and not read by litdata's ``StreamingDataset``, though it could open them: it
gives blocks of one length, aligned in their shard, while a plan needs spans of any length; and under random
access its cache of remote chunks deletes files that its other threads still read.
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np

from tst_lightning.data.manifest import Shard, Split
from tst_lightning.data.reading.cache import ShardCache
from tst_lightning.data.reading.checksums import ShardChecksums
from tst_lightning.data.shard_format import map_shard, shard_bytes
from tst_lightning.data.storage import ObjectStorage
from tst_lightning.errors import UserError

MAX_OPEN_SHARDS = 32
"""Memory maps of local files that one process keeps, so that what it holds does not grow over an epoch."""
MAX_OPEN_CACHED_SHARDS = 4
"""The same for a cache: an evicted file takes up disk space for as long as it is mapped."""
_DOWNLOAD_ATTEMPTS = 10  # a run of days should bear a minute without a connection


class Shards:
    """The token ids of one split; files are opened when first read, by each process for itself.

    Args:
        folder: path or URL of the split's folder.
        shards: as the manifest lists them.
        token_dtype: of the ids, uint16 or int32.
        vocab_size: every id is below it.
        cache: for a URL, where its shards are kept.
        checksums: for a folder, what compares a shard with the manifest before it is first read; None reads it
            unseen. Those of a URL are always compared, when they are fetched.

    Raises:
        UserError: the cache cannot hold the largest shard.
    """

    def __init__(
        self,
        folder: str,
        shards: tuple[Shard, ...],
        token_dtype: str,
        vocab_size: int,
        cache: ShardCache | None = None,
        checksums: ShardChecksums | None = None,
    ) -> None:
        self.folder = str(folder)
        self.shards = shards
        self.token_dtype = token_dtype
        self.vocab_size = vocab_size
        self.cache = cache
        self.checksums = checksums
        self._storage = None if cache is None else ObjectStorage(self.folder, _DOWNLOAD_ATTEMPTS)
        self._maps: OrderedDict[int, np.ndarray] = OrderedDict()
        if cache is not None:
            self._require_room(cache)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_maps": OrderedDict()}

    def tokens(self, shard: int, first: int, count: int) -> np.ndarray:
        """``count`` token ids of a shard from position ``first`` on: a read-only view, 1-D, the stored dtype.

        Raises:
            UserError: an id is none of the vocabulary; the shard is not what the manifest lists; or it is remote, and
                cannot be had.
        """
        ids = self._maps.get(shard)
        if ids is None:
            ids = self._maps[shard] = self._open(shard)
            if len(self._maps) > (MAX_OPEN_SHARDS if self.cache is None else MAX_OPEN_CACHED_SHARDS):
                self._maps.popitem(last=False)
        else:
            self._maps.move_to_end(shard)
        ids = ids[first : first + count]
        # Negative ids are the largest of the unsigned type.
        if count and ids.view(f"u{ids.itemsize}").max() >= self.vocab_size:
            raise self._altered(shard, first, ids)
        return ids

    def _altered(self, shard: int, first: int, ids: np.ndarray) -> UserError:
        wrong = int(((ids < 0) | (ids >= self.vocab_size)).argmax())
        return UserError(
            f"'{self.folder}/{self.shards[shard].file}' holds token {ids[wrong]} at position {first + wrong:,}, the "
            f"vocabulary has {self.vocab_size:,}: it was altered; run `tst-lightning verify`"
        )

    def _open(self, shard: int) -> np.ndarray:
        if self.cache is None:
            path = Path(self.folder, self.shards[shard].file)
            if self.checksums is not None:
                self.checksums.require(path, self.shards[shard])
            ids = map_shard(path, self.token_dtype)
        else:
            ids = self.cache.map(self._storage, self.shards[shard], self.token_dtype)
        # A slice of a numpy.memmap costs ten times as much as one of a plain array.
        return ids.view(np.ndarray)

    def _require_room(self, cache: ShardCache) -> None:
        largest = max(self.shards, key=lambda shard: shard.tokens)
        needed_bytes = shard_bytes(largest.tokens, self.token_dtype)
        if needed_bytes > cache.max_bytes:
            raise UserError(
                f"the cache for '{self.folder}' may hold {cache.max_bytes:,} bytes, and its largest shard "
                f"'{largest.file}' has {needed_bytes:,}: allow a cache of several shards"
            )


def require_shards(folder: str | Path, split: Split, token_dtype: str) -> None:
    """Compare the sizes of a split's local files with the manifest. Contents are compared later (``checksums``).

    For local ones only: asking a store for ten thousand objects would take minutes, and each is compared with
    the manifest when it is fetched.

    Raises:
        UserError: shards are missing, or have another size than their number of tokens gives.
    """
    missing, altered = [], []
    for shard in split.shards:
        listed_bytes = shard_bytes(shard.tokens, token_dtype)
        try:
            size_bytes = Path(folder, shard.file).stat().st_size
        except FileNotFoundError:
            missing.append(shard.file)
            continue
        if size_bytes != listed_bytes:
            altered.append(f"'{shard.file}' with {size_bytes:,} bytes where the manifest gives {listed_bytes:,}")
    problems = []
    if missing:
        problems.append(f"lacks {len(missing)} of {len(split.shards)} shards, the first is '{missing[0]}'")
    if altered:
        problems.append(f"holds {len(altered)} truncated or altered shards, the first is {altered[0]}")
    if problems:
        raise UserError(
            f"'{folder}' {' and '.join(problems)}: run `tst-lightning verify` for the whole list, then copy or prepare "
            "the corpus again"
        )
