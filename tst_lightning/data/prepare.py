"""``tst-lightning prepare``: corpus -> tokenizer -> litdata token shards and a manifest."""

import importlib.metadata
import sys
import time
from pathlib import Path
from typing import Any

from tst_lightning.cores import available_cores
from tst_lightning.data.manifest import Manifest, TokenizerInfo
from tst_lightning.data.preparing.encode import Totals, encode_batches, write_batches
from tst_lightning.data.preparing.kept_text import KeptText
from tst_lightning.data.preparing.progress import Progress
from tst_lightning.data.preparing.reuse import already_prepared
from tst_lightning.data.preparing.routing import Corpus
from tst_lightning.data.preparing.sharding import ShardWriter, finish_split
from tst_lightning.data.preparing.whole_folder import whole_folder
from tst_lightning.data.sources.corpus import JsonLines, Parquet, TextFiles, TextSource
from tst_lightning.data.sources.huggingface import HuggingFaceDataset
from tst_lightning.data.sources.installed_docs import InstalledDocs
from tst_lightning.data.tokenizer import Bytes, Pretrained, Tokenizer, TrainedBPE
from tst_lightning.errors import UserError

__all__ = [
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

HELD_OUT_TEXT_BYTES = 20_000_000
"""Validation text kept in memory for the bundled downstream tasks."""


def prepare(
    source: TextSource,
    output_dir: str,
    tokenizer: Tokenizer,
    validation_fraction: float = 0.01,
    validation_source: TextSource | None = None,
    shard_tokens: int = 1_048_576,
    max_documents: int | None = None,
    max_bytes: int | None = None,
    evaluation_items: int = 500,
    seed: int = 0,
    threads: int | None = None,
    overwrite: bool = False,
) -> None:
    """Turn text into what `fit` trains on: a tokenizer, shards of token ids, and a manifest.

    The result appears in output_dir when it is complete, never in part. A second call with the same options
    does nothing. Documents keep their order and are separated by the end-of-text token. Which documents are
    held out for validation depends on the hash of their text alone, so the splits never share a document.

    Args:
        source: The corpus: TextFiles, JsonLines, Parquet, HuggingFaceDataset or InstalledDocs.
        output_dir: Folder to make.
        tokenizer: Bytes, TrainedBPE or Pretrained.
        validation_fraction: Share of the documents that is held out for validation. Without effect if
            validation_source is given.
        validation_source: A corpus for validation. Documents that it holds are left out of training.
        shard_tokens: Tokens in each shard file; the last of a split may have fewer.
        max_documents: Read at most this many documents of the source.
        max_bytes: Read at most this many bytes of text from the source.
        evaluation_items: Items to make for each bundled downstream task, from validation documents.
        seed: Seed of the choice of those items.
        threads: Threads that tokenize. Default: all cores.
        overwrite: Replace what was prepared in output_dir before, once the new one is complete.
    """
    _require_valid_values(locals())
    target = Path(output_dir)
    options = _source_options(source, validation_source) | {
        "tokenizer": tokenizer.options(),
        "validation_fraction": validation_fraction if validation_source is None else None,
        "shard_tokens": shard_tokens,
        "max_documents": max_documents,
        "max_bytes": max_bytes,
        "evaluation_items": evaluation_items,
        "seed": seed,
    }
    may_change = [] if source.content_must_match else ["source_content"]
    if validation_source is not None and not validation_source.content_must_match:
        may_change.append("validation_content")
    if already_prepared(target, options, may_change, overwrite):
        return
    corpus = Corpus(source, validation_source, validation_fraction, max_documents, max_bytes)
    started = time.perf_counter()
    with whole_folder(target) as folder:
        manifest = _write(folder, corpus, tokenizer, options, threads or available_cores())
        manifest.save(folder)
    _print_summary(target, manifest, time.perf_counter() - started)


def _source_options(source: TextSource, validation_source: TextSource | None) -> dict[str, Any]:
    return {
        "source": source.options(),
        "source_content": source.content(),
        "validation_source": validation_source and validation_source.options(),
        "validation_content": validation_source and validation_source.content(),
    }


def _require_valid_values(values: dict[str, Any]) -> None:
    problems = []
    if values["validation_source"] is None and not 0 < values["validation_fraction"] < 1:
        problems.append(
            f"validation_fraction is {values['validation_fraction']}: it has to lie between 0 and 1, "
            "both excluded; validation_source takes validation documents from elsewhere"
        )
    for name in ("shard_tokens", "max_documents", "max_bytes", "threads"):
        if values[name] is not None and values[name] < 1:
            problems.append(f"{name} is {values[name]}: it has to be at least 1")
    if values["evaluation_items"] < 0:
        problems.append(f"evaluation_items is {values['evaluation_items']}: it has to be 0 or more")
    if not values["output_dir"]:
        problems.append("output_dir is empty: name the folder to make")
    if problems:
        raise UserError("; ".join(problems))


def _write(folder: Path, corpus: Corpus, tokenizer: Tokenizer, options: dict[str, Any], threads: int) -> Manifest:
    """Write everything but the manifest."""
    encoder = tokenizer.build(corpus.training_documents)
    encoder.save(folder / "tokenizer")
    writers = {
        name: ShardWriter(folder / name, options["shard_tokens"], encoder.dtype) for name in ("train", "validation")
    }
    totals = Totals()
    held_out = KeptText(HELD_OUT_TEXT_BYTES)
    with Progress(corpus) as progress:
        encoded = encode_batches(held_out.collect(corpus.batches()), encoder, threads)
        write_batches(encoded, writers, totals, progress.update)
    _require_documents(totals, corpus, options)
    splits = {}
    for name, writer in writers.items():
        counts = totals.splits[name]
        splits[name] = finish_split(folder / name, *writer.close(), encoder.dtype, counts.documents, counts.bytes)
    return Manifest(
        options=options,
        tokenizer=TokenizerInfo(encoder.vocab_size, encoder.end_of_text_id, encoder.hash()),
        token_dtype=encoder.dtype.name,
        train=splits["train"],
        validation=splits["validation"],
        skipped=dict(sorted(corpus.skipped.items())),
        evaluation_items=_write_evaluation(folder, held_out, options),
        versions=_versions(),
    )


def _write_evaluation(folder: Path, held_out: KeptText, options: dict[str, Any]) -> dict[str, int]:
    if options["evaluation_items"] == 0:
        return {}
    from tst_lightning.data.preparing.heldout import write_heldout_items

    target = folder / "evaluation"
    target.mkdir()
    return write_heldout_items(held_out.texts, target, options["seed"], options["evaluation_items"])


def _require_documents(totals: Totals, corpus: Corpus, options: dict[str, Any]) -> None:
    documents = {name: counts.documents for name, counts in totals.splits.items()}
    skipped = ", ".join(f"{count} {reason}" for reason, count in corpus.skipped.items())
    left_out = f" (left out: {skipped})" if skipped else ""
    if not any(documents.values()):
        raise UserError(f"the corpus is empty: it holds no document with text{left_out}; correct source")
    for name, count in documents.items():
        if count:
            continue
        if options["validation_source"] is not None:
            empty = "source" if name == "train" else "validation_source"
            raise UserError(f"no document is left for {name}{left_out}: give other text as {empty}")
        raise UserError(
            f"none of {sum(documents.values())} documents falls into {name} with validation_fraction "
            f"{options['validation_fraction']}{left_out}: change it, give more documents, or give "
            "a validation_source"
        )


def _versions() -> dict[str, str]:
    names = ("tst-lightning", "litdata", "tokenizers", "transformers", "torch", "numpy")
    return {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in names}


def _print_summary(target: Path, manifest: Manifest, seconds: float) -> None:
    text_bytes = manifest.train.bytes + manifest.validation.bytes
    print(f"prepared '{target}' in {seconds:.1f} s ({text_bytes / 1e6 / seconds:.1f} MB/s of text)")
    for name, split in (("train", manifest.train), ("validation", manifest.validation)):
        print(
            f"  {name:<11}{split.documents:>10,} documents {split.bytes / 1e6:>10,.1f} MB "
            f"{split.tokens:>14,} tokens {len(split.shard_tokens):>6,} shards"
        )
    vocabulary = f"{manifest.tokenizer.vocab_size:,} ids, stored as {manifest.token_dtype}"
    print(
        f"  vocabulary {vocabulary}; {text_bytes / (manifest.train.tokens + manifest.validation.tokens):.2f}"
        " bytes a token"
    )
    for reason, count in (manifest.skipped | manifest.evaluation_items).items():
        print(f"  {reason}: {count:,}")
