"""Numbered folders of arrays in which a build keeps what it has finished; each appears whole or not at all."""

from pathlib import Path

import numpy as np

from tst_lightning.data.preparing.place import LocalPlace, task_folder, unfinished_folder


def save(folder: Path, number: int, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as number ``number`` of ``folder``."""
    with unfinished_folder(folder, number) as made:
        for name, values in arrays.items():
            np.save(made / f"{name}.npy", values)
        LocalPlace(folder).finish_task(number, made)


def load(folder: Path, number: int, name: str) -> np.ndarray:
    """One of the arrays of a number, read from the file as it is looked at."""
    path = task_folder(folder, number) / f"{name}.npy"
    # A plain array: slices of a numpy.memmap cost ten times as much.
    return np.load(path, mmap_mode="r").view(np.ndarray)


def is_saved(folder: Path, number: int) -> bool:
    """Whether a number has been written."""
    return task_folder(folder, number).is_dir()
