"""Documents collected into pieces of work of a quarter of a megabyte, in reading order; long ones are cut."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tst_lightning.data.preparing.encoder import Document
from tst_lightning.data.preparing.routing import SplitName

BATCH_BYTES = 1 << 18
"""Text of one piece of work. An encoder needs about 340 bytes of memory for each token, while it encodes."""
LONG_DOCUMENT_BYTES = 1 << 20
"""A document above this is encoded in pieces of at most ``BATCH_BYTES``: whole, one of 4 MB took 660 MB."""


class Batch(NamedTuple):
    """Documents that are encoded together."""

    documents: list[Document]
    splits: list[SplitName]
    """Of each document."""
    complete: bool = True
    """False: the (only) document goes on in the next batch."""


def batches(selected: Iterable[tuple[SplitName, Document]]) -> Iterator[Batch]:
    """Collect documents in reading order. A batch is of both splits, so that limits see one stream."""
    waiting = Batch([], [])
    waiting_bytes = 0
    for split, document in selected:
        if waiting_bytes and waiting_bytes + len(document.data) > BATCH_BYTES:
            yield waiting
            waiting, waiting_bytes = Batch([], []), 0
        if len(document.data) > LONG_DOCUMENT_BYTES:
            data = document.data
            del document  # its text is not needed any more, and large
            yield from _pieces(split, data)
            del data
        else:
            waiting.documents.append(document)
            waiting.splits.append(split)
            waiting_bytes += len(document.data)
            del document
    if waiting_bytes:
        yield waiting


def _pieces(split: SplitName, data: bytes) -> Iterator[Batch]:
    start = 0
    while start < len(data):
        end = cut_position(data, start, BATCH_BYTES)
        piece = data[start:end]
        yield Batch([Document(piece.decode(), piece)], [split], complete=end == len(data))
        start = end


def cut_position(data: bytes, start: int, piece_bytes: int) -> int:
    """Where to cut UTF-8 text so that the piece from ``start`` has at most ``piece_bytes``.

    After the last line break, else before the last space, else after any character. Token ids at a cut may
    differ from those of the whole text: after a line break with most tokenizers they do not.
    """
    end = start + piece_bytes
    if end >= len(data):
        return len(data)
    line = data.rfind(b"\n", start, end) + 1
    if line > start:
        return line
    space = data.rfind(b" ", start + 1, end)
    if space > start:
        return space
    while data[end] & 0xC0 == 0x80:  # inside a character
        end -= 1
    return end
