"""Where a preparation keeps what its tasks share and what they have finished: a folder, or object storage."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tst_lightning.data.preparing.routing import SPLITS
from tst_lightning.data.storage import ObjectStorage

REPORT_NAME = "report.json"
CONNECTIONS = 16
"""Requests at a time to object storage, for many small files."""
_UNFINISHED = ".unfinished-"


class Place(Protocol):
    """Files by name. Picklable: every worker has one."""

    folder: Path
    """Of this machine; shared files are written here before they are shared."""

    def share(self, name: str) -> None:
        """Let all tasks have a file that has been written in ``folder``."""

    def fetch(self, name: str) -> Path | None:
        """A shared file, or None if there is no such."""

    def finish_task(self, number: int, made: Path) -> None:
        """Take over the files that a task wrote in ``made``; its report appears last, or all at once."""

    def task_file(self, number: int, name: str) -> Path | None:
        """A small file (no shard) of a finished task, or None."""


class LocalPlace:
    """A folder, which all workers see. A finished task is a folder ``tasks/00012``, which appears by renaming."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def share(self, name: str) -> None:
        pass

    def fetch(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.is_file() else None

    def finish_task(self, number: int, made: Path) -> None:
        finished = task_folder(self.folder, number)
        if finished.exists():  # read under another limit, or a second try of a task taken for lost
            shutil.rmtree(finished)
        made.rename(finished)

    def task_file(self, number: int, name: str) -> Path | None:
        return self.fetch(f"{task_folder(Path(), number)}/{name}")


class RemotePlace:
    """Object storage. Shards go straight to where they stay; the other files below ``.prepare-<digest>``."""

    def __init__(self, folder: Path, url: str, digest: str) -> None:
        """
        Args:
            folder: Scratch space of this machine.
            url: What is prepared.
            digest: Of the preparation's options.
        """
        self.folder = folder
        self.storage = ObjectStorage(url, attempts=10)
        self.prefix = f".prepare-{digest}"

    def share(self, name: str) -> None:
        self.storage.put(self.folder / name, f"{self.prefix}/{name}")

    def fetch(self, name: str) -> Path | None:
        path = self.folder / name
        if not path.is_file():
            try:
                self.storage.get(f"{self.prefix}/{name}", path)
            except FileNotFoundError:
                return None
        return path

    def finish_task(self, number: int, made: Path) -> None:
        home = task_folder(Path(self.prefix), number)
        for split in SPLITS:
            for shard in sorted((made / split).glob("chunk-*.bin")):
                self.storage.put(shard, f"{split}/{shard.name}")
        small = [path for path in sorted(made.iterdir()) if path.is_file() and path.name != REPORT_NAME]
        for path in [*small, made / REPORT_NAME]:
            self.storage.put(path, f"{home}/{path.name}")
            # The copy that an earlier try may have left.
            (task_folder(self.folder, number) / path.name).unlink(missing_ok=True)
        shutil.rmtree(made)

    def task_file(self, number: int, name: str) -> Path | None:
        return self.fetch(f"{task_folder(Path(), number)}/{name}")


def task_folder(folder: Path, number: int) -> Path:
    """Of a finished task."""
    return folder / "tasks" / f"{number:05d}"


@contextmanager
def unfinished_folder(folder: Path, number: int) -> Iterator[Path]:
    """A folder for a task to write into; removed unless the block hands it to ``finish_task``."""
    finished = task_folder(folder, number)
    made = finished.with_name(f"{finished.name}{_UNFINISHED}{uuid.uuid4().hex[:8]}")
    made.mkdir(parents=True)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed tasks have left."""
    for path in (folder / "tasks").glob(f"*{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)
