"""How long the runs at work and those that wait still take, together."""

import math
from collections.abc import Mapping, Sequence

from tst_lightning.comparison.design.arms import Arm
from tst_lightning.comparison.design.experiment import Run
from tst_lightning.comparison.design.scoring import evaluation_seconds
from tst_lightning.comparison.running.forecast import Estimates, Forecast, Measured, Task, measured_earlier, play
from tst_lightning.comparison.running.waiting import Waiting, has_start
from tst_lightning.comparison.running.work import Evaluation, Training


class Outlook:
    """Measures runs and plays the queue forward.

    Args:
        waiting: The queue.
        runs: All runs; those that are finished tell how long others take.
        arms: What the runs' arms are; each is of its own kind if this is left out.
        slots: Runs at a time.
    """

    def __init__(self, waiting: Waiting, runs: Sequence[Run], arms: Mapping[str, Arm] | None, slots: int) -> None:
        self._waiting = waiting
        self._slots = slots
        self._estimates = Estimates({name: (arm.variant, arm.method) for name, arm in (arms or {}).items()})
        for run in runs:
            if not waiting.needs_training(run):
                self.learn(run, measured_earlier(run.folder, run.steps))
            seconds = evaluation_seconds(run.folder)
            if seconds is not None:
                self.learn_evaluation(run, seconds)

    def learn(self, run: Run, measured: Measured) -> None:
        """A run has finished."""
        self._estimates.learn(run.arm, run.folder, measured)

    def learn_evaluation(self, run: Run, seconds: float) -> None:
        """A run has been evaluated."""
        self._estimates.learn_evaluation(run.arm, run.folder, seconds)

    def watch(self, training: Training) -> None:
        """Measure a run at work."""
        tracker, run = training.tracker, training.run
        tracker.refresh()
        if tracker.values:
            steps = run.steps or tracker.values["max_steps"]
            measured = Measured(tracker.seconds_per_step, tracker.startup_seconds, steps, finished=False)
            self._estimates.learn(run.arm, run.folder, measured)

    def seconds(self, run: Run) -> float | None:
        """What a waiting run will take; None as long as nothing is known."""
        evaluation = self._estimates.evaluation_seconds(run.arm) if self._waiting.needs_evaluation(run) else 0.0
        if not self._waiting.needs_training(run):
            return evaluation
        training = self._estimates.run_seconds(run.arm, run.steps)
        return None if training is None else training + evaluation

    def remaining_seconds(self, work: Training | Evaluation) -> float | None:
        """What a run at work still takes, its evaluation included; None as long as nothing is known."""
        run, elapsed = work.run, work.child.elapsed_seconds
        if isinstance(work, Evaluation):
            return max(0.0, self._estimates.evaluation_seconds(run.arm) - elapsed)
        evaluation = self._estimates.evaluation_seconds(run.arm) if self._waiting.needs_evaluation(run) else 0.0
        values = work.tracker.values
        if not values:
            whole = self._estimates.run_seconds(run.arm, run.steps)
            return None if whole is None else max(0.0, whole - elapsed) + evaluation
        steps_left = max(0, values["max_steps"] - values["step"])
        pace = self._pace(work)
        if steps_left and pace is None:
            return None
        ending = max(0.0, self._estimates.overhead_seconds(run.arm) - work.tracker.startup_seconds)
        return (steps_left * pace if steps_left else 0.0) + ending + evaluation

    def forecast(self, working: Sequence[Training | Evaluation], until: float = math.inf) -> Forecast | None:
        """The queue played forward; None as long as nothing is known."""
        running = [self.remaining_seconds(work) for work in working]
        waiting = self._waiting.expected()
        seconds = [self.seconds(run) for run in waiting]
        if None in running or None in seconds:
            return None
        names = {run.folder for run in waiting}
        at_work = {work.run.folder: work for work in working if isinstance(work, Training)}
        tasks = []
        for run, duration in zip(waiting, seconds, strict=True):
            trunk = None if has_start(run) or not self._waiting.needs_training(run) else self._waiting.trunk(run)
            after, ready = None, 0.0
            if trunk is not None and trunk.folder in at_work:
                ready = self._seconds_to_branch(run, at_work[trunk.folder])
            elif trunk is not None and trunk.folder in names:
                pace = self._estimates.seconds_per_step(trunk.arm) or 0.0
                after, ready = str(trunk.folder), self._estimates.overhead_seconds(trunk.arm) + _branch_step(run) * pace
            tasks.append(Task(str(run.folder), duration, after, ready))
        return play(running, tasks, self._slots, until)

    def _pace(self, training: Training) -> float | None:
        return training.tracker.seconds_per_step or self._estimates.seconds_per_step(training.run.arm)

    def _seconds_to_branch(self, run: Run, trunk: Training) -> float:
        pace = self._pace(trunk) or 0.0
        return max(0, _branch_step(run) - trunk.tracker.values.get("step", 0)) * pace


def _branch_step(run: Run) -> int:
    """The step of the checkpoint that a branch starts from, by its name."""
    step = run.starts_from.stem.removeprefix("step=")
    return int(step) if step.isdigit() else 0
