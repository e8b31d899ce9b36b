"""Runs that are not finished, some at a time: skipped, resumed, watched, and ended together."""

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from tst_lightning.comparison.design.arms import Arm
from tst_lightning.comparison.design.experiment import Run
from tst_lightning.comparison.design.halving import Halving
from tst_lightning.comparison.design.scoring import EvaluationSpec
from tst_lightning.comparison.running.budget import Budget
from tst_lightning.comparison.running.display import Display, duration, evaluation_line, run_line, total_line
from tst_lightning.comparison.running.folder import is_finished, log_tail
from tst_lightning.comparison.running.outlook import Outlook
from tst_lightning.comparison.running.processes import FIT_PROGRAM, end_all
from tst_lightning.comparison.running.provenance import provenance
from tst_lightning.comparison.running.waiting import Failure, Waiting
from tst_lightning.comparison.running.work import Evaluation, Training

_POLL_SECONDS = 0.2
_LOOK_SECONDS = 1.0
"""How often the queue is played forward; also whenever a run ends."""
_PATIENCE_SECONDS = 120.0
"""How long an interrupted `fit` may take to end by itself: it trains to the end of a step and writes a checkpoint."""


class Interrupted(BaseException):
    """A signal asked the comparison to stop; its children have been ended."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


@dataclass(frozen=True)
class Outcome:
    """How a call ended."""

    failures: list[Failure]
    left: list[Run]
    """Runs that the budget, or the user, left for another call."""


class Runner:
    """Works through the runs of a comparison.

    Args:
        runs: All of them, by priority. The first that can start does.
        max_arms_at_once: Runs at a time.
        threads_per_arm: CPU threads of each.
        program: What runs `fit` and `evaluate`; their arguments are appended.
        stream: Where progress is shown; standard error by default.
        arms: What the runs' arms are: runs of one method take alike.
        budget: Wall time for this call.
        halving: Decides which arms go on.
        evaluation: Downstream tasks for trained runs.

    Raises:
        UserError: a branch can never start, because a checkpoint is gone.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        max_arms_at_once: int,
        threads_per_arm: int,
        program: Sequence[str] = FIT_PROGRAM,
        stream: TextIO | None = None,
        *,
        arms: Mapping[str, Arm] | None = None,
        budget: Budget | None = None,
        halving: Halving | None = None,
        evaluation: EvaluationSpec | None = None,
    ) -> None:
        self._slots = max_arms_at_once
        self._threads = threads_per_arm
        self._program = program
        self._display = Display(stream or sys.stderr)
        self._budget = budget or Budget()
        self._evaluation = evaluation
        self._waiting = Waiting(runs, evaluation, halving)
        self._outlook = Outlook(self._waiting, runs, arms, max_arms_at_once)
        self._working: list[Training | Evaluation] = []
        self._done = sum(
            not self._waiting.needs_training(run) and not self._waiting.needs_evaluation(run) for run in runs
        )
        self._origin = provenance() if self._waiting.runs else {}
        self._begun = False
        self._looked = -math.inf

    def run(self) -> Outcome:
        """Run until nothing is left to do; a failed run does not stop the others.

        Raises:
            Interrupted: SIGINT, SIGTERM or SIGHUP came.
        """
        if self._done:
            self._display.note(f"{self._done} of {self._done + len(self._waiting.runs)} runs are finished already")
        self._budget.start()
        with _signals_raise():
            try:
                while self._go_on():
                    self._collect()
                    time.sleep(_POLL_SECONDS)
            finally:
                with contextlib.suppress(OSError):  # the terminal may be gone, the runs have to be ended
                    self._display.clear()
                if self._working:
                    self._end_working()
        return Outcome(self._waiting.failures, [*(work.run for work in self._working), *self._waiting.runs])

    def _end_working(self) -> None:
        number = "1 run" if len(self._working) == 1 else f"{len(self._working)} runs"
        try:
            with contextlib.suppress(OSError):
                self._display.note(
                    f"waiting up to {duration(_PATIENCE_SECONDS)} for {number} to save and end; a second signal or "
                    "Ctrl-C kills at once, and steps since the last checkpoint are trained again"
                )
            end_all([work.child for work in self._working], _PATIENCE_SECONDS)
        finally:  # a second signal may come at any moment
            for work in self._working:
                work.child.kill()
                work.poll()

    def _go_on(self) -> bool:
        """Start what can be, tell how far all is; returns whether there is anything to wait for."""
        at_work = self._start_what_can()
        if at_work or self._waiting.runs:
            self._look()
        if not at_work and not self._budget.stopped:
            at_work = self._start_what_can()  # an answer may have made room
        self._begun |= at_work
        # Where nothing fits into the budget, somebody who has just typed the command is still there to be asked.
        return not self._budget.stopped and (at_work or (self._budget.is_asking and not self._begun))

    def _start_what_can(self) -> bool:
        """Fill what is free, as far as the budget allows; returns whether anything is at work."""
        told = len(self._waiting.failures)
        self._fill()
        while said := self._waiting.decide():
            for sentence in said:
                self._display.note(sentence)
            self._fill()
        for failure in self._waiting.failures[told:]:
            self._display.note(failure.reason)
        return bool(self._working)

    def _fill(self) -> None:
        while len(self._working) < self._slots:
            run = self._waiting.next()
            if run is None or not self._fits(run):
                return
            self._waiting.runs.remove(run)
            self._start(run)

    def _fits(self, run: Run) -> bool:
        """Within the budget. A run that nothing is known of has to be started to know."""
        return self._budget.left_seconds > 0 and not self._budget.is_tight(self._outlook.seconds(run) or 0.0)

    def _start(self, run: Run) -> None:
        if self._waiting.needs_training(run):
            work = Training(run, self._threads, self._program)
        else:
            work = Evaluation(run, self._evaluation, self._threads, self._program)
        self._working.append(work)
        self._display.note(f"{work.label}: {work.how}, log in {work.log}")

    def _collect(self) -> None:
        for work in list(self._working):
            code = work.poll()
            if code is None:
                continue
            self._working.remove(work)
            self._looked = -math.inf
            if code != 0:
                self._display.note(f"{work.label}: failed with exit code {code}, the others go on")
                is_training = isinstance(work, Training)
                self._waiting.failures.append(Failure(work.run, f"{work.label} failed", work.log, is_training))
                continue
            if isinstance(work, Training):
                self._outlook.learn(work.run, work.finish(self._origin))
                self._waiting.trained(work.run)
            else:
                self._outlook.learn_evaluation(work.run, work.finish())
            self._done += work.run not in self._waiting.runs
            self._display.note(f"{work.label}: finished in {duration(work.child.elapsed_seconds)}")

    def _look(self) -> None:
        """See how far the runs are, tell it, and mind the budget."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for work in self._working:
            if isinstance(work, Training):
                self._outlook.watch(work)
        forecast = self._outlook.forecast(self._working)
        said = self._mind_budget(None if forecast is None else forecast.last)
        if said:
            self._display.note(said)
        reply = self._budget.hear()
        if reply:
            self._display.line_typed()
            self._display.note(reply)
        waiting, failed = len(self._waiting.expected()), len(self._waiting.failures)
        total = self._done + failed + len(self._working) + waiting
        lines = [
            *self._work_lines(),
            total_line(self._done, total, waiting, forecast and forecast.last, self._budget.left_seconds),
        ]
        self._display.show(lines, forecast_known=forecast is not None)

    def _mind_budget(self, forecast_seconds: float | None) -> str | None:
        if forecast_seconds is None or not self._budget.is_tight(forecast_seconds):
            return None
        waiting = [str(run.folder) for run in self._waiting.expected()]
        fitting = self._outlook.forecast(self._working, self._budget.left_seconds).ends
        said = self._budget.announce(
            len(self._working) + len(waiting),
            forecast_seconds,
            len(self._working) + len(fitting),
            are_first=set(fitting) == set(waiting[: len(fitting)]),
        )
        at_work = max((self._outlook.remaining_seconds(work) for work in self._working), default=0.0)
        return said or self._budget.overshoot(at_work)

    def _work_lines(self) -> list[str]:
        width = max((len(work.run.label) for work in self._working), default=0)
        lines = []
        for work in self._working:
            label, elapsed = work.run.label, work.child.elapsed_seconds
            if isinstance(work, Evaluation):
                lines.append(evaluation_line(label, width, elapsed))
            else:
                left = self._outlook.remaining_seconds(work)
                lines.append(run_line(label, width, work.tracker.values, elapsed, left))
        return lines


def failure_message(failures: Sequence[Failure]) -> str:
    """What a user needs to know about failed runs: the end of each log and what to do."""
    parts = []
    for failure in failures:
        if failure.log is None:
            parts.append(failure.reason)
        else:
            tail = "\n".join("    " + line for line in log_tail(failure.log).splitlines())
            parts.append(f"{failure.reason}; the end of {failure.log}:\n{tail}")
    return "\n".join(parts) + (
        "\nmend the cause and give the same command again: finished runs are kept, "
        "interrupted ones go on from their last checkpoint"
    )


def left_message(left: Sequence[Run], command: str) -> str:
    """Which runs are for another call, and the command for it."""
    number = "1 run was" if len(left) == 1 else f"{len(left)} runs were"
    names = "\n".join(f"    {'evaluation of ' * is_finished(run.folder)}{run.label}" for run in left)
    return f"{number} left out:\n{names}\nto go on with what is not finished, give the same command again:\n  {command}"


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
