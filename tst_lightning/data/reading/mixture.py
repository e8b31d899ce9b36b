"""Which corpus of a mixture each row of a stream comes from."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise

import numpy as np

from tst_lightning.data.reading.order import MIXTURE, FieldsOnly, generator
from tst_lightning.errors import UserError

BLOCK_ROWS = 1024
"""The rows of a stream are dealt out to the corpora in blocks of this many."""


@dataclass(frozen=True)
class Mixture(FieldsOnly):
    """Shares of rows, kept exactly: after ``b`` blocks a corpus has had ``b * BLOCK_ROWS * share`` rows, within one.

    Where in a block the rows of a corpus stand is random. A mixture of one corpus deals out nothing.

    Raises:
        UserError: a weight that is not positive, or too small for a row in each block.
    """

    weights: tuple[float, ...] = (1.0,)
    """One for each corpus; only their proportions matter."""
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [weight for weight in self.weights if not 0 < weight < float("inf")]
        if wrong or not self.weights:
            raise UserError(f"the weights of a mixture are positive numbers, got {list(self.weights)}")
        if min(self.shares) * BLOCK_ROWS < 1:
            raise UserError(
                f"the weights {list(self.weights)} give a corpus less than one row in {BLOCK_ROWS}: "
                "raise the smallest weight, or leave that corpus out"
            )

    @cached_property
    def shares(self) -> tuple[Fraction, ...]:
        """The weights as exact shares that sum to 1."""
        # By their decimal digits: 0.7 and 0.3 are the shares of 70 and 30, which their binary values are not.
        weights = [Fraction(str(weight)) for weight in self.weights]
        return tuple(weight / sum(weights) for weight in weights)

    def locate(self, segment: int, stream: int, number: int) -> tuple[int, int]:
        """Corpus of a stream's row, and the row's number among the stream's rows of that corpus.

        Args:
            segment: the plan's segment; each has mixture blocks of its own.
            stream: the reading position.
            number: of the row in the stream, from the start of the segment.
        """
        if len(self.weights) == 1:
            return 0, number
        block, position = divmod(number, BLOCK_ROWS)
        corpora, numbers = self._cached_block(segment, stream, block)
        return int(corpora[position]), int(numbers[position])

    def counts(self, segment: int, stream: int, rows: int) -> tuple[int, ...]:
        """How many of the first ``rows`` rows of a stream each corpus has."""
        if len(self.weights) == 1:
            return (rows,)
        block, position = divmod(rows, BLOCK_ROWS)
        whole = shared_out(block * BLOCK_ROWS, self.shares)
        if not position:
            return whole
        corpora, _ = self._cached_block(segment, stream, block)
        begun = np.bincount(corpora[:position], minlength=len(whole))
        return tuple(count + int(more) for count, more in zip(whole, begun, strict=True))

    def _block(self, segment: int, stream: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Corpus of each of a block's rows, and its number among the rows of that corpus."""
        before, after = (shared_out((block + i) * BLOCK_ROWS, self.shares) for i in (0, 1))
        sorted_corpora = np.repeat(np.arange(len(before)), np.subtract(after, before))
        corpora = generator(self.seed, 0, MIXTURE, segment, stream, block).permutation(sorted_corpora)
        numbers = np.empty(BLOCK_ROWS, dtype=np.int64)
        for corpus, (first, end) in enumerate(zip(before, after, strict=True)):
            numbers[corpora == corpus] = np.arange(first, end)
        return corpora, numbers

    @cached_property
    def _cached_block(self):
        return lru_cache(maxsize=64)(self._block)


def shared_out(total: int, shares: tuple[Fraction, ...]) -> tuple[int, ...]:
    """``total`` things in proportion to ``shares``: whole numbers that sum to it, each within one of its share.

    Rounds the cumulative shares, so the number of each for a growing ``total`` grows by its share as well.
    """
    bounds = [0, *(int(total * share + Fraction(1, 2)) for share in accumulate(shares))]
    return tuple(end - start for start, end in pairwise(bounds))
