"""Child processes that do not outlive their parent."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

FIT_PROGRAM = (sys.executable, "-m", "tst_lightning.cli")
"""What runs `fit` and `evaluate`: this very interpreter, whatever the shell would find under the program's name."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Child:
    """A running command whose output is appended to a file.

    Args:
        command: Program and arguments.
        log: Where its output goes.
        heading: A line written there first.
        threads: CPU threads that it may use.
    """

    def __init__(self, command: Sequence[str], log: Path, heading: str, threads: int) -> None:
        self.started_monotonic = time.monotonic()
        self.started_time = time.time()
        threads_text = str(threads)
        with log.open("ab") as stream:
            stream.write(f"--- {heading}\n".encode())
            stream.flush()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
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
        """Exit code, or None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to end: `fit` ends its optimizer step, saves a checkpoint and stops; `evaluate` stops at once."""
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
