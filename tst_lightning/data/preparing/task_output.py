"""What a task writes: shards of both splits, where documents end, and some validation text."""

import json
from pathlib import Path
from typing import TextIO

import numpy as np

from tst_lightning.data.manifest import Split
from tst_lightning.data.preparing.amounts import Amounts
from tst_lightning.data.preparing.batches import Batch
from tst_lightning.data.preparing.encode import Encoded
from tst_lightning.data.preparing.routing import SPLITS, SplitName
from tst_lightning.data.preparing.sharding import ShardWriter

HELD_OUT_FILE = "held_out.jsonl"


class TokenLimitReached(Exception):
    """The token limit falls after ``documents`` documents of the task."""

    def __init__(self, documents: int) -> None:
        super().__init__(documents)
        self.documents = documents


class TaskOutput:
    """Takes encoded batches in reading order."""

    def __init__(self, folder: Path, name: str, shard_tokens: int, dtype: np.dtype, held_out_bytes: int) -> None:
        """
        Args:
            folder: Where to write.
            name: Shards are called ``chunk-<name>-<number>.bin``.
            shard_tokens: Tokens of every shard but the last.
            dtype: Of the stored ids.
            held_out_bytes: Validation text to keep at most.
        """
        self._folder = folder
        self._writers = {split: ShardWriter(folder / split, shard_tokens, dtype, name) for split in SPLITS}
        self._splits = {split: Amounts() for split in SPLITS}
        self._left_held_out_bytes = held_out_bytes

    @property
    def amounts(self) -> Amounts:
        return self._splits["train"] + self._splits["validation"]

    def add(self, batch: Batch, encoded: Encoded, max_tokens: int | None) -> None:
        """Write a batch.

        Raises:
            TokenLimitReached: with it there would be more than ``max_tokens``.
        """
        ends = np.cumsum(encoded.lengths)
        if max_tokens is not None and self.amounts.tokens + len(encoded.ids) > max_tokens:
            fitting = int(np.searchsorted(ends, max_tokens - self.amounts.tokens, side="right"))
            raise TokenLimitReached(self.amounts.documents + fitting)
        for split in SPLITS:
            chosen = np.array([name == split for name in batch.splits])
            if chosen.any():
                self._add_split(split, batch, encoded, chosen)

    def _add_split(self, split: SplitName, batch: Batch, encoded: Encoded, chosen: np.ndarray) -> None:
        """Write the documents of a batch where ``chosen``, a truth value for each, says so."""
        lengths = np.array(encoded.lengths)
        ids = encoded.ids if chosen.all() else encoded.ids[np.repeat(chosen, lengths)]
        self._writers[split].append(ids, lengths[chosen], batch.complete)
        documents = [document for document, is_chosen in zip(batch.documents, chosen, strict=True) if is_chosen]
        text_bytes = sum(len(document.data) for document in documents)
        self._splits[split] += Amounts(len(documents) if batch.complete else 0, text_bytes, len(ids))
        if split == "validation":
            self._hold_out([document.data for document in documents], batch.complete)

    def _hold_out(self, texts: list[bytes], complete: bool) -> None:
        if self._left_held_out_bytes <= 0:
            return
        with (self._folder / HELD_OUT_FILE).open("a") as file:
            for data in texts:
                self._hold_out_one(file, data, complete)

    def _hold_out_one(self, file: TextIO, data: bytes, complete: bool) -> None:
        """A line for a document: one text for each piece, the last of them marked."""
        text = data[: max(0, self._left_held_out_bytes)].decode(errors="ignore")  # may end inside a character
        self._left_held_out_bytes -= len(data)
        if text:
            file.write(json.dumps([text, complete]) + "\n")

    def close(self) -> dict[SplitName, Split]:
        """Write what is left; returns the counts and shards of both splits."""
        splits = {}
        for name, writer in self._writers.items():
            shards, ends = writer.close()
            ends.tofile(ends_file(self._folder, name))
            amounts = self._splits[name]
            splits[name] = Split(amounts.documents, amounts.bytes, amounts.tokens, shards)
        return splits


def ends_file(folder: Path, split: SplitName) -> Path:
    """Where a task keeps its document ends, as ``ShardWriter.close`` gives them."""
    return folder / f"{split}_ends.u32"


def read_held_out(path: Path) -> list[str]:
    """The validation documents that a task has kept, in order."""
    texts, pieces = [], []
    with path.open() as file:
        for line in file:
            text, complete = json.loads(line)
            pieces.append(text)
            if complete:
                texts.append("".join(pieces))
                pieces = []
    return [*texts, "".join(pieces)] if pieces else texts
