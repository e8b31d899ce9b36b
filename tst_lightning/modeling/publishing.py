"""Checkpoints that are folders appear whole or not at all, and the one that they replace is never lost.

Lightning's ``ModelParallelStrategy`` writes a sharded checkpoint where it will lie, over the files of the one before:
a run that is killed meanwhile leaves neither. So it is written aside. A folder cannot be renamed over another one;
between the two renames that it takes instead, the old one lies under another name, where ``recover`` finds it.
"""

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
_PREFIX, _UNFINISHED, _REPLACED = ".", ".unfinished", ".replaced"


def publish(path: str | Path, write: Callable[[str], None], strategy: Any) -> None:
    """Let all processes write the checkpoint ``path`` aside, then put it in its place.

    Args:
        path: on a file system that all processes share.
        write: takes the path to write to; every process calls it.
        strategy: of the Trainer.
    """
    path = Path(path)
    aside, replaced = _beside(path, _UNFINISHED), _beside(path, _REPLACED)
    if strategy.is_global_zero:
        _remove(aside)  # of a run that was killed, maybe with more processes than this one
    strategy.barrier()
    try:
        write(str(aside))
        strategy.barrier()  # every process has written its share
    except BaseException:
        if strategy.is_global_zero:
            _remove(aside)
        raise
    if strategy.is_global_zero:
        _replace(aside, path, replaced)
    strategy.barrier()


def recover(path: str | Path) -> None:
    """If a run was killed while it replaced the checkpoint ``path``, put the old one back."""
    path = Path(path)
    if not path.exists() and (replaced := _beside(path, _REPLACED)).exists():
        with suppress(OSError):  # another process may be faster
            os.rename(replaced, path)


def _replace(aside: Path, path: Path, replaced: Path) -> None:
    while aside.exists():
        if path.exists():
            _remove(replaced)
            os.rename(path, replaced)
        try:
            os.rename(aside, path)
        except OSError as error:
            if error.errno not in _TAKEN:  # another command has just called ``recover``
                raise
    _remove(replaced)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{_PREFIX}{path.name}{suffix}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
