"""The runs that still need something, by priority, and which of them can start now."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tst_lightning.comparison.design.experiment import Run
from tst_lightning.comparison.design.halving import Halving
from tst_lightning.comparison.design.scoring import EvaluationSpec, is_evaluated
from tst_lightning.comparison.running import folder as run_files
from tst_lightning.errors import UserError
from tst_lightning.modeling.publishing import is_there


@dataclass(frozen=True)
class Failure:
    """A run that did not come to its end, or whose evaluation did not."""

    run: Run
    reason: str
    """What happened to which run."""
    log: Path | None = None
    """What it printed; None if it was not started."""
    in_training: bool = True


class Waiting:
    """A queue in which a run that cannot start yet is passed over.

    A branch cannot before its trunk has left the checkpoint that it starts from, and an arm cannot before
    successive halving has let it. A run stands here until it is trained, and again until it is evaluated.

    Args:
        runs: All runs of the comparison, by priority. With successive halving, shorter ones come first.
        evaluation: Downstream tasks for trained runs.
        halving: Decides which arms go on.

    Raises:
        UserError: a branch can never start, because a checkpoint is gone.
    """

    def __init__(
        self, runs: Sequence[Run], evaluation: EvaluationSpec | None = None, halving: Halving | None = None
    ) -> None:
        self._all = list(runs)
        self._by_folder = {run.folder: run for run in runs}
        self._evaluation = evaluation
        self._halving = halving
        self.runs = [run for run in runs if self.needs_training(run) or self.needs_evaluation(run)]
        if halving is not None:
            self.runs.sort(key=lambda run: halving.stage(run.arm))
        self.failures: list[Failure] = []
        self._drop()
        problems = [f"{run.label}: {lost}" for run in self.runs if (lost := self._lost_checkpoint(run))]
        if problems:
            raise UserError("\n  ".join(problems))

    def needs_training(self, run: Run) -> bool:
        return not run_files.is_finished(run.folder)

    def needs_evaluation(self, run: Run) -> bool:
        """Once it is trained."""
        wanted = self._evaluation is not None and self._evaluation.wants(run.arm, run.method)
        return wanted and not is_evaluated(self._evaluation, run.folder)

    def next(self) -> Run | None:
        """The first that can start. A branch whose trunk is lost leaves the queue as a failure."""
        for run in list(self.runs):
            if self._halving is not None and self._halving.may_run(run.arm) is None and self.needs_training(run):
                continue
            if self.needs_training(run) and not has_start(run):
                self._give_up_if_lost(run)
                continue
            return run
        return None

    def trained(self, run: Run) -> None:
        """Its evaluation, if there is to be one, comes next."""
        if self.needs_evaluation(run):
            self.runs.insert(0, run)

    def decide(self) -> list[str]:
        """Let successive halving decide what it can; returns a sentence for each decision."""
        if self._halving is None:
            return []
        failed = {failure.run.folder for failure in self.failures if failure.in_training}
        said = self._halving.decide(self._all, lambda run: run.folder in failed or not self.needs_training(run))
        self._drop()
        return said

    def expected(self) -> list[Run]:
        """Those of the queue that will be run, as far as that can be known."""
        if self._halving is None:
            return self.runs
        arms = self._halving.expected()
        return [run for run in self.runs if run.arm in arms or not self.needs_training(run)]

    def trunk(self, run: Run) -> Run | None:
        """The run that a branch starts from, if it is one of this comparison's."""
        return None if run.starts_from is None else self._by_folder.get(run.starts_from.parent.parent)

    def _drop(self) -> None:
        if self._halving is not None:
            self.runs = [run for run in self.runs if self._halving.may_run(run.arm) is not False]

    def _give_up_if_lost(self, run: Run) -> None:
        trunk = self.trunk(run)
        failed = [failure for failure in self.failures if failure.in_training and failure.run == trunk]
        reason = f"not started: its trunk {trunk.label} failed" if failed else self._lost_checkpoint(run)
        if reason:
            self.runs.remove(run)
            self.failures.append(Failure(run, f"{run.label}: {reason}"))

    def _lost_checkpoint(self, run: Run) -> str:
        """Why a branch can never start; empty if it can."""
        if not self.needs_training(run) or has_start(run):
            return ""
        trunk = self.trunk(run)
        if trunk is None:
            return (
                f"not started: it goes on from '{run.starts_from}', which is not there, and the run that makes it is "
                "not part of this comparison: select that run too"
            )
        if self.needs_training(trunk):
            return ""
        return (
            f"not started: it goes on from '{run.starts_from}', which is not there although {trunk.label} has "
            "finished (it is gone, or this length was added after that): put the file back, or delete "
            f"'{trunk.folder}' to train that run again"
        )


def has_start(run: Run) -> bool:
    """Whether the checkpoint that a run starts from is there; a run that has one of its own needs no other."""
    own = run.folder / run_files.LAST_CHECKPOINT
    return run.starts_from is None or is_there(run.starts_from) or is_there(own)
