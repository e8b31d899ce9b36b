"""What the workers of a build share: the text, the options, and where each step leaves its results."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tst_lightning.data.ngram.counting import CHUNK_TOKENS, ContextKeys
from tst_lightning.data.ngram.options import NgramOptions
from tst_lightning.data.ngram.text import TrainingText
from tst_lightning.data.reading.order import FieldsOnly


@dataclass(frozen=True)
class Job(FieldsOnly):
    """Steps: count the chunks of the text, merge the counts a part of the contexts at a time, write the tokens."""

    folder: Path
    """Where the table grows."""
    text: TrainingText
    options: NgramOptions
    chunk_tokens: int = CHUNK_TOKENS
    """Not an option of the user's: the draws of rule E go through the text chunk by chunk."""

    @property
    def chunks(self) -> int:
        return -(-self.text.tokens // self.chunk_tokens)

    def chunk(self, number: int) -> tuple[int, int]:
        """The positions ``[first, stop)`` of a chunk."""
        first = number * self.chunk_tokens
        return first, min(first + self.chunk_tokens, self.text.tokens)

    @cached_property
    def keys(self) -> ContextKeys:
        return ContextKeys(self.options.n, self.text.token_bits)

    @property
    def counted(self) -> Path:
        """Folder of ``counting.Pairs``, by chunk."""
        return self.folder / "counted"

    def merged(self, parts: int) -> Path:
        """Folder of ``merging.Part``, by part of so many."""
        return self.folder / f"merged-{parts}"

    def key_range(self, part: int, parts: int) -> tuple[int, int]:
        """The context keys ``[low, high)`` of a part; ``parts`` is a power of two."""
        width = self.keys.bits - (parts.bit_length() - 1)
        return part << width, (part + 1) << width
