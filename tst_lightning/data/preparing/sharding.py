"""Writes one split's token stream as litdata shards of equal length.

litdata's ``optimize`` starts worker processes, which takes 5 to 10 seconds a split; its ``Cache`` writes the
same files in this process.
"""

import json
from pathlib import Path

import numpy as np


class ShardWriter:
    """Cuts a stream of ids into shards of exactly ``shard_tokens``; only the last is shorter.

    The folder opens with ``litdata.StreamingDataset(folder, item_loader=TokensLoader(block_size=...))``.
    """

    def __init__(self, folder: Path, shard_tokens: int, dtype: np.dtype) -> None:
        """
        Args:
            folder: Made here.
            shard_tokens: Tokens of every shard but the last.
            dtype: uint16 or int32, what the shards store.
        """
        from litdata.streaming import Cache, TokensLoader

        folder.mkdir(parents=True)
        self._folder = folder
        self._dtype = dtype
        self._cache = Cache(str(folder), chunk_size=shard_tokens, item_loader=TokensLoader())
        self._buffer = np.empty(shard_tokens, dtype=dtype)
        self._filled = 0
        self._shard_tokens: list[int] = []

    def append(self, ids: np.ndarray) -> None:
        """Add ids (1-D) to the stream."""
        start = 0
        while start < len(ids):
            taken = min(len(ids) - start, len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + taken] = ids[start : start + taken]
            self._filled += taken
            start += taken
            if self._filled == len(self._buffer):
                self._write()

    def close(self) -> tuple[int, ...]:
        """Write what is left and the index.

        Returns:
            Tokens in each shard, in shard order, as litdata's index has them.
        """
        if self._filled:
            self._write()
        if not self._shard_tokens:
            return ()
        self._cache.done()
        self._cache.merge()
        index = json.loads((self._folder / "index.json").read_text())
        indexed = [chunk["dim"] for chunk in index["chunks"]]
        if indexed != self._shard_tokens:
            raise RuntimeError(f"litdata indexed shards of {indexed} tokens, written were {self._shard_tokens}")
        return tuple(indexed)

    def _write(self) -> None:
        import torch

        # One item a chunk: litdata closes a chunk before the item that would exceed chunk_size. It copies.
        self._cache[len(self._shard_tokens)] = torch.from_numpy(self._buffer[: self._filled])
        self._shard_tokens.append(self._filled)
        self._filled = 0
