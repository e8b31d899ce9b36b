"""How long a comparison still takes, from what its running runs report."""

import heapq
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tst_lightning.comparison.folder import PROGRESS_FILE
from tst_lightning.files import read_json

_WINDOW_SECONDS = 300.0
"""Speed is measured over this much of the past: long enough to hold pauses for validation."""

_FIRST_STEPS = 10
"""The first steps take longer than the others and tell nothing about them."""


class Tracker:
    """Follows the ``progress.json`` of one attempt of one run."""

    def __init__(self, folder: Path, started_time: float) -> None:
        self._path = folder / PROGRESS_FILE
        self._started_time = started_time
        self._samples: deque[tuple[float, int]] = deque()
        self.values: dict[str, Any] = {}
        """The last progress seen; empty until this attempt has written one."""

    def refresh(self) -> None:
        """Read the file if it is newer than what was read; one left by an earlier attempt does not count."""
        try:
            written = self._path.stat().st_mtime
        except OSError:
            return
        if written < self._started_time or (self._samples and written <= self._samples[-1][0]):
            return
        values = read_json(self._path)
        if values is None or "step" not in values or "max_steps" not in values:
            return
        self.values = values
        self._samples.append((written, values["step"]))
        while written - self._samples[0][0] > _WINDOW_SECONDS and len(self._samples) > 2:
            self._samples.popleft()

    @property
    def remaining_seconds(self) -> float | None:
        """Training time left of this run; None until it can be told."""
        if not self.values:
            return None
        steps_left = max(0, self.values["max_steps"] - self.values["step"])
        if steps_left == 0:
            return 0.0
        (first_time, first_step), (last_time, last_step) = self._samples[0], self._samples[-1]
        if last_step > first_step:
            return steps_left * (last_time - first_time) / (last_step - first_step)
        # One sample only: fall back to the mean over all attempts.
        whole = self.whole_seconds
        return None if whole is None else whole * steps_left / self.values["max_steps"]

    @property
    def whole_seconds(self) -> float | None:
        """Training time of the whole run at its mean speed over all attempts."""
        if self.values.get("step", 0) < _FIRST_STEPS or not self.values.get("train_seconds"):
            return None
        return self.values["train_seconds"] / self.values["step"] * self.values["max_steps"]


def forecast_seconds(
    running: Sequence[float | None], waiting: int, slots: int, run_seconds: Sequence[float]
) -> float | None:
    """Time until the last run ends: the queue played forward.

    Args:
        running: Seconds left of each running run; None where unknown.
        waiting: Runs that have not started.
        slots: Runs at a time.
        run_seconds: Whole durations of runs, finished or predicted; a waiting run takes their mean.

    Returns:
        None as long as nothing is known.
    """
    known = [seconds for seconds in running if seconds is not None]
    if (running and not known) or (waiting and not run_seconds):
        return None
    guess = sum(known) / len(known) if known else 0.0
    ends = [guess if seconds is None else seconds for seconds in running]
    ends += [0.0] * (slots - len(ends))
    heapq.heapify(ends)
    mean = sum(run_seconds) / len(run_seconds) if run_seconds else 0.0
    for _ in range(waiting):
        heapq.heapreplace(ends, ends[0] + mean)
    return max(ends, default=0.0)
