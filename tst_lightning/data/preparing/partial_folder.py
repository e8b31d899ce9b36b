"""The folder in which an output grows: kept for a restart if the work breaks off, the output when it is whole."""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tst_lightning.errors import UserError

LOCK_NAME = ".lock"


class PartialFolder:
    """A folder beside the target.

    Attributes:
        path: Where to write.
        is_worth_keeping: Whether the folder stays if the work fails, for the next try to go on from.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_worth_keeping = path.exists()

    def keep(self) -> None:
        self.is_worth_keeping = True


@contextmanager
def partial_folder(target: Path, digest: str) -> Iterator[PartialFolder]:
    """Give ``<target>.partial-<digest>`` to write into, locked while its writer lives.

    What an earlier call with the same digest left there is still there. When the block ends without an error,
    partial folders of other digests are removed.

    Raises:
        UserError: another process is writing the same target, or the folder cannot be written.
    """
    folder = PartialFolder(target.with_name(f"{target.name}.partial-{digest}"))
    lock = None
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = _lock(target, folder.path)
        _require_no_other_writer(target, folder.path)
        yield folder
        _remove_others(target, folder.path)
    except OSError as error:
        # Reading errors are turned into messages where the reading is done: what is left is the output.
        raise cannot_write(str(target), error) from error
    finally:
        if lock is not None:
            if not folder.is_worth_keeping:
                shutil.rmtree(folder.path, ignore_errors=True)
            os.close(lock)


def replace_folder(partial: Path, target: Path) -> None:
    """Put ``partial`` in ``target``'s place; what was there goes away only then."""
    (partial / LOCK_NAME).unlink(missing_ok=True)
    if not target.exists():
        partial.rename(target)
        return
    old = target.with_name(f"{target.name}.partial-{uuid.uuid4().hex[:8]}")
    target.rename(old)
    try:
        partial.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def cannot_write(output_dir: str, error: OSError) -> UserError:
    """The message for a disk that is full, or a folder that may not be written."""
    reason = error.strerror or str(error)
    return UserError(
        f"cannot write output_dir '{output_dir}' ({reason}): choose a folder on a writable disk with free space"
    )


def _lock(target: Path, partial: Path) -> int:
    lock = os.open(partial / LOCK_NAME, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise _in_use(target, partial) from None
    return lock


def _require_no_other_writer(target: Path, partial: Path) -> None:
    """After the own lock is held, so that of two that start at once at most one goes on."""
    for other in _others(target, partial):
        if _is_locked(other):
            raise _in_use(target, other)


def _remove_others(target: Path, partial: Path) -> None:
    for other in _others(target, partial):
        if not _is_locked(other):
            shutil.rmtree(other, ignore_errors=True)


def _others(target: Path, partial: Path) -> list[Path]:
    return [path for path in target.parent.glob(f"{target.name}.partial-*") if path != partial]


def _is_locked(folder: Path) -> bool:
    try:
        lock = os.open(folder / LOCK_NAME, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _in_use(target: Path, partial: Path) -> UserError:
    return UserError(
        f"another command is writing '{target}' (in '{partial.name}'): "
        "wait for it, stop it, or choose another output_dir"
    )
