"""Checkpoint files that appear whole or not at all, also where the disk is full or the machine loses power."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

_PREFIX, _SUFFIX = ".", ".part"


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, waits until it is on the disk, and renames it.

    Lightning 2.6 builds the file in memory, copies it to the system's folder for temporary files and moves it from
    there: onto another disk, as that folder often is, it is copied over the checkpoint before it, and a kill or a full
    disk leaves half a file and none that is whole. Paths that are no local files are left to Lightning.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure: OSError | None = None
        """Of the last ``save_checkpoint`` within ``keeping_failures``."""
        self._keeps_failures = False

    @contextmanager
    def keeping_failures(self) -> Iterator[None]:
        """Within, a file that cannot be written is no exception: one process alone would leave the others waiting."""
        self.failure, self._keeps_failures = None, True
        try:
            yield
        finally:
            self._keeps_failures = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to the file ``path``.

        Raises:
            OSError: it cannot be written; what lay there before still does.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            write_whole(checkpoint, Path(path))
        except OSError as error:
            if not self._keeps_failures:
                raise
            self.failure = error


def write_whole(checkpoint: dict[str, Any], path: Path) -> None:
    """``torch.save`` to a file that appears when it is complete; removes what killed runs have left beside it.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for unfinished in path.parent.glob(f"{_PREFIX}*.ckpt{_SUFFIX}"):
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
        # torch's own error, "unexpected pos 64 vs 0", hides what the system said.
        aside.unlink(missing_ok=True)
        raise _system_error(error) or error from error
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def use_whole_files(trainer: Trainer) -> WholeFiles | None:
    """Have the Trainer write its checkpoints so, unless it has been given another way; the plugin, if it does."""
    strategy = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeFiles()
    return strategy.checkpoint_io if isinstance(strategy.checkpoint_io, WholeFiles) else None


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk as well."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _system_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
