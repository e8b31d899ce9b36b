"""An output folder that appears whole or not at all."""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tst_lightning.errors import UserError

LOCK_NAME = ".lock"


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a folder to write into; when the block ends without an error it becomes ``target``.

    The folder lies beside ``target`` as ``<target>.partial-<random>``, locked while its writer lives. What
    a killed writer left is removed by the next one. An existing ``target`` is replaced at the very end.

    Raises:
        UserError: another process is writing the same target, or the folder cannot be written.
    """
    partial = target.with_name(f"{target.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        partial.mkdir()
        lock = os.open(partial / LOCK_NAME, os.O_CREAT | os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        yield partial
        (partial / LOCK_NAME).unlink()
        _replace(partial, target)
    except OSError as error:
        # Reading errors are turned into messages where the reading is done: what is left is the output.
        raise _cannot_write(target, error) from error
    finally:
        os.close(lock)
        shutil.rmtree(partial, ignore_errors=True)


def _replace(partial: Path, target: Path) -> None:
    """Put ``partial`` in ``target``'s place; what was there goes away only then."""
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


def _remove_stale(target: Path) -> None:
    for partial in target.parent.glob(f"{target.name}.partial-*"):
        with suppress(FileNotFoundError):
            lock = os.open(partial / LOCK_NAME, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"another prepare is writing '{target}' (in '{partial.name}'): "
                    "wait for it, stop it, or choose another output_dir"
                ) from error
            finally:
                os.close(lock)
        shutil.rmtree(partial, ignore_errors=True)


def _cannot_write(target: Path, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    return UserError(
        f"cannot write output_dir '{target}' ({reason}): choose a folder on a writable disk with free space"
    )
