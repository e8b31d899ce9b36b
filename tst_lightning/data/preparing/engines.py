"""Runs tasks side by side: in this process, in processes of this machine, or on a Ray cluster.

An engine is a class with ``run(function, tasks, on_advance)``: it draws tasks one by one, whenever a worker is
free, and yields each with its outcome as it finishes: what ``function(task, on_advance)`` returned, or the
``UserError`` that it raised or that names the worker's death. Closing the iterator stops what is still running.
"""

import itertools
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from tst_lightning.data.preparing.amounts import Advance, OnAdvance
from tst_lightning.errors import UserError

Function = Callable[[Any, OnAdvance], Any]
Outcomes = Iterator[tuple[Any, Any]]
"""Tasks with their outcomes. A generator: to be closed."""

_STOP_SECONDS = 5


class Engine(Protocol):
    def run(self, function: Function, tasks: Iterator[Any], on_advance: OnAdvance) -> Outcomes: ...


class InProcess:
    """One task after the other."""

    def run(self, function: Function, tasks: Iterator[Any], on_advance: OnAdvance) -> Outcomes:
        for task in tasks:
            try:
                outcome = function(task, on_advance)
            except UserError as error:
                outcome = error
            yield task, outcome


class Processes:
    """Worker processes of this machine, each with a pipe to this one.

    They are spawned, not forked: a fork of a process in which the tokenizer has used threads may hang, and a
    fork server would keep the environment of its first use. A worker takes 0.3 s to start and 40 MB.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, function: Function, tasks: Iterator[Any], on_advance: OnAdvance) -> Outcomes:
        _require_picklable(function)
        first = list(itertools.islice(tasks, self.workers))
        workers = [_Worker(function) for _ in first]
        busy: dict[Connection, _Worker] = {}
        try:
            for worker, task in zip(workers, first, strict=True):
                worker.give(task)
                busy[worker.connection] = worker
            while busy:
                for connection in wait(list(busy)):
                    worker = busy[connection]
                    message = worker.receive()
                    if isinstance(message, Advance):
                        on_advance(message)
                        continue
                    del busy[connection]
                    task, worker.task = worker.task, None
                    yield task, message.value()
                    task = next(tasks, None) if message.is_alive else None
                    if task is not None:
                        worker.give(task)
                        busy[connection] = worker
        finally:
            _stop(workers)


class _Outcome:
    """What became of a task: a return value, or an exception."""

    def __init__(self, returned: Any = None, raised: BaseException | None = None, is_alive: bool = True) -> None:
        self.returned = returned
        self.raised = raised
        self.is_alive = is_alive

    def value(self) -> Any:
        """The report, or the user's error; what is a fault of the program is raised."""
        if self.raised is not None and not isinstance(self.raised, UserError):
            raise self.raised
        return self.raised or self.returned


class _Worker:
    def __init__(self, function: Function) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(function, other), daemon=True)
        self.task: Any = None
        self.process.start()
        other.close()  # or a dead worker's pipe would seem to be open

    def give(self, task: Any) -> None:
        self.task = task
        with suppress(OSError):  # it has died: receive() says so
            self.connection.send(task)

    def receive(self) -> Advance | _Outcome:
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join(_STOP_SECONDS)
            return _Outcome(raised=_death(self.task, self.process.exitcode), is_alive=False)


def _death(task: Any, exitcode: int | None) -> UserError:
    cause = f"exit status {exitcode}"
    if exitcode is not None and exitcode < 0:
        cause = signal.Signals(-exitcode).name
        if exitcode == -signal.SIGKILL:
            cause += ", as by a system that is out of memory"
    return UserError(
        f"the worker process for {task} died ({cause}): what is finished is kept; "
        "run the same command again, with fewer workers if memory was short"
    )


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(_STOP_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.connection.close()


def _require_picklable(function: Function) -> None:
    try:
        pickle.dumps(function)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UserError(
            f"the source cannot be handed to worker processes ({error}): define its class in a module, "
            "or set workers to 1"
        ) from error


def _serve(function: Function, connection: Connection) -> None:
    """What a worker process does: tasks from the pipe until it is stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent stops the others
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            outcome = _Outcome(returned=function(task, connection.send))
        except Exception as error:
            outcome = _Outcome(raised=_sendable(error))
        connection.send(outcome)


def _exit_with_parent() -> None:
    """Without this a worker whose parent was killed would go on to the end of its task."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _sendable(error: Exception) -> Exception:
    """The exception itself, or if it does not survive a pipe one with its words."""
    import traceback

    if not isinstance(error, UserError):
        error.add_note("".join(traceback.format_exception(error)))  # a traceback does not go through a pipe
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
