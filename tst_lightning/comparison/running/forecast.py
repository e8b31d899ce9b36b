"""How long a comparison still takes, from what its runs report: the queue played forward."""

import heapq
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tst_lightning.comparison.running.folder import FINISHED_FILE, PROGRESS_FILE
from tst_lightning.files import read_json

_WINDOW_SECONDS = 300.0
"""Speed is measured over this much of the past: long enough to hold pauses for validation."""


class Tracker:
    """Follows the ``progress.json`` of one attempt of one run."""

    def __init__(self, folder: Path, started_time: float) -> None:
        self._path = folder / PROGRESS_FILE
        self._started_time = started_time
        self._first: tuple[float, int] | None = None
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
        sample = (written, values["step"])
        if self._first is None:
            self._first = sample
        elif len(self._samples) == 2 and self._samples[0] == self._first:
            self._samples.popleft()  # the first steps take longer than the others and tell nothing about them
        self._samples.append(sample)
        while written - self._samples[0][0] > _WINDOW_SECONDS and len(self._samples) > 2:
            self._samples.popleft()

    @property
    def seconds_per_step(self) -> float | None:
        """Wall time, pauses for validation included; None until it can be told."""
        if not self._samples or self._samples[0] == self._first:
            return None
        (first_time, first_step), (last_time, last_step) = self._samples[0], self._samples[-1]
        return (last_time - first_time) / (last_step - first_step) if last_step > first_step else None

    @property
    def startup_seconds(self) -> float | None:
        """From the start of the process to that of training; None before."""
        return None if self._first is None else self._first[0] - self._started_time

    def measured(self, wall_seconds: float) -> dict[str, float]:
        """What the attempt, which took this long and is over, has taught; empty if it trained too little."""
        if not self._samples or self._samples[-1][1] == self._first[1]:
            return {}
        seconds = self._samples[-1][0] - self._first[0]
        return {
            "seconds_per_step": seconds / (self._samples[-1][1] - self._first[1]),
            "overhead_seconds": max(0.0, wall_seconds - seconds),
        }


@dataclass(frozen=True)
class Measured:
    """Durations of one run."""

    seconds_per_step: float | None = None
    """Of wall time, validation included."""
    overhead_seconds: float | None = None
    """All else: start-up, and what comes after the last step."""
    steps: int | None = None
    """Steps that the run trains itself."""
    whole_seconds: float | None = None
    """For runs that report no steps."""
    finished: bool = True


def measured_earlier(folder: Path, steps: int | None) -> Measured:
    """What a finished run tells; ``steps`` is how many it trained itself, if that is known."""
    finished = read_json(folder / FINISHED_FILE) or {}
    progress = read_json(folder / PROGRESS_FILE) or {}
    wall = finished.get("wall_seconds")
    steps = steps or progress.get("max_steps")
    pace, overhead = finished.get("seconds_per_step"), finished.get("overhead_seconds")
    if pace is None and progress.get("train_seconds") and progress.get("step"):
        # Both count from the very first step, over all attempts and over a trunk: their ratio holds for a branch too.
        pace = progress["train_seconds"] / progress["step"]
        overhead = max(0.0, wall - pace * steps) if wall is not None else None
    return Measured(pace, overhead, steps, wall)


class Estimates:
    """Durations of runs, from the measured ones that are most like them.

    Args:
        kinds: Name of an arm -> (variant, method). Runs of the same method of a variant count first, then those
            of the variant, then all.
    """

    def __init__(self, kinds: Mapping[str, tuple[str, str]]) -> None:
        self._kinds = kinds
        self._measured: dict[Path, tuple[str, Measured]] = {}
        self._evaluations: dict[Path, tuple[str, float]] = {}

    def learn(self, arm: str, folder: Path, measured: Measured) -> None:
        """Take note of a run; what was known of it before is replaced."""
        self._measured[folder] = (arm, measured)

    def learn_evaluation(self, arm: str, folder: Path, seconds: float) -> None:
        """Take note of how long the downstream evaluation of a run took."""
        self._evaluations[folder] = (arm, seconds)

    def steps(self, arm: str, planned: int | None) -> float | None:
        """Steps that a run of the arm trains itself."""
        if planned is not None:
            return planned
        same = [one.steps for name, one in self._measured.values() if name == arm and one.steps]
        return same[0] if same else self._mean(arm, "steps")

    def seconds_per_step(self, arm: str) -> float | None:
        return self._mean(arm, "seconds_per_step")

    def overhead_seconds(self, arm: str) -> float:
        """Of finished runs; as long as there are none, the start-up of those that train."""
        return self._mean(arm, "overhead_seconds", finished=True) or self._mean(arm, "overhead_seconds") or 0.0

    def run_seconds(self, arm: str, planned: int | None) -> float | None:
        """Whole duration of a run; None as long as nothing is known."""
        steps, pace = self.steps(arm, planned), self.seconds_per_step(arm)
        if steps is None or pace is None:
            return self._mean(arm, "whole_seconds")
        return steps * pace + self.overhead_seconds(arm)

    def evaluation_seconds(self, arm: str) -> float:
        """Of one run; zero as long as none was evaluated."""
        return self._nearest_mean(arm, list(self._evaluations.values())) or 0.0

    def _mean(self, arm: str, quantity: str, finished: bool = False) -> float | None:
        values = [
            (name, getattr(one, quantity))
            for name, one in self._measured.values()
            if getattr(one, quantity) is not None and (one.finished or not finished)
        ]
        return self._nearest_mean(arm, values)

    def _nearest_mean(self, arm: str, values: Sequence[tuple[str, float]]) -> float | None:
        variant, method = self._kinds.get(arm, ("", arm))
        kinds = [(self._kinds.get(name, ("", name)), value) for name, value in values]
        for near in (
            [value for kind, value in kinds if kind == (variant, method)],
            [value for kind, value in kinds if kind[0] == variant],
            [value for _, value in kinds],
        ):
            if near:
                return sum(near) / len(near)
        return None


@dataclass(frozen=True)
class Task:
    """A run that waits."""

    name: str
    seconds: float
    after: str | None = None
    """Name of the waiting run whose checkpoint it starts from."""
    ready_seconds: float = 0.0
    """When that checkpoint exists: from the start of ``after``, or from now without one."""


@dataclass(frozen=True)
class Forecast:
    """Seconds from now at which runs end."""

    ends: dict[str, float] = field(default_factory=dict)
    """Of the waiting runs that are started."""
    last: float = 0.0
    """Of the last one, the running ones included."""


def play(running: Sequence[float], waiting: Sequence[Task], slots: int, until: float = math.inf) -> Forecast:
    """Play the queue forward: whenever there is room, the first run that can start does.

    Args:
        running: Seconds left of each running run.
        waiting: Runs that have not started, by priority.
        slots: Runs at a time.
        until: The first run that would end later than this, in seconds from now, ends the starting.
    """
    free = [*running, *[0.0] * (slots - len(running))]
    heapq.heapify(free)
    pending = list(waiting)
    ready = {task.name: task.ready_seconds for task in pending if task.after is None}
    ends: dict[str, float] = {}
    while pending and free:
        now = heapq.heappop(free)
        able = [task for task in pending if ready.get(task.name, math.inf) <= now]
        if not able:
            later = [ready[task.name] for task in pending if task.name in ready]
            if not later:
                break  # what is left starts from runs that never come
            heapq.heappush(free, min(later))
            continue
        task = able[0]
        if now + task.seconds > until:
            break
        pending.remove(task)
        ends[task.name] = now + task.seconds
        heapq.heappush(free, ends[task.name])
        ready |= {one.name: now + one.ready_seconds for one in pending if one.after == task.name}
    return Forecast(ends, max([*running, *ends.values()], default=0.0))
