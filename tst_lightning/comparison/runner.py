"""Runs that are not finished, some at a time: skipped, resumed, watched, and ended together."""

import contextlib
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TextIO

from tst_lightning.comparison import folder as run_files
from tst_lightning.comparison.display import Display, duration, run_line, total_line
from tst_lightning.comparison.experiment import Run
from tst_lightning.comparison.forecast import Tracker, forecast_seconds
from tst_lightning.comparison.processes import FIT_PROGRAM, Child, end_all
from tst_lightning.comparison.provenance import provenance

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 30.0
"""How long an interrupted `fit` may take to end by itself."""


class Interrupted(BaseException):
    """A signal asked the comparison to stop; its children have been ended."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class Runner:
    """Works through a queue of runs.

    Args:
        runs: All runs of the experiment, in the order in which to start them.
        jobs: Runs at a time.
        threads_per_job: CPU threads of each.
        program: What runs ``fit``; the run's arguments are appended.
        stream: Where progress is shown; standard error by default.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        jobs: int,
        threads_per_job: int,
        program: Sequence[str] = FIT_PROGRAM,
        stream: TextIO | None = None,
    ) -> None:
        self._runs = list(runs)
        self._jobs = jobs
        self._threads = threads_per_job
        self._program = program
        self._display = Display(stream or sys.stderr)
        self._waiting = deque(run for run in runs if not run_files.is_finished(run.folder))
        self._working: dict[Child, Tracker] = {}
        self._seconds: list[float] = []
        self._failed: list[Run] = []
        self._origin = provenance() if self._waiting else {}

    def run(self) -> list[Run]:
        """Run until nothing is left to do; a failed run does not stop the others.

        Returns:
            The runs that failed.

        Raises:
            Interrupted: SIGINT, SIGTERM or SIGHUP came.
        """
        skipped = len(self._runs) - len(self._waiting)
        if skipped:
            self._display.note(f"{skipped} of {len(self._runs)} runs are finished already")
        with _signals_raise():
            try:
                while self._waiting or self._working:
                    while self._waiting and len(self._working) < self._jobs:
                        self._start(self._waiting.popleft())
                    self._collect()
                    self._show()
                    time.sleep(_POLL_SECONDS)
            finally:
                self._display.clear()
                if self._working:
                    end_all(list(self._working), _PATIENCE_SECONDS)
        return self._failed

    def _start(self, run: Run) -> None:
        child = Child(run, self._threads, self._program)
        self._working[child] = Tracker(run.folder, child.started_time)
        how = "resumed from its last checkpoint" if child.resumed else "started"
        self._display.note(f"{run.label}: {how}, log in {run.folder / run_files.LOG_FILE}")

    def _collect(self) -> None:
        for child in list(self._working):
            code = child.poll()
            if code is None:
                continue
            del self._working[child]
            if code == 0:
                run_files.finish(child.run, child.attempts, self._origin, self._threads)
                if not child.resumed:
                    self._seconds.append(child.elapsed_seconds)
                self._display.note(f"{child.run.label}: finished in {duration(child.elapsed_seconds)}")
            else:
                self._failed.append(child.run)
                self._display.note(f"{child.run.label}: failed with exit code {code}, the others go on")

    def _show(self) -> None:
        left: list[float | None] = []
        whole = list(self._seconds)
        for child, tracker in self._working.items():
            tracker.refresh()
            remaining = tracker.remaining_seconds
            left.append(remaining)
            if remaining is not None and not child.resumed:
                whole.append(child.elapsed_seconds + remaining)
            elif remaining is not None and tracker.whole_seconds is not None:
                whole.append(tracker.whole_seconds)
        forecast = forecast_seconds(left, len(self._waiting), self._jobs, whole)
        width = max((len(child.run.label) for child in self._working), default=0)
        lines = [
            run_line(child.run.label, width, tracker, child.elapsed_seconds) for child, tracker in self._working.items()
        ]
        done = len(self._runs) - len(self._working) - len(self._waiting) - len(self._failed)
        lines.append(total_line(done, len(self._runs), len(self._waiting), forecast))
        self._display.show(lines, forecast_known=forecast is not None)


def failure_message(failed: Sequence[Run]) -> str:
    """What a user needs to know about failed runs: the end of each log and what to do."""
    parts = [
        f"{run.label} failed; the end of {run.folder / run_files.LOG_FILE}:\n"
        + "\n".join("    " + line for line in run_files.log_tail(run.folder).splitlines())
        for run in failed
    ]
    return "\n".join(parts) + (
        "\nmend the cause and give the same command again: finished runs are kept, "
        "interrupted ones go on from their last checkpoint"
    )


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Turn the signals that end a program into ``Interrupted``, so that ``finally`` is reached."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signal_number: int, _frame: object) -> None:
        raise Interrupted(signal_number)

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
