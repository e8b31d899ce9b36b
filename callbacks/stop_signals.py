"""Signals that end a run: noted when they come, obeyed at the end of an optimizer step, by all processes together."""

import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

IMPATIENT_SECONDS = 1.0
"""A second Ctrl-C after this time ends the run at once. Launchers pass signals on, so the first may come twice."""


class TrainingStopped(SystemExit):
    """Ends the process with 128 + the signal's number, as shells count; Lightning cleans up on its way."""


class StopSignals:
    """SIGTERM, Ctrl-C and, under SLURM, the signal that Lightning requeues at (SIGUSR1 unless configured).

    Lightning 2.6 ends a run after the micro-batch in which SIGTERM comes without saving, with status 0; at SLURM's it
    saves within the signal handler, in the middle of whatever the run does, and trains on; with several processes it
    calls a collective there. In place of its handlers, this only notes the signal.
    """

    def __init__(self) -> None:
        self._requeue_signal: int | None = None
        self._received: list[int] = []
        self._first_seconds = 0.0
        self._process = os.getpid()
        self._speaks = False

    def listen(self, trainer: Trainer) -> None:
        """Take Lightning's handlers' places; in ``on_train_start``, when they are there and no worker is yet.

        Lightning puts back what was there before the fit when training has ended: then all is saved.
        """
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._requeue_signal = environment.requeue_signal
        self._process, self._speaks = os.getpid(), trainer.is_global_zero
        for signum in self._signals:
            signal.signal(signum, self._note)
        if isinstance(loader := trainer.train_dataloader, DataLoader) and loader.num_workers:
            loader.worker_init_fn = _Shielded(loader.worker_init_fn)
        if trainer.received_sigterm:  # while the run was set up
            self.end(trainer, signal.SIGTERM)

    def stop_listening(self, trainer: Trainer) -> None:
        """Put back what was there before the fit where it ends in an exception; Lightning does it only otherwise."""
        if threading.current_thread() is threading.main_thread():
            trainer._signal_connector.teardown()

    def agreed(self, trainer: Trainer) -> int | None:
        """The signal that any process has received, the same in all; None if there was none. A collective call."""
        ranks = [signal.SIGINT, signal.SIGTERM, self._requeue_signal]  # which one counts, if there are several
        highest = max((1 + ranks.index(signum) for signum in self._received), default=0)
        if trainer.world_size > 1:
            # This waits for the device, as Lightning does at every micro-batch to ask whether rank 0 got a SIGTERM.
            number = torch.tensor(highest, device=trainer.strategy.root_device)
            highest = int(trainer.strategy.reduce(number, reduce_op="max"))
        return ranks[highest - 1] if highest else None

    def end(self, trainer: Trainer, signum: int) -> None:
        """Requeue the job if that is what the signal asks for, and end the process; raises ``TrainingStopped``."""
        if signum == self._requeue_signal and trainer.is_global_zero:
            say(_requeue())
        # Lightning kills all processes that it has started as soon as one of them ends with another status than 0.
        raise TrainingStopped(128 + signum if trainer.is_global_zero else 0)

    @property
    def _signals(self) -> list[int]:
        return [signum for signum in (signal.SIGTERM, signal.SIGINT, self._requeue_signal) if signum is not None]

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked process has inherited this handler. Ctrl-C is the main process' affair; workers are shielded.
            if signum == signal.SIGTERM:
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
            return
        seconds = time.monotonic()
        if not self._received:
            self._first_seconds = seconds
            if self._speaks:
                say(f"{signal.Signals(signum).name}: stopping when this optimizer step is done and saved")
        elif signum == signal.SIGINT and seconds - self._first_seconds > IMPATIENT_SECONDS:
            raise KeyboardInterrupt
        self._received.append(signum)


class _Shielded:
    """A worker's initialisation, after which SIGTERM ends it only if the main process sends it.

    A batch system signals every process of a job. PyTorch's workers would die of it, and the main process of their
    death, in the middle of a step.
    """

    def __init__(self, initialise: Any) -> None:
        self.initialise = initialise

    def __call__(self, worker: int) -> None:
        if self.initialise is not None:
            self.initialise(worker)
        if hasattr(signal, "sigwaitinfo"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=self._wait, daemon=True).start()

    @staticmethod
    def _wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)


def say(message: str) -> None:
    """A line on standard error, past Python's buffers: a signal handler may interrupt their own writing."""
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{message}\n".encode())


def _requeue() -> str:
    """Ask SLURM to start the job again; what to tell the user."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    try:
        result = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    except OSError as error:
        return f"SLURM job {job} is not requeued: scontrol does not start ({error.strerror})"
    if result.returncode:
        return f"SLURM job {job} is not requeued: {result.stderr.strip() or result.returncode}"
    return f"SLURM job {job} is requeued"
