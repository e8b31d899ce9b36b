"""Writes a stream of tokens as shards of equal length, and where its documents end."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tst_lightning.data.manifest import Shard, Split
from tst_lightning.data.shard_format import DOCUMENT_ENDS_NAME, INDEX_NAME, index_json, write_shard


class ShardWriter:
    """Cuts a stream of ids into shards of exactly ``shard_tokens``; only the last is shorter.

    A document may lie across shards; it belongs to the one it ends in.
    """

    def __init__(self, folder: Path, shard_tokens: int, dtype: np.dtype, name: str = "0") -> None:
        """
        Args:
            folder: Made here if it does not exist.
            shard_tokens: Tokens of every shard but the last.
            dtype: uint16 or int32, what the shards store.
            name: Files are called ``chunk-<name>-<number>.bin``.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = name
        self._buffer = np.empty(shard_tokens, dtype=dtype)
        self._filled = 0
        self._shards: list[Shard] = []
        self._ends: list[int] = []
        self._ends_of_shards: list[np.ndarray] = []

    def append(self, ids: np.ndarray, lengths: Sequence[int], complete: bool = True) -> None:
        """Add documents to the stream.

        Args:
            ids: Their tokens, 1-D.
            lengths: How many each has, end-of-text included.
            complete: False if the last one goes on with the next call.
        """
        ends = np.cumsum(lengths, dtype=np.int64)
        if not complete:
            ends = ends[:-1]
        start = 0
        while start < len(ids):
            taken = min(len(ids) - start, len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + taken] = ids[start : start + taken]
            inside = ends[
                np.searchsorted(ends, start, side="right") : np.searchsorted(ends, start + taken, side="right")
            ]
            self._ends.extend((inside - start + self._filled).tolist())
            self._filled += taken
            start += taken
            if self._filled == len(self._buffer):
                self._write()

    def close(self) -> tuple[tuple[Shard, ...], np.ndarray]:
        """Write what is left.

        Returns:
            The shards, and the position of each document's end in its shard, uint32, shard by shard.
        """
        if self._filled:
            self._write()
        return tuple(self._shards), np.concatenate([np.empty(0, "<u4"), *self._ends_of_shards])

    def _write(self) -> None:
        file = f"chunk-{self._name}-{len(self._shards)}.bin"
        digest = write_shard(self._folder / file, self._buffer[: self._filled])
        self._shards.append(Shard(file, self._filled, len(self._ends), digest))
        self._ends_of_shards.append(np.array(self._ends, dtype="<u4"))
        self._filled, self._ends = 0, []


def finish_split(
    folder: Path, shards: Sequence[Shard], ends: np.ndarray, dtype: np.dtype, documents: int, text_bytes: int
) -> Split:
    """Write a split's index and document ends; returns its entry in the manifest."""
    np.asarray(ends, dtype="<u4").tofile(folder / DOCUMENT_ENDS_NAME)
    files = [(shard.file, shard.tokens) for shard in shards]
    longest = max((shard.tokens for shard in shards), default=0)
    (folder / INDEX_NAME).write_text(index_json(files, longest, np.dtype(dtype).name))
    tokens = sum(shard.tokens for shard in shards)
    return Split(documents, text_bytes, tokens, tuple(shards))
