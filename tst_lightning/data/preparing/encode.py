"""Encodes documents with several threads and writes them to shards, in order and with bounded memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from tst_lightning.data.preparing.routing import Batch, SplitName
from tst_lightning.data.preparing.sharding import ShardWriter
from tst_lightning.data.tokenizer import Encoder

PIECES_PER_THREAD = 3
"""Batches under way per thread: enough that a long document does not leave the other threads idle."""


@dataclass
class SplitCounts:
    """What has been encoded of one split."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0


@dataclass
class Totals:
    """Counts by split."""

    splits: dict[str, SplitCounts] = field(
        default_factory=lambda: {"train": SplitCounts(), "validation": SplitCounts()}
    )

    def add(self, batch: Batch, tokens: int) -> None:
        counts = self.splits[batch.split]
        counts.documents += len(batch.documents)
        counts.bytes += sum(len(document.data) for document in batch.documents)
        counts.tokens += tokens

    @property
    def bytes(self) -> int:
        return sum(counts.bytes for counts in self.splits.values())


Encoded = tuple[np.ndarray, list[int]]
"""Ids of some documents (1-D), and how many each document has."""


def encode_batches(pieces: Iterable[Batch], encoder: Encoder, threads: int) -> Iterator[tuple[Batch, Encoded]]:
    """Encode pieces in parallel and yield them in order with their ids.

    Threads, not processes: the tokenizer lets go of Python's lock while it encodes, nothing has to be
    pickled, and nothing is left behind by a killed run. At most ``threads * PIECES_PER_THREAD`` pieces are
    held at a time.
    """
    under_way: deque[tuple[Batch, Future[Encoded]]] = deque()
    with _serial_tokenizer(), ThreadPoolExecutor(threads) as executor:
        try:
            for piece in pieces:
                under_way.append((piece, executor.submit(encoder.encode, piece.documents)))
                if len(under_way) >= threads * PIECES_PER_THREAD:
                    oldest, future = under_way.popleft()
                    yield oldest, future.result()
            while under_way:
                oldest, future = under_way.popleft()
                yield oldest, future.result()
        finally:
            executor.shutdown(cancel_futures=True)


def write_batches(
    encoded: Iterable[tuple[Batch, Encoded]],
    writers: dict[SplitName, ShardWriter],
    totals: Totals,
    on_batch: Callable[[Batch], None],
) -> None:
    """Append encoded pieces to their split's shards and count them."""
    for batch, (ids, lengths) in encoded:
        writers[batch.split].append(ids, lengths)
        totals.add(batch, len(ids))
        on_batch(batch)


@contextmanager
def _serial_tokenizer() -> Iterator[None]:
    """Keep each encoding call on its own thread: parallelism is over pieces, ``threads`` at a time."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
