"""Which documents of a part are taken, and for which split."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Literal

import numpy as np

from tst_lightning.data.preparing.encoder import Document
from tst_lightning.data.preparing.limits import NO_LIMITS, Limits

SplitName = Literal["train", "validation"]
SPLITS: tuple[SplitName, SplitName] = ("train", "validation")

DIGEST_BYTES = 16


def document_digest(data: bytes) -> bytes:
    """16 bytes that identify a document's UTF-8 text."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def validation_place(digest: bytes) -> int:
    """Where in [0, 2**64) a text lies: held out are those below ``validation_fraction`` of that."""
    return int.from_bytes(digest[:8], "big")


class Digests:
    """A set of digests as one sorted array: 16 bytes for each, also if it is mapped from a file."""

    def __init__(self, array: np.ndarray) -> None:
        """
        Args:
            array: what ``pack`` returned.
        """
        self._array = array

    @staticmethod
    def pack(digests: Iterable[bytes]) -> np.ndarray:
        """Sorted and without repetitions: 1-D, 16 bytes an item."""
        # Not a list: as Python objects they would take four times as much.
        return np.unique(np.frombuffer(bytearray().join(digests), dtype=f"S{DIGEST_BYTES}"))

    def __contains__(self, digest: bytes) -> bool:
        place = int(np.searchsorted(self._array, digest))
        # numpy drops zero bytes at the end of what it returns.
        return place < len(self._array) and self._array[place] == digest.rstrip(b"\0")


class Router:
    """Assigns documents to splits by the hash of their text alone.

    The assignment is the same whatever the order, the other documents or the run, and exact duplicates
    always land on the same side: the splits are disjoint by construction.
    """

    def __init__(self, validation_fraction: float, validation_digests: Digests | None = None) -> None:
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
        return "validation" if validation_place(digest) < self._limit else "train"


class AllToValidation(Router):
    """For the documents of a validation source."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def split(self, document: Document) -> SplitName:
        return "validation"


def usable_documents(texts: Iterable[str], skipped: Counter[str]) -> Iterator[Document]:
    """Yield the documents that hold text.

    Args:
        texts: Documents as read.
        skipped: Receives the number of documents left out, by reason.
    """
    for text in texts:
        if not text or text.isspace():
            skipped["documents without text"] += 1
            continue
        try:
            data = text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell
            skipped["documents that are not valid Unicode"] += 1
            continue
        yield Document(text, data)
        del text, data  # or they would stay while the next document, which may be as large, is read


class Selection:
    """The documents that a task takes, each with its split. To be iterated over once.

    Attributes:
        skipped: Documents left out so far, by reason (without those that the source itself left out).
        ended: Whether a limit ended the reading.
    """

    def __init__(
        self,
        texts: Iterable[str],
        router: Router,
        limits: Limits = NO_LIMITS,
        duplicates: Collection[int] = (),
    ) -> None:
        """
        Args:
            texts: Documents as read.
            router: Assigns them to splits.
            limits: Of documents and bytes, over those that are taken.
            duplicates: Numbers, among the usable documents, of those to leave out.
        """
        self._texts = texts
        self._router = router
        self._limits = limits
        self._duplicates = duplicates
        self.skipped: Counter[str] = Counter()
        self.ended = False

    def __iter__(self) -> Iterator[tuple[SplitName, Document]]:
        documents = text_bytes = 0
        for number, document in enumerate(usable_documents(self._texts, self.skipped)):
            split = self._router.split(document)
            if split is None:
                self.skipped["documents that the validation source holds"] += 1
            elif number in self._duplicates:
                self.skipped["duplicate documents"] += 1
            else:
                documents += 1
                text_bytes += len(document.data)
                if self._exceeds(documents, text_bytes):
                    self.ended = True
                    return
                yield split, document
            del document

    def _exceeds(self, documents: int, text_bytes: int) -> bool:
        limits = self._limits
        return (limits.documents is not None and documents > limits.documents) or (
            limits.bytes is not None and text_bytes > limits.bytes
        )
