"""Encodes batches with several threads, in order and with bounded memory."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from tst_lightning.data.preparing.batches import Batch
from tst_lightning.data.preparing.encoder import Encoder

BATCHES_PER_THREAD = 2
"""Batches under way per thread: enough that a slow one does not leave the other threads idle."""


class Encoded(NamedTuple):
    """Ids of a batch's documents (1-D), and how many each has."""

    ids: np.ndarray
    lengths: list[int]


def encode_batches(batches: Iterable[Batch], encoder: Encoder, threads: int) -> Iterator[tuple[Batch, Encoded]]:
    """Encode batches in parallel and yield them in order with their ids.

    The tokenizer lets go of Python's lock while it encodes, so one thread already reads the next documents
    meanwhile. At most ``threads * BATCHES_PER_THREAD`` batches are held at a time.
    """
    under_way: deque[tuple[Batch, Future[Encoded]]] = deque()
    with _serial_tokenizer(), ThreadPoolExecutor(threads) as executor:
        try:
            for batch in batches:
                under_way.append((batch, executor.submit(_encode, encoder, batch)))
                del batch
                if len(under_way) >= threads * BATCHES_PER_THREAD:
                    yield _next(under_way)
            while under_way:
                yield _next(under_way)
        finally:
            executor.shutdown(cancel_futures=True)


def _encode(encoder: Encoder, batch: Batch) -> Encoded:
    ids, lengths = encoder.encode(batch.documents)
    if batch.complete:
        return Encoded(ids, lengths)
    return Encoded(ids[:-1], [lengths[0] - 1])  # no end-of-text inside a document


def _next(under_way: deque[tuple[Batch, Future[Encoded]]]) -> tuple[Batch, Encoded]:
    batch, future = under_way.popleft()
    return batch, future.result()


@contextmanager
def _serial_tokenizer() -> Iterator[None]:
    """Keep each encoding call on its own thread: parallelism is over batches and processes."""
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
