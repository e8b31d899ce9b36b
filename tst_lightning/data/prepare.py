"""``tst-lightning prepare``: corpus -> tokenizer -> litdata token shards and a manifest."""

import time
from pathlib import Path
from typing import Any, Literal

from tst_lightning.data.manifest import FILE_NAME, Manifest
from tst_lightning.data.preparing.encoder import TokenDtype
from tst_lightning.data.preparing.engines import Engine
from tst_lightning.data.preparing.finish import HELD_OUT_TEXT_BYTES, finish_corpus, remove_working_files
from tst_lightning.data.preparing.fraction import taken_digests
from tst_lightning.data.preparing.in_order import run_in_order
from tst_lightning.data.preparing.limits import Limits
from tst_lightning.data.preparing.partial_folder import PartialFolder, partial_folder, replace_folder
from tst_lightning.data.preparing.place import LocalPlace, RemotePlace, remove_unfinished
from tst_lightning.data.preparing.progress import Progress
from tst_lightning.data.preparing.remote import publish, scratch_target, withdraw_previous
from tst_lightning.data.preparing.reuse import already_prepared, options_digest
from tst_lightning.data.preparing.stages import (
    choose_engine,
    finished_reports,
    make_tasks,
    needed_tasks,
    share_duplicates,
    share_encoder,
    share_validation_digests,
)
from tst_lightning.data.preparing.summary import print_summary
from tst_lightning.data.preparing.task import Job, Report, Task
from tst_lightning.data.preparing.values import require_valid_values
from tst_lightning.data.sources.arrow import Arrow
from tst_lightning.data.sources.base import TextSource
from tst_lightning.data.sources.huggingface import HuggingFaceDataset
from tst_lightning.data.sources.installed_docs import InstalledDocs
from tst_lightning.data.sources.json_lines import JsonLines
from tst_lightning.data.sources.parquet import Parquet
from tst_lightning.data.sources.text_files import TextFiles
from tst_lightning.data.storage import is_remote
from tst_lightning.data.tokenizer import Bytes, Pretrained, Tokenizer, TrainedBPE
from tst_lightning.errors import UserError

__all__ = [
    "Arrow",
    "Bytes",
    "HuggingFaceDataset",
    "InstalledDocs",
    "JsonLines",
    "Parquet",
    "Pretrained",
    "TextFiles",
    "TrainedBPE",
    "prepare",
]


def prepare(
    source: TextSource,
    output_dir: str,
    tokenizer: Tokenizer,
    validation_fraction: float = 0.01,
    validation_source: TextSource | None = None,
    shard_tokens: int = 1_048_576,
    token_dtype: TokenDtype = "auto",
    part_bytes: int = 16_000_000,
    max_documents: int | None = None,
    max_bytes: int | None = None,
    max_tokens: int | None = None,
    deduplicate: bool = False,
    evaluation_items: int = 500,
    seed: int = 0,
    workers: int | None = None,
    engine: Literal["processes", "ray"] = "processes",
    overwrite: bool = False,
) -> None:
    """Turn text into what `fit` trains on: a tokenizer, shards of token ids, and a manifest.

    The source is prepared in parts, side by side. The result does not depend on how many workers there are, on
    the engine, or on interruptions: the same command again goes on from the parts that were finished. It appears
    in output_dir when it is complete, never in part; a further call with the same options does nothing.
    Documents keep their order and are separated by the end-of-text token. Which documents are held out for
    validation depends on the hash of their text alone, so the splits never share a document. A document of more
    than 1 MiB is encoded in pieces, cut at line starts where it has lines: its token ids at a cut may differ from
    those of the whole. A worker needs less than 500 MB of memory unless single documents are larger than 50 MB.

    max_documents, max_bytes and max_tokens count what is taken from source for either split; the first document
    that would exceed one of them is left out and ends the reading.

    Called from a script with more than one worker, it has to be under `if __name__ == "__main__":`.

    Args:
        source: The corpus: TextFiles, JsonLines, Parquet, Arrow, HuggingFaceDataset or InstalledDocs.
        output_dir: Folder to make, or where in object storage to write: s3://bucket/path or gs://bucket/path.
            There, a corpus that is overwritten is unreadable until the new one is complete.
        tokenizer: Bytes, TrainedBPE or Pretrained.
        validation_fraction: Share of the documents that is held out for validation. Without effect if
            validation_source is given.
        validation_source: A corpus for validation. Documents that it holds are left out of training.
        shard_tokens: Tokens in each shard file; the last of a part may have fewer.
        token_dtype: How ids are stored. auto: uint16 if it holds the vocabulary, else int32.
        part_bytes: Bytes of input, as stored, in each part; a file that cannot be cut is one part at least.
        max_documents: Documents to take at most.
        max_bytes: Bytes of text (UTF-8) to take at most.
        max_tokens: Tokens to take at most, with one end-of-text a document.
        deduplicate: Leave out documents whose text occurred before. Reads the whole source once more, also
            if there are limits, which count what is left.
        evaluation_items: Items to make for each bundled downstream task, from validation documents.
        seed: Seed of the choice of those items.
        workers: Processes, or with fewer parts than workers, processes times threads. Default: all cores.
        engine: processes of this machine, or ray: tasks on the Ray cluster at RAY_ADDRESS, else on a local one.
            The workers of a cluster need the source and output_dir in common: a shared disk, or object storage.
        overwrite: Replace what was prepared in output_dir before, once the new one is complete.
    """
    require_valid_values(locals())
    limits = Limits(max_documents, max_bytes, max_tokens)
    options = {
        "source": source.options(),
        "source_content": source.content(),
        "validation_source": validation_source and validation_source.options(),
        "validation_content": validation_source and validation_source.content(),
        "tokenizer": tokenizer.options(),
        "validation_fraction": validation_fraction if validation_source is None else None,
        "shard_tokens": shard_tokens,
        "token_dtype": token_dtype,
        "part_bytes": part_bytes,
        "max_documents": max_documents,
        "max_bytes": max_bytes,
        "max_tokens": max_tokens,
        "deduplicate": deduplicate,
        "evaluation_items": evaluation_items,
        "seed": seed,
    }
    if already_prepared(output_dir, options, _may_change(source, validation_source), overwrite):
        return
    started = time.perf_counter()
    digest = options_digest(options)
    with partial_folder(scratch_target(output_dir) if is_remote(output_dir) else Path(output_dir), digest) as folder:
        place = RemotePlace(folder.path, output_dir, digest) if is_remote(output_dir) else LocalPlace(folder.path)
        tasks = make_tasks(source, validation_source, part_bytes)
        chosen_engine, threads = choose_engine(engine, workers, needed_tasks(tasks, limits))
        job = Job(
            place, source, validation_source, validation_fraction, shard_tokens, deduplicate,
            HELD_OUT_TEXT_BYTES if evaluation_items else 0, threads,
        )  # fmt: skip
        if (folder.path / FILE_NAME).is_file():  # killed in its last moment
            manifest = Manifest.load(folder.path)
        else:
            manifest = _prepare(folder, job, tasks, tokenizer, limits, options, chosen_engine)
        if is_remote(output_dir):
            publish(place, manifest, len(tasks))
            folder.is_worth_keeping = False
        else:
            remove_working_files(folder.path)
            replace_folder(folder.path, Path(output_dir))
    print_summary(output_dir, manifest, time.perf_counter() - started)


def _prepare(
    folder: PartialFolder,
    job: Job,
    tasks: list[Task],
    tokenizer: Tokenizer,
    limits: Limits,
    options: dict[str, Any],
    engine: Engine,
) -> Manifest:
    """Everything from the first reading to the manifest, going on from what is there."""
    remove_unfinished(folder.path)
    share_validation_digests(job, tasks)
    share_duplicates(job, tasks, engine, folder.keep)
    encoder = share_encoder(job, tokenizer, tasks, limits, options["token_dtype"])
    if tokenizer.is_trained:
        folder.keep()
    finished = finished_reports(job.place, tasks)
    if finished:
        print(f"going on: {len(finished)} of {len(tasks)} parts are finished")
    elif isinstance(job.place, RemotePlace):
        withdraw_previous(job.place)
    reports = _run(job, tasks, finished, limits, engine, folder)
    try:
        return finish_corpus(job.place, reports, encoder, options, lambda: taken_digests(job, tasks, reports))
    except UserError:
        folder.is_worth_keeping = False  # the same options would end the same way
        raise


def _run(
    job: Job, tasks: list[Task], finished: dict[int, Report], limits: Limits, engine: Engine, folder: PartialFolder
) -> list[Report]:
    sizes = [source.size_bytes() for source in (job.source, job.validation_source) if source is not None]
    unlimited = frozenset(task.number for task in tasks if task.is_validation)
    with Progress("preparing", limits, None if None in sizes else sum(sizes), unlimited) as progress:
        progress.start_with([report.advance for report in finished.values()])
        return run_in_order(job, tasks, finished, limits, engine, progress.update, on_finish=folder.keep)


def _may_change(source: TextSource, validation_source: TextSource | None) -> list[str]:
    names = {"source_content": source, "validation_content": validation_source}
    return [name for name, each in names.items() if each is not None and not each.content_must_match]
