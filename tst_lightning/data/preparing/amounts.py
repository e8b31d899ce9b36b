"""Amounts of text, and how far a task is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Amounts:
    """Text of both splits together."""

    documents: int = 0
    bytes: int = 0
    """UTF-8."""
    tokens: int = 0
    """With one end-of-text a document."""

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(self.documents + other.documents, self.bytes + other.bytes, self.tokens + other.tokens)


class Advance(NamedTuple):
    """How far a task is."""

    number: int
    """Of the task."""
    input_bytes: int
    """As stored."""
    amounts: Amounts


OnAdvance = Callable[[Advance], None]
