"""Checkpoints that appear whole or not at all, files and folders, and fail in all processes or in none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.api import CheckpointException

from callbacks.whole_files import as_os_error, finish_writing, use_whole_files, writes_in_a_thread
from tst_lightning.errors import UserError
from tst_lightning.modeling.publishing import publish, together
from tst_lightning.modeling.sharded_checkpoint import write_sums

OnSaveError = Literal["stop", "continue"]


def save_whole(trainer: Trainer, path: str, save: Callable[[str], None]) -> None:
    """Have all processes save a checkpoint. A collective call.

    Sharded checkpoints are published when all have written their part; files are written aside by ``WholeFiles``.

    Args:
        path: where it is to lie.
        save: takes the path to write to, and calls ``trainer.save_checkpoint``; every process calls it.

    Raises:
        OSError: it cannot be written, in all processes alike. With a writing thread it may be a file saved before.
    """
    strategy = trainer.strategy

    def write(place: str) -> None:
        with _failing_last(strategy):
            save(place)
        if Path(place).is_dir() and strategy.is_global_zero:
            write_sums(place)

    try:
        if isinstance(strategy, ModelParallelStrategy):
            publish(path, write, strategy, folder=strategy._save_distributed_checkpoint)
        else:
            together(strategy, lambda: write(path))
    except OSError:
        with suppress(OSError):  # the one that it is about
            finish_writing(trainer)
        raise


def wait_until_written(trainer: Trainer) -> None:
    """Wait for the files that a thread writes. A collective call.

    Raises:
        OSError: one of them cannot be written, in all processes alike.
    """
    together(trainer.strategy, lambda: finish_writing(trainer))


def prepare_saving(trainer: Trainer, name: str, on_save_error: OnSaveError) -> None:
    """Choose how files are written, in ``setup`` of a fit.

    Args:
        name: of the callback that saves.
        on_save_error: of that callback.

    Raises:
        UserError: it is to go on after a checkpoint that cannot be written, and a thread writes it.
    """
    use_whole_files(trainer)
    if on_save_error == "continue" and writes_in_a_thread(trainer):
        raise UserError(
            f"{name}: on_save_error is 'continue', and AsyncCheckpointIO writes checkpoints in a thread, of which "
            "nobody knows at the time whether they are written: set on_save_error to 'stop', or leave that plugin out"
        )


def require_choice(name: str, on_save_error: str) -> None:
    """Refuse an ``on_save_error`` that there is not; raises ``UserError``."""
    if on_save_error not in ("stop", "continue"):
        raise UserError(f"{name}: on_save_error is {on_save_error!r}, and must be 'stop' or 'continue'")


@contextmanager
def _failing_last(strategy: Any) -> Iterator[None]:
    """Within, a checkpoint that this process cannot write is an ``OSError`` only at the end.

    ``Trainer.save_checkpoint`` waits for all processes after the strategy's part: one that had failed in that alone,
    such as the first with ``meta.pt``, would leave the others waiting.
    """
    save, failures = strategy.save_checkpoint, []

    def keeping(*arguments: Any, **options: Any) -> None:
        try:
            save(*arguments, **options)
        except (OSError, RuntimeError, CheckpointException) as error:
            if (failure := as_os_error(error)) is None:
                raise
            failures.append(failure)

    strategy.save_checkpoint = keeping
    try:
        yield
    finally:
        del strategy.save_checkpoint
    if failures:
        raise failures[0]
