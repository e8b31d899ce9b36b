"""A preparation's progress bar: share done, rate of text, time left."""

import sys

from tqdm import tqdm

from tst_lightning.data.preparing.amounts import Advance, Amounts
from tst_lightning.data.preparing.limits import NO_LIMITS, Limits

SECONDS_BETWEEN_LINES = 10
"""Where the output is a file rather than a terminal."""


class Progress:
    """Shows progress on stderr.

    The bar measures what is known beforehand: the limit that is set (on tokens, documents or bytes of text, the
    first of these), else input bytes as stored, else nothing: then it counts text.
    """

    def __init__(
        self, description: str, limits: Limits, size_bytes: int | None, unlimited: frozenset[int] = frozenset()
    ) -> None:
        """
        Args:
            description: What is being done.
            limits: What ends the reading, if anything does.
            size_bytes: Of the input as stored; None where it is not known.
            unlimited: Numbers of the tasks that the limits do not count.
        """
        self._uncounted = frozenset() if limits == NO_LIMITS else unlimited
        names = [name for name in ("tokens", "documents", "bytes") if getattr(limits, name) is not None]
        self._measure = names[0] if names else ("input_bytes" if size_bytes is not None else "bytes")
        self._advances: dict[int, Advance] = {}
        self._text_bytes = 0
        self._done = 0
        self._bar = tqdm(
            desc=description,
            total=getattr(limits, names[0]) if names else size_bytes,
            unit={"tokens": " tokens", "documents": " documents"}.get(self._measure, "B"),
            unit_scale=True,
            mininterval=0.5 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def start_with(self, finished: list[Advance]) -> None:
        """Count what was done before, which is left out of the rate."""
        for advance in finished:
            self._advances[advance.number] = advance
            self._done += self._value(advance)
        self._bar.n = self._bar.initial = self._done
        self._bar.refresh()

    def update(self, advance: Advance) -> None:
        """Take in how far a task is."""
        before = self._advances.get(advance.number, Advance(advance.number, 0, Amounts()))
        self._advances[advance.number] = advance
        self._text_bytes += advance.amounts.bytes - before.amounts.bytes
        seconds = self._bar.format_dict["elapsed"]
        if seconds:
            text = f"{self._text_bytes / 1e6:.0f} MB, {self._text_bytes / 1e6 / seconds:.1f} MB/s"
            self._bar.set_postfix_str(f"text {text}", refresh=False)
        self._done += self._value(advance) - self._value(before)
        # Tasks that run side by side may together take more than a limit; what is too much is dropped later.
        self._bar.update(min(self._done, self._bar.total or self._done) - self._bar.n)

    def _value(self, advance: Advance) -> int:
        if advance.number in self._uncounted:
            return 0
        return advance.input_bytes if self._measure == "input_bytes" else getattr(advance.amounts, self._measure)
