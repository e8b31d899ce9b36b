"""What the progress bar counts."""

import pytest

from tst_lightning.data.preparing.amounts import Advance, Amounts
from tst_lightning.data.preparing.limits import NO_LIMITS, Limits
from tst_lightning.data.preparing.progress import Progress


@pytest.mark.parametrize(
    ("limits", "size_bytes", "total", "counted"),
    [
        (NO_LIMITS, 1000, 1000, 30 + 200 + 100),
        (NO_LIMITS, None, None, 9 + 80 + 50),
        (Limits(documents=50), 1000, 50, 3 + 4),
        (Limits(bytes=500, tokens=900), None, 900, 70 + 40),
    ],
    ids=["input", "unknown size", "documents", "tokens"],
)
def test_the_bar_measures_what_is_known_beforehand(limits, size_bytes, total, counted):
    with Progress("preparing", limits, size_bytes, unlimited=frozenset([0])) as progress:
        progress.start_with([Advance(0, 30, Amounts(1, 9, 8)), Advance(1, 200, Amounts(3, 80, 70))])
        progress.update(Advance(2, 40, Amounts(1, 10, 9)))
        progress.update(Advance(2, 120, Amounts(5, 60, 50)))
        progress.update(Advance(2, 100, Amounts(4, 50, 40)))  # run again, under a tighter limit
        assert (progress._bar.n, progress._bar.total) == (counted, total)
        assert progress._text_bytes == 50
