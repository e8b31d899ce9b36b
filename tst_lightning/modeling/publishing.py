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


def publish(path: str | Path, write: Callable[[str], None], strategy: Any, folder: bool = True) -> None:
    """Let all processes write the checkpoint ``path`` aside, then put it in its place. A collective call.

    Args:
        path: on a file system that all processes share.
        write: takes the path to write to; every process calls it. Its ``OSError`` comes after all collective calls.
        strategy: of the Trainer.
        folder: make the folder to write to; otherwise ``write`` makes a file of that name.

    Raises:
        OSError: it cannot be written or put there; the same in all processes. What lay there before still does.
    """
    path = Path(path)
    aside = _beside(path, _UNFINISHED)
    first = strategy.is_global_zero

    def prepare() -> None:
        if first:
            _remove(aside)  # of a run that was killed, maybe with more processes than this one
            # By one process before the others come: one that failed in it would leave them in their next collective.
            (aside if folder else aside.parent).mkdir(parents=True, exist_ok=True)

    def replace() -> None:
        if first:
            try:
                _replace(aside, path, _beside(path, _REPLACED))
            except OSError:
                recover(path)
                raise

    try:
        for action in (prepare, lambda: write(str(aside)), replace):
            together(strategy, action)
    except BaseException:
        if first:
            with suppress(OSError):
                _remove(aside)
        raise


def together(strategy: Any, action: Callable[[], None]) -> None:
    """Do ``action`` in every process and wait for all; what fails in one fails in all. A collective call.

    Args:
        strategy: of the Trainer.
        action: whose ``OSError`` leaves no other process in a collective call.

    Raises:
        OSError: of the first process in which there was one.
    """
    failure: OSError | None = None
    try:
        action()
    except OSError as error:
        failure = error
    if getattr(strategy, "world_size", 1) == 1:
        if failure is not None:
            raise failure
        return
    import torch

    failed = strategy.world_size - strategy.global_rank if failure else 0  # the more, the lower the rank
    highest = strategy.reduce(torch.tensor(failed, device=strategy.root_device), reduce_op="max")
    if not int(highest):
        return
    said = failure and (failure.errno, failure.strerror or str(failure))
    number, text = strategy.broadcast(said, src=strategy.world_size - int(highest))
    raise (OSError(text) if number is None else OSError(number, text)) from failure


def recover(path: str | Path) -> None:
    """If a run was killed while it replaced the checkpoint ``path``, put the old one back.

    Whoever looks for a checkpoint of a run that may have been killed calls it first.
    """
    path = Path(path)
    with suppress(OSError):  # another process may be faster, or the folder not ours to change
        if not path.exists() and (replaced := _beside(path, _REPLACED)).exists():
            os.rename(replaced, path)


def is_there(path: Path) -> bool:
    """Whether there is a checkpoint ``path``, or one that ``recover`` puts there."""
    return path.exists() or _beside(path, _REPLACED).exists()


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
    with suppress(OSError):  # the new one is in its place
        _remove(replaced)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{_PREFIX}{path.name}{suffix}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
