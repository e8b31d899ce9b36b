"""Keeps validation text in memory, for what is made from it after the shards."""

from collections.abc import Iterable, Iterator

from tst_lightning.data.preparing.routing import Batch


class KeptText:
    """The first validation documents, up to a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.texts: list[str] = []
        self._left_bytes = max_bytes

    def collect(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass batches on and keep the validation documents among them."""
        for batch in batches:
            if batch.split == "validation":
                for document in batch.documents:
                    if self._left_bytes > 0:
                        # The last one is cut, in characters: never more text than there are bytes left.
                        self.texts.append(document.text[: self._left_bytes])
                        self._left_bytes -= len(document.data)
            yield batch
