"""One `fit` as a child process that does not outlive its parent."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from tst_lightning.comparison import folder as run_files
from tst_lightning.comparison.experiment import Run

FIT_PROGRAM = (sys.executable, "-m", "tst_lightning.cli")
"""What runs `fit`: this very interpreter, whatever the shell would find under the program's name."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SAVE_EVERY_SECONDS = 10.0


class Child:
    """A running attempt of a run; its output goes to the run's ``log.txt``.

    An interrupted run goes on from its last checkpoint. The path is given in full, because ``last`` alone
    is looked for in the default folder, whatever folder the run's own checkpoints are in.
    """

    def __init__(self, run: Run, threads: int, program: Sequence[str] = FIT_PROGRAM) -> None:
        self.run = run
        self.resumed = (run.folder / run_files.LAST_CHECKPOINT).is_file()
        run.folder.mkdir(parents=True, exist_ok=True)
        run_files.claim(run)
        self.attempts = run_files.Attempts(run.folder)
        self.attempts.begin()
        self.started_monotonic = time.monotonic()
        self.started_time = time.time()
        self._saved = 0.0
        arguments = list(run.arguments)
        if self.resumed:
            arguments.append(f"--ckpt_path={run.folder / run_files.LAST_CHECKPOINT}")
        threads_text = str(threads)
        with (run.folder / run_files.LOG_FILE).open("ab") as log:
            log.write(f"--- attempt {self.attempts.count}, {run_files.now_utc()}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                [*program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ
                | {"OMP_NUM_THREADS": threads_text, "MKL_NUM_THREADS": threads_text, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its children
                preexec_fn=_die_with_parent(),
            )

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self.started_monotonic

    def poll(self) -> int | None:
        """Exit code, or None while it runs; keeps the attempt's time on disk."""
        code = self._process.poll()
        if code is not None or self.elapsed_seconds - self._saved >= _SAVE_EVERY_SECONDS:
            self._saved = self.elapsed_seconds
            self.attempts.update(self.elapsed_seconds)
        return code

    def terminate(self) -> None:
        """Ask it to end; `fit` then stops at the next batch."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """End it and the workers that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def end_all(children: Sequence[Child], patience_seconds: float) -> None:
    """Terminate children side by side, wait, and kill those that are still there."""
    deadline = time.monotonic() + patience_seconds
    try:
        for child in children:
            child.terminate()
        while time.monotonic() < deadline and any(child.poll() is None for child in children):
            time.sleep(0.05)
    finally:
        for child in children:
            child.kill()
            child.poll()


def _die_with_parent() -> Callable[[], None] | None:
    """On Linux, the kernel ends a child whose parent was killed before it could do so itself."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def prepare_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent ended between fork and prctl
            os._exit(1)

    return prepare_child
