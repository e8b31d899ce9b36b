"""Tasks run in any order, and their results are accepted in reading order: limits and errors as of one reader."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

from tst_lightning.data.preparing.amounts import OnAdvance
from tst_lightning.data.preparing.engines import Engine
from tst_lightning.data.preparing.limits import NO_LIMITS, Limits
from tst_lightning.data.preparing.task import Job, Report, Task, run_task
from tst_lightning.errors import UserError


class InOrder:
    """Accepts outcomes in the order of the tasks and keeps account of what is left of the limits.

    A task runs under what was left when it started, which may be more than is left when its turn comes. If it
    has taken more than that, or failed where it should not have read, it is run again with just what is left;
    this is then the last one.

    Attributes:
        accepted: Reports in reading order.
        again: The task that is to be run again, if there is one.
    """

    def __init__(self, tasks: list[Task], finished: dict[int, Report], limits: Limits) -> None:
        """
        Args:
            tasks: All of them, in reading order.
            finished: Reports of an earlier run with the same options, by number.
            limits: Over all tasks that are not of the validation source.
        """
        self.accepted: list[Report] = []
        self.again: Task | None = None
        self._tasks = tasks
        self._left = limits
        self._outcomes = {number: (report.limits, report) for number, report in finished.items()}
        self._ended = False

    def draw(self) -> Iterator[Task]:
        """The tasks that are to be started, each with what is left at that moment."""
        for task in self._tasks:
            if self._ended or any(isinstance(outcome, UserError) for _, outcome in self._outcomes.values()):
                return
            if task.number not in self._outcomes:
                yield replace(task, limits=self._limits_of(task))

    def settle(self, task: Task | None = None, outcome: Report | UserError | None = None) -> bool:
        """Take in an outcome; returns whether no other one is needed.

        Raises:
            UserError: the outcome of the first task, in reading order, that has failed.
        """
        if task is not None:
            self._outcomes[task.number] = (task.limits, outcome)
        while not self._ended and len(self.accepted) < len(self._tasks):
            next_task = self._tasks[len(self.accepted)]
            if next_task.number not in self._outcomes:
                return False
            self._accept(next_task, *self._outcomes[next_task.number])
        return True

    def _accept(self, task: Task, its_limits: Limits, outcome: Report | UserError) -> None:
        limits = self._limits_of(task)
        failed = isinstance(outcome, UserError)
        if failed and its_limits == limits:
            raise outcome
        if failed or not limits.allow(outcome.amounts):
            self.again = replace(task, limits=limits)
            self._ended = True
            return
        self.accepted.append(outcome)
        if not task.is_validation:
            self._left = limits.less(outcome.amounts)
            self._ended = outcome.ended

    def _limits_of(self, task: Task) -> Limits:
        return NO_LIMITS if task.is_validation else self._left


def run_in_order(
    job: Job,
    tasks: list[Task],
    finished: dict[int, Report],
    limits: Limits,
    engine: Engine,
    on_advance: OnAdvance,
    on_finish: Callable[[], None],
) -> list[Report]:
    """Run the tasks that are not finished; returns the reports of those whose shards make up the corpus.

    Args:
        on_finish: Called when a task has finished.

    Raises:
        UserError: a part cannot be read, or a worker has died. What has finished stays.
    """
    order = InOrder(tasks, finished, limits)
    if not order.settle():
        with closing(engine.run(partial(run_task, job), order.draw(), on_advance)) as outcomes:
            for task, outcome in outcomes:
                if isinstance(outcome, Report):
                    on_advance(outcome.advance)
                    on_finish()
                if order.settle(task, outcome):
                    break
    if order.again is not None:
        order.accepted.append(run_task(job, order.again, on_advance))
        on_advance(order.accepted[-1].advance)
    return order.accepted
