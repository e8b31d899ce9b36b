"""What every source of text is: documents as strings, in a fixed order, in parts that can be read alone."""

import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """A stretch of a source that one task reads: a plain value that compares, pickles and goes through JSON."""

    files: tuple[str, ...] = ()
    """Files to read, in this order. None of them: the whole source."""
    first: int = 0
    """Where the stretch begins, in the unit that its source cuts by: bytes, row groups, batches, shards or rows."""
    last: int | None = None
    """Where it ends, itself excluded. None: it is not cut, and goes to the end."""
    size_bytes: int = 0
    """Bytes of input as stored; 0 where that is not known."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(self.files))  # JSON gives a list back


WHOLE = Part()
"""All of a source in one part."""


class TextSource(ABC):
    """A corpus, read document by document.

    A source is opened as often as needed, by several processes at a time: each ``documents()`` starts at its
    part's beginning. A source of one's own needs only ``documents``; it may have any number of parts.

    Attributes:
        skipped: Documents or files left out by the latest ``documents()``, by reason.
        bytes_read: Bytes of input consumed by the latest ``documents()``, in the unit of ``size_bytes``.
    """

    content_must_match = True
    """Whether a changed ``content()`` makes a prepared folder stale."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self.bytes_read = 0

    @abstractmethod
    def documents(self, part: Part = WHOLE) -> Iterator[str]:
        """Yield each document's text, in a fixed order.

        Args:
            part: One of ``parts()``, or the whole source.

        Raises:
            UserError: the corpus is missing or not readable as what it is said to be.
        """

    def parts(self, part_bytes: int) -> list[Part]:
        """Split the source into parts that hold every document once, in reading order.

        They depend on nothing but the source and ``part_bytes``.

        Args:
            part_bytes: Bytes of input, as stored, that a part is to hold at most where the source can be cut.
        """
        return [WHOLE]

    def size_bytes(self) -> int | None:
        """Bytes of input (compressed where it is compressed), or None where that is not known."""
        return None

    def content(self) -> dict[str, Any]:
        """What identifies the text cheaply; recorded, and compared by the next preparation."""
        return {}

    def options(self) -> dict[str, Any]:
        """Class and arguments, as a configuration file would give them."""
        return class_options(self)


def class_options(instance: object) -> dict[str, Any]:
    """An object's class path and the arguments that it keeps as attributes of the same names."""
    kind = type(instance)
    names = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    return {
        "class_path": f"{kind.__module__}.{kind.__qualname__}",
        "init_args": {name: getattr(instance, name) for name in names},
    }
