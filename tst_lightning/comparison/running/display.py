"""Live lines in the terminal while runs are at work; plain lines now and then where there is no terminal."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

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

    def line_typed(self) -> None:
        """The user has typed a line below the live ones, which ended with a line break."""
        if self._lines_up:
            self._lines_up += 1

    def clear(self) -> None:
        """Take the live lines away."""
        if self._lines_up:
            self._stream.write(f"\x1b[{self._lines_up}F\x1b[J")
            self._lines_up = 0


def run_line(
    label: str, width: int, values: Mapping[str, Any], elapsed_seconds: float, left_seconds: float | None
) -> str:
    """One run at work: step, phase, speed, loss, time left.

    Args:
        label: Which run.
        width: Labels are padded to this.
        values: Its ``progress.json``; empty if it has not written one yet.
        elapsed_seconds: Since this attempt began.
        left_seconds: Until the run ends; None if that is not known.
    """
    if not values:
        return f"  {label:<{width}}  starting, {duration(elapsed_seconds)} so far"
    parts = [f"step {values['step']:,}/{values['max_steps']:,}"]
    if values.get("phase"):
        parts.append(str(values["phase"]))
    if values.get("positions_per_second"):
        parts.append(f"{values['positions_per_second'] / 1000:.1f}k positions/s")
    if values.get("val_loss") is not None:
        parts.append(f"val loss {values['val_loss']:.4f}")
    if values["step"] >= values["max_steps"]:
        parts.append("trained, ending")
    elif left_seconds is not None:
        parts.append(f"{duration(left_seconds)} left")
    return f"  {label:<{width}}  " + "  ".join(parts)


def evaluation_line(label: str, width: int, elapsed_seconds: float) -> str:
    """One run whose downstream tasks are at work."""
    return f"  {label:<{width}}  evaluating, {duration(elapsed_seconds)} so far"


def total_line(finished: int, total: int, waiting: int, forecast: float | None, budget_left: float = math.inf) -> str:
    """The whole comparison; ``budget_left`` is in seconds."""
    line = f"{finished} of {total} runs finished, {waiting} waiting"
    if forecast is None:
        line += "; no forecast yet"
    else:
        at = time.strftime("%H:%M", time.localtime(time.time() + forecast))
        line += f"; all done in about {duration(forecast)} (at {at})"
    if math.isfinite(budget_left):
        line += f"; {duration(budget_left)} of the budget left" if budget_left > 0 else "; the budget is used up"
    return line


def duration(seconds: float) -> str:
    """``48 s``, ``3 min 20 s``, ``2 h 05 min``."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
