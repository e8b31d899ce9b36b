"""Checkpoint files that appear whole or not at all, also where the disk is full or the machine loses power."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from torch.distributed.checkpoint.api import CheckpointException

_PREFIX, _SUFFIX = ".", ".part"
_WRITER_SAYS = ("inline_container", "iostream", "PytorchStreamWriter")


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, waits until it is on the disk, and renames it.

    Lightning 2.6 builds the file in memory, copies it to the system's folder for temporary files and moves it from
    there: onto another disk, as that folder often is, it is copied over the checkpoint before it, and a kill or a full
    disk leaves half a file and none that is whole. Paths that are no local files are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to the file ``path``.

        Raises:
            OSError: it cannot be written; what lay there before still does.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_whole(checkpoint, Path(path))


def write_whole(checkpoint: dict[str, Any], path: Path) -> None:
    """``torch.save`` to a file that appears when it is complete; removes what killed runs have left beside it.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for unfinished in path.parent.glob(f"{_PREFIX}*.ckpt*{_SUFFIX}"):
        unfinished.unlink(missing_ok=True)
    aside = path.with_name(f"{_PREFIX}{path.name}{_SUFFIX}")
    try:
        with aside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        aside.unlink(missing_ok=True)
        raise as_os_error(error) or error from error
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def use_whole_files(trainer: Trainer) -> None:
    """Have the Trainer write its checkpoint files so, in a thread too, unless it has been given another way."""
    strategy = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeFiles()
    elif writes_in_a_thread(trainer) and type(strategy.checkpoint_io.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io._checkpoint_io = WholeFiles()  # Lightning's setter does nothing where there is one


def writes_in_a_thread(trainer: Trainer) -> bool:
    return isinstance(trainer.strategy.checkpoint_io, AsyncCheckpointIO)


def finish_writing(trainer: Trainer) -> None:
    """Wait for the files that a thread of this process writes, if it does.

    Raises:
        OSError: one of them cannot be written.
    """
    if not writes_in_a_thread(trainer):
        return
    writer = trainer.strategy.checkpoint_io
    try:
        writer.teardown()  # the next save starts another thread
    except (OSError, RuntimeError) as error:
        raise as_os_error(error) or error from error
    finally:
        writer._error = None  # Lightning would raise it again at the end of the run, over what is said about it here


def as_os_error(error: BaseException) -> OSError | None:
    """The failed write behind ``error``; None if it is about something else.

    torch's own errors, "unexpected pos 64 vs 0", hide what the system said, or come without it.
    """
    if isinstance(error, CheckpointException):  # of shards, in all processes alike
        first, _ = next(iter(error.failures.values()))
        return as_os_error(first) or OSError(f"{type(first).__name__}: {_in_one_line(first)}")
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if cause is None and isinstance(error, RuntimeError) and any(part in str(error) for part in _WRITER_SAYS):
        return OSError(f"torch: {_in_one_line(error)}")
    return cause


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk as well."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
