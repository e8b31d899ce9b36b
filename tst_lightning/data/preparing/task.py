"""One task: a part of a source becomes shards of its own, and a report on them."""

import functools
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tst_lightning.data.manifest import Shard, Split
from tst_lightning.data.preparing.amounts import Advance, Amounts, OnAdvance
from tst_lightning.data.preparing.batches import batches
from tst_lightning.data.preparing.duplicates import duplicates_of
from tst_lightning.data.preparing.encode import encode_batches
from tst_lightning.data.preparing.encoder import ENCODER_FILE, TOKENIZER_FOLDER, Encoder, load_encoder
from tst_lightning.data.preparing.limits import NO_LIMITS, Limits
from tst_lightning.data.preparing.place import REPORT_NAME, Place, unfinished_folder
from tst_lightning.data.preparing.routing import AllToValidation, Digests, Router, Selection
from tst_lightning.data.preparing.task_output import TaskOutput, TokenLimitReached
from tst_lightning.data.sources.base import Part, TextSource

TOKENIZER_FILE = f"{TOKENIZER_FOLDER}/tokenizer.json"
VALIDATION_DIGESTS_FILE = "validation_digests.npy"


@dataclass(frozen=True)
class Task:
    """A part to prepare. ``number`` is its place in reading order."""

    number: int
    part: Part
    is_validation: bool = False
    """It is of the validation source."""
    limits: Limits = NO_LIMITS

    def __str__(self) -> str:
        return f"part {self.number}" + (f" ({', '.join(self.part.files)})" if self.part.files else "")


@dataclass(frozen=True)
class Job:
    """What the tasks of a preparation have in common. Picklable."""

    place: Place
    source: TextSource
    validation_source: TextSource | None
    validation_fraction: float
    shard_tokens: int
    deduplicate: bool
    held_out_bytes: int
    """Validation text that each task keeps for the items of bundled downstream tasks."""
    threads: int

    def source_of(self, task: Task) -> TextSource:
        return self.validation_source if task.is_validation else self.source

    def selection(self, task: Task) -> Selection:
        """The documents of a task."""
        router = AllToValidation() if task.is_validation else self._router
        duplicates = duplicates_of(self.place, task.number) if self.deduplicate else ()
        return Selection(self.source_of(task).documents(task.part), router, task.limits, duplicates)

    # These two are kept: a worker does many tasks, and large vocabularies take a second to load.
    @functools.cached_property
    def _router(self) -> Router:
        if self.validation_source is None:
            return Router(self.validation_fraction)
        return Router(0.0, Digests(np.load(self.place.fetch(VALIDATION_DIGESTS_FILE), mmap_mode="r")))

    @functools.cached_property
    def encoder(self) -> Encoder:
        return load_encoder(self.place.fetch(ENCODER_FILE), self.place.fetch(TOKENIZER_FILE))


@dataclass(frozen=True)
class Report:
    """What a task has done."""

    number: int
    limits: Limits
    ended: bool
    """Whether a limit ended the reading."""
    train: Split
    validation: Split
    skipped: dict[str, int]
    input_bytes: int

    @property
    def amounts(self) -> Amounts:
        train, validation = self.train, self.validation
        return Amounts(
            train.documents + validation.documents, train.bytes + validation.bytes, train.tokens + validation.tokens
        )

    @property
    def advance(self) -> Advance:
        return Advance(self.number, self.input_bytes, self.amounts)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Report":
        values: dict[str, Any] = json.loads(path.read_text())
        for name in ("train", "validation"):
            shards = tuple(Shard(**shard) for shard in values[name].pop("shards"))
            values[name] = Split(**values[name], shards=shards)
        values["limits"] = Limits(**values["limits"])
        return cls(**values)


def run_task(job: Job, task: Task, on_advance: OnAdvance) -> Report:
    """Prepare one part.

    Raises:
        UserError: the part cannot be read as what it is said to be.
    """
    try:
        return _attempt(job, task, on_advance)
    except TokenLimitReached as reached:
        # Documents were read ahead, and a long one may be written in part: once more, with the end known.
        limits = replace(task.limits, documents=reached.documents, tokens=None)
        return _attempt(job, replace(task, limits=limits), on_advance, reported_limits=task.limits)


def _attempt(job: Job, task: Task, on_advance: OnAdvance, reported_limits: Limits | None = None) -> Report:
    source = job.source_of(task)
    selection = job.selection(task)
    encoder = job.encoder
    with unfinished_folder(job.place.folder, task.number) as made:
        output = TaskOutput(made, f"{task.number:05d}", job.shard_tokens, encoder.dtype, job.held_out_bytes)
        for batch, encoded in encode_batches(batches(selection), encoder, job.threads):
            output.add(batch, encoded, task.limits.tokens)
            on_advance(Advance(task.number, source.bytes_read, output.amounts))
        splits = output.close()
        skipped = dict(Counter(source.skipped) + selection.skipped)
        input_bytes = source.bytes_read if selection.ended else task.part.size_bytes or source.bytes_read
        report = Report(
            task.number, reported_limits or task.limits, selection.ended, **splits, skipped=skipped,
            input_bytes=input_bytes,
        )  # fmt: skip
        (made / REPORT_NAME).write_text(report.to_json())
        job.place.finish_task(task.number, made)
    return report
