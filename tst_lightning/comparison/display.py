"""Live lines in the terminal while runs are at work; plain lines now and then where there is no terminal."""

import shutil
import time
from collections.abc import Sequence
from typing import TextIO

from tst_lightning.comparison.forecast import Tracker

_TERMINAL_EVERY_SECONDS = 1.0
_PLAIN_EVERY_SECONDS = 30.0


class Display:
    """Shows one line per running run and one for the whole.

    Args:
        stream: Where to write; lines are overwritten in place if it is a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._every = _TERMINAL_EVERY_SECONDS if self._is_terminal else _PLAIN_EVERY_SECONDS
        self._shown_at: float | None = None
        self._lines_up = 0
        self._forecast_shown = False

    def show(self, lines: Sequence[str], forecast_known: bool) -> None:
        """Show the state if it is time to; the first forecast is shown as soon as there is one."""
        now = time.monotonic()
        is_news = forecast_known and not self._forecast_shown
        if self._shown_at is not None and now - self._shown_at < self._every and not is_news:
            return
        self._shown_at = now
        self._forecast_shown |= forecast_known
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            self.clear()
            lines = [line[:width] for line in lines]
            self._lines_up = len(lines)
        self._stream.write("".join(line + "\n" for line in lines))
        self._stream.flush()

    def note(self, line: str) -> None:
        """A line that stays: a run has started, ended, failed."""
        self.clear()
        self._stream.write(line + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Take the live lines away."""
        if self._lines_up:
            self._stream.write(f"\x1b[{self._lines_up}F\x1b[J")
            self._lines_up = 0


def run_line(label: str, width: int, tracker: Tracker, elapsed_seconds: float) -> str:
    """One running run: step, phase, speed, loss, time left."""
    values = tracker.values
    if not values:
        return f"  {label:<{width}}  starting, {duration(elapsed_seconds)} so far"
    parts = [f"step {values['step']:,}/{values['max_steps']:,}"]
    if values.get("phase"):
        parts.append(str(values["phase"]))
    if values.get("positions_per_second"):
        parts.append(f"{values['positions_per_second'] / 1000:.1f}k positions/s")
    if values.get("val_loss") is not None:
        parts.append(f"val loss {values['val_loss']:.4f}")
    remaining = tracker.remaining_seconds
    if values["step"] >= values["max_steps"]:
        parts.append("trained, evaluating")
    elif remaining is not None:
        parts.append(f"{duration(remaining)} left")
    return f"  {label:<{width}}  " + "  ".join(parts)


def total_line(finished: int, total: int, waiting: int, forecast: float | None) -> str:
    """The whole comparison."""
    line = f"{finished} of {total} runs finished, {waiting} waiting"
    if forecast is None:
        return line + "; no forecast yet"
    at = time.strftime("%H:%M", time.localtime(time.time() + forecast))
    return line + f"; all trained in about {duration(forecast)} (at {at})"


def duration(seconds: float) -> str:
    """``48 s``, ``3 min 20 s``, ``2 h 05 min``."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
