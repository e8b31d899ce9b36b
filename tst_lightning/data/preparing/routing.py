"""Which split a document belongs to, which documents are usable at all, and batches of them to encode."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from tst_lightning.data.sources.corpus import TextSource
from tst_lightning.data.tokenizer import Document

SplitName = Literal["train", "validation"]

BATCH_BYTES = 1 << 20
"""Text of one piece of work. A longer document is a piece of its own."""


def document_digest(data: bytes) -> bytes:
    """16 bytes that identify a document's UTF-8 text."""
    return hashlib.blake2b(data, digest_size=16).digest()


class Router:
    """Assigns documents to splits by the hash of their text alone.

    The assignment is the same whatever the order, the other documents or the run, and exact duplicates
    always land on the same side: the splits are disjoint by construction.
    """

    def __init__(self, validation_fraction: float, validation_digests: set[bytes] | None = None) -> None:
        """
        Args:
            validation_fraction: Share of documents that become validation documents, in (0, 1).
            validation_digests: Digests of validation documents from a source of their own. If given, no
                other document becomes one, and documents among them belong to neither split.
        """
        self._limit = int(validation_fraction * 2**64)
        self._digests = validation_digests

    def split(self, document: Document) -> SplitName | None:
        """The document's split; None drops it because the validation source holds it."""
        digest = document_digest(document.data)
        if self._digests is not None:
            return None if digest in self._digests else "train"
        return "validation" if int.from_bytes(digest[:8], "big") < self._limit else "train"


def usable_documents(
    texts: Iterable[str],
    skipped: Counter[str],
    max_documents: int | None = None,
    max_bytes: int | None = None,
) -> Iterator[Document]:
    """Yield the documents that hold text, up to the first limit that is reached.

    Args:
        texts: Documents as read.
        skipped: Receives the number of documents left out, by reason.
        max_documents: Documents to yield at most.
        max_bytes: Bytes of UTF-8 text to yield at most; the document that would exceed it ends the reading.
    """
    documents = total_bytes = 0
    for text in texts:
        if documents == max_documents:
            return
        if not text or text.isspace():
            skipped["documents without text"] += 1
            continue
        try:
            data = text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell
            skipped["documents that are not valid Unicode"] += 1
            continue
        total_bytes += len(data)
        if max_bytes is not None and total_bytes > max_bytes:
            return
        documents += 1
        yield Document(text, data)


class Batch(NamedTuple):
    """Documents of one split, encoded together."""

    split: SplitName
    documents: list[Document]


def batches(
    documents: Iterable[Document],
    split_of: Callable[[Document], SplitName | None],
    skipped: Counter[str],
) -> Iterator[Batch]:
    """Collect documents into pieces of about ``BATCH_BYTES``, each of one split, in reading order."""
    waiting: dict[SplitName, list[Document]] = {"train": [], "validation": []}
    waiting_bytes: Counter[SplitName] = Counter()
    for document in documents:
        split = split_of(document)
        if split is None:
            skipped["documents that the validation source holds"] += 1
            continue
        waiting[split].append(document)
        waiting_bytes[split] += len(document.data)
        if waiting_bytes[split] >= BATCH_BYTES:
            yield Batch(split, waiting[split])
            waiting[split], waiting_bytes[split] = [], 0
    for split, rest in waiting.items():
        if rest:
            yield Batch(split, rest)


class Corpus:
    """The documents of a preparation, each with its split; read anew each time it is asked."""

    def __init__(
        self,
        source: TextSource,
        validation_source: TextSource | None,
        validation_fraction: float,
        max_documents: int | None,
        max_bytes: int | None,
    ) -> None:
        self.source = source
        self.validation_source = validation_source
        self.max_documents = max_documents
        self.max_bytes = max_bytes
        self.skipped: Counter[str] = Counter()
        digests = None
        if validation_source is not None:
            texts = usable_documents(validation_source.documents(), Counter())
            digests = {document_digest(document.data) for document in texts}
        self.router = Router(validation_fraction, digests)

    def batches(self) -> Iterator[Batch]:
        """Batches of both splits; ``skipped`` is complete afterwards."""
        self.skipped = Counter()
        if self.validation_source is not None:
            documents = usable_documents(self.validation_source.documents(), self.skipped)
            yield from batches(documents, lambda document: "validation", self.skipped)
            self.skipped.update(self.validation_source.skipped)
        yield from batches(self._source_documents(self.skipped), self.router.split, self.skipped)
        self.skipped.update(self.source.skipped)

    def training_documents(self) -> Iterator[Document]:
        """Training documents alone, for a tokenizer to be trained on."""
        for document in self._source_documents(Counter()):
            if self.router.split(document) == "train":
                yield document

    def _source_documents(self, skipped: Counter[str]) -> Iterator[Document]:
        return usable_documents(self.source.documents(), skipped, self.max_documents, self.max_bytes)
