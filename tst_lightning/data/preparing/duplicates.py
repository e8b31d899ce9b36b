"""Finds documents whose text occurred before, in reading order, with bounded memory.

A first pass over the same tasks writes the digest of every usable document; then the digests of all tasks are
looked through, one range of digests at a time, which gives for each task the numbers of its documents to leave
out. Texts are taken for equal if their 128-bit digests are.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tst_lightning.data.preparing.amounts import Advance, Amounts, OnAdvance
from tst_lightning.data.preparing.place import Place
from tst_lightning.data.preparing.routing import document_digest, usable_documents

if TYPE_CHECKING:
    from tst_lightning.data.preparing.task import Job, Task

FOLDER = "duplicates"
BUCKET_RECORDS = 4_000_000
"""Records looked through at a time, about; sorting takes some 50 bytes for each."""

RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("document", "<u4")])
"""A digest in two halves, and the number of its document among the usable ones of its task."""


def digests_file(number: int) -> str:
    """Name of the file with a task's records, sorted by digest."""
    return f"digests/{number:05d}.npy"


def duplicates_file(number: int) -> str:
    """Name of the file with the numbers of a task's documents to leave out: uint32."""
    return f"{FOLDER}/{number:05d}.u32"


def write_digests(job: "Job", task: "Task", on_advance: OnAdvance) -> int:
    """The first pass over one task; returns the number of usable documents."""
    source = job.source_of(task)
    digests = bytearray()
    text_bytes = 0
    for number, document in enumerate(usable_documents(source.documents(task.part), Counter())):
        digests += document_digest(document.data)
        text_bytes += len(document.data)
        if number % 256 == 0:
            on_advance(Advance(task.number, source.bytes_read, Amounts(number, text_bytes)))
        del document
    halves = np.frombuffer(digests, dtype="<u8").reshape(-1, 2)
    records = np.empty(len(halves), dtype=RECORD)
    records["high"], records["low"], records["document"] = halves[:, 0], halves[:, 1], np.arange(len(halves))
    records = records[np.lexsort((records["document"], records["low"], records["high"]))]
    path = job.place.folder / digests_file(task.number)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".unfinished")
    with aside.open("wb") as file:
        np.save(file, records)
    aside.rename(path)
    job.place.share(digests_file(task.number))
    on_advance(Advance(task.number, task.part.size_bytes or source.bytes_read, Amounts(len(records), text_bytes)))
    return len(records)


def find_duplicates(folder: Path, paths: list[Path]) -> int:
    """Write for each task which documents to leave out; returns how many that are.

    Args:
        folder: Where to write; the files appear all at once.
        paths: The records of all tasks, in reading order.
    """
    records = sum(len(_records(path)) for path in paths)
    unfinished = folder / f"{FOLDER}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    found = 0
    for task, document in _repeated(paths, buckets=1 + records // BUCKET_RECORDS):
        found += len(task)
        for index in np.unique(task):
            with (unfinished / Path(duplicates_file(index)).name).open("ab") as file:
                file.write(document[task == index].tobytes())
    unfinished.rename(folder / FOLDER)
    return found


def _repeated(paths: list[Path], buckets: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, for each range of digests, the repetitions in it: indices of tasks and numbers of documents."""
    limits = np.array([(index << 64) // buckets for index in range(1, buckets)], dtype=np.uint64)
    bounds = []  # of each task: where the records of each range begin and end
    for path in paths:
        records = _records(path)
        bounds.append([0, *np.searchsorted(records["high"], limits).tolist(), len(records)])
    for index in range(buckets):
        pieces, tasks = [], []
        for task, path in enumerate(paths):
            first, last = bounds[task][index : index + 2]
            pieces.append(np.array(_records(path)[first:last]))
            tasks.append(np.full(last - first, task, dtype=np.uint32))
        bucket, task_of = np.concatenate(pieces), np.concatenate(tasks)
        order = np.lexsort((bucket["document"], task_of, bucket["low"], bucket["high"]))
        bucket, task_of = bucket[order], task_of[order]
        same = (bucket["high"][1:] == bucket["high"][:-1]) & (bucket["low"][1:] == bucket["low"][:-1])
        yield task_of[1:][same], bucket["document"][1:][same]


def duplicates_of(place: Place, number: int) -> set[int]:
    """Numbers of a task's documents to leave out."""
    path = place.fetch(duplicates_file(number))
    return set() if path is None else set(np.fromfile(path, "<u4").tolist())


def _records(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")
