"""What a run needs done, each as a child process: its training, then its downstream evaluation."""

import shlex
from collections.abc import Sequence
from typing import Any

from tst_lightning.comparison.design.experiment import CHECKPOINT_OPTION, PROGRAM, Run
from tst_lightning.comparison.design.scoring import EVALUATION_LOG, EvaluationSpec, finish_evaluation
from tst_lightning.comparison.running import folder as run_files
from tst_lightning.comparison.running.forecast import Measured, Tracker, measured_earlier
from tst_lightning.comparison.running.processes import Child
from tst_lightning.modeling.publishing import recover

_SAVE_EVERY_SECONDS = 10.0


class Training:
    """A running attempt of a run's `fit`; its output goes to the run's ``log.txt``.

    An interrupted run goes on from its own last checkpoint, even one that began from another run's. The path
    is given in full, because ``last`` alone is looked for in the default folder, whatever folder the run's own
    checkpoints are in.
    """

    def __init__(self, run: Run, threads: int, program: Sequence[str]) -> None:
        self.run = run
        self.log = run.folder / run_files.LOG_FILE
        self._threads = threads
        own_checkpoint = run.folder / run_files.LAST_CHECKPOINT
        recover(own_checkpoint)
        self.resumed = own_checkpoint.exists()
        run.folder.mkdir(parents=True, exist_ok=True)
        run_files.claim(run)
        self._attempts = run_files.Attempts(run.folder)
        self._attempts.begin()
        self._saved = 0.0
        arguments = list(run.arguments)
        if self.resumed:
            arguments = [one for one in arguments if not one.startswith(f"{CHECKPOINT_OPTION}=")]
            arguments.append(f"{CHECKPOINT_OPTION}={own_checkpoint}")
        heading = f"attempt {self._attempts.count}, {run_files.now_utc()}"
        self.child = Child([*program, *arguments], self.log, heading, threads)
        self.tracker = Tracker(run.folder, self.child.started_time)

    @property
    def label(self) -> str:
        return self.run.label

    @property
    def how(self) -> str:
        if self.resumed:
            return "resumed from its last checkpoint"
        return "started" if self.run.starts_from is None else f"started from {self.run.starts_from}"

    def poll(self) -> int | None:
        """Exit code, or None while it runs; keeps the attempt's time on disk."""
        code = self.child.poll()
        elapsed = self.child.elapsed_seconds
        if code is not None or elapsed - self._saved >= _SAVE_EVERY_SECONDS:
            self._saved = elapsed
            self._attempts.update(elapsed)
        return code

    def finish(self, origin: dict[str, Any]) -> Measured:
        """The child has ended well: the run is complete. Returns what it taught about durations."""
        self.tracker.refresh()
        measured = self.tracker.measured(self.child.elapsed_seconds)
        run_files.finish(self.run, self._attempts, origin | measured, self._threads)
        return measured_earlier(self.run.folder, self.run.steps)


class Evaluation:
    """The running downstream evaluation of a trained run; its output goes to the run's ``evaluation.log``."""

    def __init__(self, run: Run, spec: EvaluationSpec, threads: int, program: Sequence[str]) -> None:
        self.run = run
        self.log = run.folder / EVALUATION_LOG
        self._arguments = spec.arguments(run.folder)
        heading = f"{run_files.now_utc()}: {shlex.join([PROGRAM, *self._arguments])}"
        self.child = Child([*program, *self._arguments], self.log, heading, threads)

    @property
    def label(self) -> str:
        return f"evaluation of {self.run.label}"

    @property
    def how(self) -> str:
        return "started"

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        return self.child.poll()

    def finish(self) -> float:
        """The child has ended well: the evaluation is complete. Returns its seconds."""
        seconds = self.child.elapsed_seconds
        finish_evaluation(self.run.folder, self._arguments, seconds)
        return seconds
