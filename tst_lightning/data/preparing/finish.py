"""From finished tasks to a prepared corpus: shards in their places, indexes, evaluation items, the manifest."""

import hashlib
import importlib.metadata
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tst_lightning.data.manifest import Manifest, Shard, Split, TokenizerInfo
from tst_lightning.data.preparing.encoder import ENCODER_FILE, TOKENIZER_FOLDER, EncoderInfo
from tst_lightning.data.preparing.fraction import advice
from tst_lightning.data.preparing.place import LocalPlace, Place, task_folder
from tst_lightning.data.preparing.routing import SPLITS, SplitName
from tst_lightning.data.preparing.sharding import finish_split
from tst_lightning.data.preparing.task import VALIDATION_DIGESTS_FILE, Report
from tst_lightning.data.preparing.task_output import HELD_OUT_FILE, ends_file, read_held_out
from tst_lightning.errors import UserError

HELD_OUT_TEXT_BYTES = 20_000_000
"""Validation text that the bundled downstream tasks are made from: the first of the corpus."""

WORKING_FILES = ("tasks", "digests", "duplicates", VALIDATION_DIGESTS_FILE, ENCODER_FILE)
"""What a preparation keeps in its folder until it is complete."""


def finish_corpus(
    place: Place,
    reports: list[Report],
    encoder: EncoderInfo,
    options: dict[str, Any],
    digests: Callable[[], Iterable[bytes]],
) -> Manifest:
    """Make everything of the corpus that the tasks did not, in the place's folder; the manifest comes last.

    Args:
        place: where the tasks' results are.
        reports: of the tasks.
        encoder: of the corpus.
        options: of the preparation, for the manifest.
        digests: of the documents, called only for the advice on splits without any.

    Raises:
        UserError: there is no document for one of the splits.
    """
    skipped = sum((Counter(report.skipped) for report in reports), Counter())
    _require_documents(reports, skipped, options, digests)
    if isinstance(place, LocalPlace):
        _move_shards(place.folder, reports)
    splits = {split: _finish_split(place, split, reports, encoder) for split in SPLITS}
    items = _write_evaluation(place, reports, options)
    manifest = Manifest(
        options=options,
        tokenizer=TokenizerInfo(encoder.vocab_size, encoder.end_of_text_id, encoder.hash),
        token_dtype=encoder.token_dtype,
        **splits,
        skipped=dict(sorted(skipped.items())),
        evaluation_items=items,
        versions=versions(),
        files={name: sha256(place.folder / name) for name in small_files(place.folder)},
    )
    manifest.save(place.folder)
    return manifest


def remove_working_files(folder: Path) -> None:
    """Leave nothing but the corpus."""
    for name in WORKING_FILES:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def small_files(folder: Path) -> list[str]:
    """Paths in the folder of the corpus' files that are neither shards nor the manifest."""
    folders = (TOKENIZER_FOLDER, "evaluation", *SPLITS)
    paths = sorted(path for name in folders for path in (folder / name).glob("**/*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    return [name for name in names if not (name.startswith(SPLITS) and name.endswith(".bin"))]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Of the packages that the result may depend on."""
    names = ("tst-lightning", "litdata", "tokenizers", "transformers", "torch", "numpy")
    return {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in names}


def _move_shards(folder: Path, reports: list[Report]) -> None:
    """A finishing that was killed may have moved some of them before."""
    for split in SPLITS:
        (folder / split).mkdir(exist_ok=True)
        for report in reports:
            for shard in _split(report, split).shards:
                made = task_folder(folder, report.number) / split / shard.file
                if made.exists():
                    made.rename(folder / split / shard.file)


def _finish_split(place: Place, split: SplitName, reports: list[Report], encoder: EncoderInfo) -> Split:
    (place.folder / split).mkdir(exist_ok=True)
    shards: list[Shard] = []
    ends = [np.empty(0, "<u4")]
    for report in reports:
        shards += _split(report, split).shards
        ends.append(np.fromfile(place.task_file(report.number, ends_file(Path(), split).name), "<u4"))
    documents = sum(_split(report, split).documents for report in reports)
    text_bytes = sum(_split(report, split).bytes for report in reports)
    return finish_split(
        place.folder / split, shards, np.concatenate(ends), np.dtype(encoder.token_dtype), documents, text_bytes
    )


def _write_evaluation(place: Place, reports: list[Report], options: dict[str, Any]) -> dict[str, int]:
    if options["evaluation_items"] == 0:
        return {}
    from tst_lightning.data.preparing.heldout import write_heldout_items

    folder = place.folder / "evaluation"
    texts = _held_out_texts(place.task_file(report.number, HELD_OUT_FILE) for report in reports)
    return write_heldout_items(texts, folder, options["seed"], options["evaluation_items"])


def _held_out_texts(files: Iterable[Path | None]) -> list[str]:
    """The first validation documents, up to ``HELD_OUT_TEXT_BYTES``; the last one may be cut."""
    texts: list[str] = []
    left_bytes = HELD_OUT_TEXT_BYTES
    for path in files:
        for text in read_held_out(path) if path is not None and left_bytes > 0 else []:
            data = text.encode()
            if left_bytes > 0:
                texts.append(data[:left_bytes].decode(errors="ignore"))
            left_bytes -= len(data)
    return texts


def _require_documents(
    reports: list[Report], skipped: Counter[str], options: dict[str, Any], digests: Callable[[], Iterable[bytes]]
) -> None:
    documents = {split: sum(_split(report, split).documents for report in reports) for split in SPLITS}
    reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
    left_out = f" (left out: {reasons})" if skipped else ""
    if not any(documents.values()):
        raise UserError(f"the corpus is empty: it holds no document with text{left_out}; correct source")
    for split, count in documents.items():
        if count:
            continue
        if options["validation_source"] is not None:
            empty = "source" if split == "train" else "validation_source"
            raise UserError(f"no document is left for {split}{left_out}: give other text as {empty}")
        total, fraction = sum(documents.values()), options["validation_fraction"]
        raise UserError(
            f"none of {total} documents falls into {split} with validation_fraction {fraction}{left_out}: "
            f"{advice(total, fraction, digests)}, or give a validation_source"
        )


def _split(report: Report, split: SplitName) -> Split:
    return getattr(report, split)
