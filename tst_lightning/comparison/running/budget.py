"""A budget of wall time: which runs are started, and the one question that a user is asked about it."""

import contextlib
import math
import os
import select
import sys
import time
from collections.abc import Callable

from tst_lightning.comparison.running.display import duration
from tst_lightning.errors import UserError

_ANSWERS = {"y": "these", "a": "all", "n": "stop"}
_WORTH_SAYING = 0.02
"""Share of the budget by which a forecast must exceed it to be more than noise."""


class Budget:
    """Wall time of one call of `compare`, data preparation left out.

    Runs are started by priority as long as their forecast end lies within the budget; none is ended by it. As
    soon as a forecast says that not everything fits, it is said so, in a terminal with a question. Until that
    is answered, what fits is run.

    Args:
        hours: The budget; none by default.
        read_line: Gives the next line that the user has typed, or None; without it nobody can be asked. By
            default that is the terminal, if there is one.

    Raises:
        UserError: ``hours`` is not above 0.
    """

    def __init__(self, hours: float | None = None, read_line: Callable[[], str | None] | None = None) -> None:
        if hours is not None and not 0 < hours < math.inf:
            raise UserError(f"budget_hours is {hours}: give a number above 0, or leave it out for no budget")
        self._seconds = math.inf if hours is None else hours * 3600
        self._read_line = read_line or terminal_lines()
        self._started: float | None = None
        self._said = False
        self._said_overshoot = False
        self._answers: dict[str, str] = {}
        self._all = hours is None
        self.stopped = False
        """The user wants nothing more to be run, and what is running to end."""

    def start(self) -> None:
        """The time begins to count."""
        self._started = time.monotonic()

    @property
    def left_seconds(self) -> float:
        """What is left, below zero once it is overdrawn; infinite without a budget or if all runs are wanted."""
        if self._all or self._started is None:
            return math.inf
        return self._seconds - (time.monotonic() - self._started)

    @property
    def is_asking(self) -> bool:
        """A question has not been answered."""
        return bool(self._answers)

    def is_tight(self, forecast_seconds: float) -> bool:
        """Whether what ends so many seconds from now ends too late."""
        return forecast_seconds > self.left_seconds

    def announce(self, runs: int, forecast_seconds: float, fitting: int, are_first: bool) -> str | None:
        """What to tell the user, the first time that not everything fits.

        Args:
            runs: Runs that are not finished.
            forecast_seconds: How long all of them take.
            fitting: How many of them end within the budget, those at work included.
            are_first: Those are the first ones of the queue.
        """
        if self._said or not self.is_tight(forecast_seconds):
            return None
        self._said = True
        which = f"the first {fitting}" if are_first else f"{fitting} of them"
        text = (
            f"{runs} {'run' if runs == 1 else 'runs'}, about {duration(forecast_seconds)}; "
            f"the budget of {duration(self._seconds)} is enough for {which if fitting else 'none'}: "
        )
        if self._read_line is None:
            return text + ("only these are run" if fitting else "nothing is started")
        self._answers = {key: what for key, what in _ANSWERS.items() if fitting or key != "y"}
        return text + ("run these? " if fitting else "run all? ") + self._choices()

    def overshoot(self, running_seconds: float) -> str | None:
        """What to tell the user, once, if the runs at work end so many seconds from now and that is too late."""
        too_long = running_seconds - self.left_seconds
        if self._said_overshoot or too_long <= _WORTH_SAYING * self._seconds:
            return None
        self._said_overshoot = True
        return f"the runs at work are not ended by the budget: they end about {duration(too_long)} after it"

    def hear(self) -> str | None:
        """Take the answer if there is one; returns what to reply."""
        line = self._read_line() if self._answers else None
        if line is None:
            return None
        answer = line.strip().lower()[:1]
        if answer not in self._answers:
            return f"please answer {self._choices()}"
        self._answers = {}
        self._all = answer == "a"
        self.stopped = answer == "n"
        return {"y": "these are run", "a": "all are run", "n": "stopping"}[answer]

    def _choices(self) -> str:
        return "[" + " / ".join(f"{key} = {what}" for key, what in self._answers.items()) + "]"


def terminal_lines() -> Callable[[], str | None] | None:
    """A function that gives the line typed since, or None; None itself where nobody can type."""
    if sys.stdin is None or not sys.stdin.isatty() or not sys.stderr.isatty() or not hasattr(os, "tcgetpgrp"):
        return None

    def read_line() -> str | None:
        with contextlib.suppress(OSError, ValueError):
            # Reading from the background would stop the whole comparison.
            in_foreground = os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
            if in_foreground and select.select([sys.stdin], [], [], 0)[0]:
                return sys.stdin.readline() or None
        return None

    return read_line
