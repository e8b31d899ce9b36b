"""One process of a run cannot read on: the others must not wait for it in a collective operation, which has no end."""

import signal
from typing import Any


def end_waiting_processes(trainer: Any) -> None:
    """End the processes that Lightning has started for the other devices of this machine; in the first process only.

    Where another process fails, Lightning's own observer ends all of them within five seconds; ``torchrun`` and
    ``srun`` do so for theirs.
    """
    launcher = getattr(trainer.strategy, "launcher", None)
    if getattr(launcher, "procs", None) and hasattr(launcher, "kill"):
        # Not SIGTERM: a process in a collective operation does not come to handle it.
        launcher.kill(signal.SIGKILL)
        # The observer looks at this very list. It would take them for failed by themselves and end this process too,
        # with SIGKILL, if it takes a while to end by its own error.
        launcher.procs.clear()
