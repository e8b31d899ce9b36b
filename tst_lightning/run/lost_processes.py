"""A process of a run that ends without a word, as by SIGKILL: what the others say of it, and that none waits for it.

The others see a broken connection, or with NCCL nothing at all. The first process of a machine knows more where
Lightning has started the others: their exit statuses. ``torchrun`` and ``srun`` say by themselves which process ended.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tst_lightning.modeling.publishing import is_there
from tst_lightning.said_once import say_once

_POLL_SECONDS = 0.5
_EXIT_SECONDS = 2.0
"""From a broken connection to the exit status of the process at its other end."""
_END_SECONDS = 5.0
"""For a process to end of a broken connection by itself, once the first one has ended."""
_FIRST = "TST_LIGHTNING_FIRST_PROCESS"
"""Environment variable by which a process knows that its parent is the first process of its run."""

_BROKEN = (
    "Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited",
    "Connection was likely closed",
)  # fmt: skip
"""What gloo, NCCL and torch's store say in the processes that are left when one has ended."""

_SIGKILL = (
    "SIGKILL: by hand, by a batch system, or by the kernel because memory ran out, which `dmesg` tells (a smaller "
    "data.batch_size with as many times more trainer.accumulate_grad_batches takes less, and so do fewer "
    "data.num_workers)"
)


def is_broken_connection(error: BaseException) -> bool:
    """Whether ``error`` says that another process of the run has ended."""
    text = str(error)
    # "Caught ...": torch's words for an error of a DataLoader's worker, whose connections are its own.
    return (
        isinstance(error, RuntimeError) and not text.startswith("Caught ") and any(words in text for words in _BROKEN)
    )


class LostProcesses(Callback):
    """Names the process that has ended, its signal and how to go on; ends processes whose first one has ended.

    It is printed, and the exception that ends this process gets the attribute ``is_said``.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._said = threading.Lock()
        first, parent = os.environ.get(_FIRST), os.getppid()
        self._first = parent if first == str(parent) and _local_rank() > 0 else None
        os.environ[_FIRST] = str(os.getpid())  # for those that Lightning is going to start

    def __reduce__(self) -> tuple[type, tuple]:
        """As new in a process that Lightning spawns, to which locks cannot go."""
        return type(self), ()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Watch the others: those that this process has started, or the one that has started it."""
        self._over.clear()
        if _children(trainer):
            threading.Thread(target=self._watch_children, args=(trainer,), daemon=True).start()
        elif self._first is not None:
            threading.Thread(target=self._watch_first, daemon=True).start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """From here on this process ends others itself, and has its own message."""
        self._end()
        if trainer.world_size == 1 or not is_broken_connection(exception):
            return
        say = _print  # the store of such processes is the first one's, which may be the one that has ended
        if _children(trainer):
            lost = _within(_EXIT_SECONDS, lambda: _lost_child(trainer)) or _of_other_launchers()
        elif self._first is not None:
            gone = _within(_EXIT_SECONDS, lambda: os.getppid() != self._first)
            lost = _of_the_first() if gone and _local_rank() == 1 else ""  # the first one says it, or one for all
        else:
            lost, say = _of_other_launchers(), say_once
        # Now, and not at the end: torchrun sends SIGTERM to those that are left.
        if lost and self._said.acquire(blocking=False):
            say(f"{lost}. {_how_to_go_on(trainer)}")
        exception.is_said = True

    def _end(self) -> None:
        self._over.set()
        os.environ.pop(_FIRST, None)  # what this process starts from here on is none of the run's

    def _watch_children(self, trainer: Trainer) -> None:
        """Lightning's observer ends this process, with SIGKILL, within five seconds of such an end."""
        while not self._over.wait(_POLL_SECONDS):
            if (lost := _lost_child(trainer)) is not None:
                if self._said.acquire(blocking=False):
                    _print(f"{lost}. {_how_to_go_on(trainer)}")
                return

    def _watch_first(self) -> None:
        while os.getppid() == self._first:
            if self._over.wait(_POLL_SECONDS):
                return
        if not self._over.wait(_END_SECONDS):
            os.kill(os.getpid(), signal.SIGKILL)  # it waits for the others in the midst of a library


def _print(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _within(seconds: float, condition: Callable[[], Any]) -> Any:
    """The first value of ``condition`` that is true, or its last one after that time."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return value


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


def _children(trainer: Trainer) -> list[Any]:
    return getattr(trainer.strategy.launcher, "procs", None) or []


def _lost_child(trainer: Trainer) -> str | None:
    """Which of the processes that Lightning has started has ended, and how."""
    for place, process in enumerate(_children(trainer), 1):
        if status := process.poll():
            return f"the process of rank {trainer.global_rank + place} (id {process.pid}) {_ended(status)}"
    return None


def _ended(status: int) -> str:
    if status > 0:
        return f"has ended with status {status}: its message says why"
    return f"was ended by {_SIGKILL if status == -signal.SIGKILL else signal.Signals(-status).name}"


def _of_the_first() -> str:
    return (
        "the process that has started this one has ended: its message says why; if there is none, it was probably "
        f"ended by {_SIGKILL}"
    )


def _of_other_launchers() -> str:
    ended = "another process of this run has ended: its message says why; if there is none, "
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return f"{ended}torchrun names its rank and status below. exitcode -9 is {_SIGKILL}"
    return f"{ended}it was probably ended by {_SIGKILL}"


def _how_to_go_on(trainer: Trainer) -> str:
    if trainer.state.fn != "fit":
        return "Start again with the same command"
    folders = [folder for callback in trainer.checkpoint_callbacks if (folder := getattr(callback, "dirpath", None))]
    if any(is_there(Path(folder) / "last.ckpt") for folder in folders):
        return "The last checkpoint is whole: the same command with --ckpt_path last goes on from there"
    return "There is no checkpoint yet: start again with the same command"
