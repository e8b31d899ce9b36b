"""The stages of a preparation before its tasks: what they are, and what all of them share.

Each stage leaves its result in the preparation's place, and finds it there after a restart.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import accumulate, chain

import numpy as np

from tst_lightning.cores import available_cores
from tst_lightning.data.preparing.amounts import Advance, Amounts
from tst_lightning.data.preparing.duplicates import FOLDER, digests_file, find_duplicates, write_digests
from tst_lightning.data.preparing.encoder import (
    ENCODER_FILE,
    Document,
    EncoderInfo,
    TokenDtype,
    load_info,
    save_encoder,
)
from tst_lightning.data.preparing.engines import Engine, InProcess, Processes
from tst_lightning.data.preparing.limits import NO_LIMITS, Limits
from tst_lightning.data.preparing.place import CONNECTIONS, REPORT_NAME, Place
from tst_lightning.data.preparing.progress import Progress
from tst_lightning.data.preparing.routing import Digests, document_digest, usable_documents
from tst_lightning.data.preparing.task import VALIDATION_DIGESTS_FILE, Job, Report, Task
from tst_lightning.data.sources.base import TextSource
from tst_lightning.data.tokenizer import Tokenizer
from tst_lightning.errors import UserError

BYTES_PER_TOKEN = 4
"""Of English text, about."""


def make_tasks(source: TextSource, validation_source: TextSource | None, part_bytes: int) -> list[Task]:
    """All tasks in reading order: the validation source's, then the source's."""
    parts = [(part, True) for part in validation_source.parts(part_bytes)] if validation_source else []
    parts += [(part, False) for part in source.parts(part_bytes)]
    return [Task(number, part, is_validation) for number, (part, is_validation) in enumerate(parts)]


def needed_tasks(tasks: list[Task], limits: Limits) -> int:
    """About how many tasks it takes to reach the limits: more at a time would read for nothing.

    One if sizes are not known: a streamed data set may have files of gigabytes, and is not to be downloaded in vain.
    """
    reach_bytes = [limits.bytes, limits.tokens and limits.tokens * BYTES_PER_TOKEN]
    if limits == NO_LIMITS:
        return len(tasks)
    if not all(task.part.size_bytes for task in tasks):
        return 1
    enough_bytes = min((reach for reach in reach_bytes if reach is not None), default=math.inf)
    sizes = accumulate(task.part.size_bytes for task in tasks)
    return min(len(tasks), 1 + sum(size < enough_bytes for size in sizes))


def choose_engine(name: str, workers: int | None, tasks: int) -> tuple[Engine, int]:
    """The engine, and the threads that each task may use."""
    if name == "ray":
        from tst_lightning.data.preparing.ray_engine import Ray, require_ray

        require_ray()
        return Ray(workers), 1
    workers = workers or available_cores()
    processes = max(1, min(workers, tasks))
    return (InProcess() if processes == 1 else Processes(processes)), max(1, workers // processes)


def share_validation_digests(job: Job, tasks: list[Task]) -> None:
    """The digests of all documents of the validation source, which training is not to have."""
    if job.validation_source is None:
        return
    if job.place.fetch(VALIDATION_DIGESTS_FILE) is not None:
        job.place.share(VALIDATION_DIGESTS_FILE)  # the earlier call may have been killed before it did
        return
    texts = chain.from_iterable(job.source_of(task).documents(task.part) for task in tasks if task.is_validation)
    digests = Digests.pack(document_digest(document.data) for document in usable_documents(texts, Counter()))
    path = job.place.folder / VALIDATION_DIGESTS_FILE
    aside = path.with_suffix(".unfinished")
    with aside.open("wb") as file:
        np.save(file, digests)
    aside.rename(path)
    job.place.share(VALIDATION_DIGESTS_FILE)


def share_duplicates(job: Job, tasks: list[Task], engine: Engine, on_finish: Callable[[], None]) -> None:
    """Which documents of each task occurred before. ``on_finish`` is called when a task has been read."""
    if not job.deduplicate:
        return
    folder = job.place.folder / FOLDER
    if not folder.is_dir():
        _first_pass(job, tasks, engine, on_finish)
        found = find_duplicates(job.place.folder, [job.place.fetch(digests_file(task.number)) for task in tasks])
        print(f"found {found:,} duplicate documents")
    for path in sorted(folder.iterdir()):
        job.place.share(f"{FOLDER}/{path.name}")


def _first_pass(job: Job, tasks: list[Task], engine: Engine, on_finish: Callable[[], None]) -> None:
    missing = [task for task in tasks if job.place.fetch(digests_file(task.number)) is None]
    sizes = [source.size_bytes() for source in (job.source, job.validation_source) if source is not None]
    with Progress("finding duplicates", NO_LIMITS, None if None in sizes else sum(sizes)) as progress:
        progress.start_with(
            [Advance(task.number, task.part.size_bytes, Amounts()) for task in tasks if task not in missing]
        )
        with closing(engine.run(partial(write_digests, job), iter(missing), progress.update)) as outcomes:
            for _, outcome in outcomes:
                if isinstance(outcome, UserError):
                    raise outcome
                on_finish()


def share_encoder(
    job: Job, tokenizer: Tokenizer, tasks: list[Task], limits: Limits, token_dtype: TokenDtype
) -> EncoderInfo:
    """Build the tokenizer, once.

    Raises:
        UserError: it cannot be had, or token_dtype cannot hold its ids.
    """
    place = job.place
    info_file = place.fetch(ENCODER_FILE)
    if info_file is not None:
        info = load_info(info_file)
        for name in [*info.files, ENCODER_FILE]:
            place.fetch(name)
            place.share(name)  # the earlier call may have been killed before it did
        return info
    started = time.perf_counter()
    if tokenizer.is_trained:
        print("training the tokenizer ...", flush=True)
    encoder = tokenizer.build(lambda: training_documents(job, tasks, limits), token_dtype)
    if tokenizer.is_trained:
        print(f"trained the tokenizer in {time.perf_counter() - started:.1f} s", flush=True)
    save_encoder(encoder, place.folder)
    info = load_info(place.folder / ENCODER_FILE)
    for name in [*info.files, ENCODER_FILE]:
        place.share(name)
    return info


def training_documents(job: Job, tasks: list[Task], limits: Limits) -> Iterator[Document]:
    """What a tokenizer may be trained on: training documents within the limits of documents and bytes."""
    for task in tasks:
        if task.is_validation:
            continue
        taken = Amounts()
        selection = job.selection(replace(task, limits=limits))
        for split, document in selection:
            taken += Amounts(1, len(document.data))
            if split == "train":
                yield document
        if selection.ended:
            return
        limits = limits.less(taken)


def finished_reports(place: Place, tasks: list[Task]) -> dict[int, Report]:
    """The reports of tasks that an earlier call with the same options has finished."""
    with ThreadPoolExecutor(CONNECTIONS) as executor:  # in object storage each is a request
        paths = executor.map(lambda task: place.task_file(task.number, REPORT_NAME), tasks)
        return {task.number: Report.load(path) for task, path in zip(tasks, paths, strict=True) if path is not None}
