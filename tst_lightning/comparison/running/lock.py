"""At most one comparison at work in a folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tst_lightning.errors import UserError


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder; the system lets go of it however the process ends.

    Raises:
        UserError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system: nothing to lock with
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another comparison is at work in '{folder}': wait for it, or stop it first") from error
        yield
