"""``tst-lightning ngram``: from a prepared corpus to the table that n-gram targets are read from."""

import json
import time
from dataclasses import asdict
from pathlib import Path

from tst_lightning.data.manifest import FILE_NAME
from tst_lightning.data.ngram.options import NgramOptions, Rule
from tst_lightning.errors import UserError

_CACHE_BYTES = 20_000_000_000  # the datamodule's


def ngram(
    data_dir: str,
    output_dir: str | None = None,
    n: int = 4,
    r: int = 8,
    min_count: int = 2,
    rule: Rule = "E",
    seed: int = 0,
    workers: int = 2,
    max_memory_bytes: int = 2_000_000_000,
    cache_dir: str | None = None,
    overwrite: bool = False,
) -> None:
    """Count which tokens follow the last n - 1 tokens in the training text, for callbacks.NgramTargets.

    The same command again goes on from what a killed one has finished. The table appears in output_dir when it is
    complete, never in part; it does not depend on workers or max_memory_bytes. It takes 6 bytes for each token of the
    corpus (three times the corpus; 8 if the vocabulary has more than 65,536 tokens) and 6 * r + 4 for each context.
    While it is built, there are beside it up to 6 bytes a token, and 10 for each different n-gram of each 4 million
    tokens: for natural text and subwords at most as much as the table and 10 bytes a token more.

    Args:
        data_dir: Folder or URL with a prepared corpus.
        output_dir: Folder to make. Default: the corpus' name with _ngram and n appended, beside a local corpus or in
            the current folder.
        n: A context is the n - 1 tokens before a token, within its document.
        r: Tokens of each context's distribution that are kept, the most frequent ones.
        min_count: Contexts that occur less often leave their tokens one-hot.
        rule: What stands for the tokens that are not kept. A: nothing, and tokens that are not kept are one-hot. E: one
            of them, with the probability of all; lower variance.
        seed: Of the tokens that rule E draws.
        workers: Processes; each needs 500 MB or more.
        max_memory_bytes: Memory of all workers together.
        cache_dir: Where copies of a remote corpus are kept, by default ~/.cache/tst-lightning.
        overwrite: Replace the table in output_dir, once the new one is complete.

    Raises:
        UserError: there is no prepared corpus, an option is out of range, or output_dir holds something else.
    """
    options = NgramOptions(n, r, min_count, rule, seed)
    for name, value in (("workers", workers), ("max_memory_bytes", max_memory_bytes)):
        if value < 1:
            raise UserError(f"{name} is {value}, and must be at least 1")
    from tst_lightning.data.ngram.building import Build, job_digest, remove_working_folders
    from tst_lightning.data.ngram.job import Job
    from tst_lightning.data.ngram.table_manifest import TableManifest
    from tst_lightning.data.ngram.text import TrainingText
    from tst_lightning.data.preparing.partial_folder import partial_folder, replace_folder
    from tst_lightning.data.reading.cache import ShardCache
    from tst_lightning.data.reading.prepared import open_corpora
    from tst_lightning.data.storage import is_remote

    (corpus,) = open_corpora(data_dir, cache_dir)
    if output_dir is None:
        name = data_dir.rstrip("/").rpartition("/")[2] if is_remote(data_dir) else Path(data_dir)
        output_dir = f"{name}_ngram{n}"
    target = Path(output_dir)
    if not overwrite and _already_built(target, corpus.hash, corpus.manifest.tokenizer.hash, options):
        print(f"already built: '{output_dir}'")
        return
    _require_free(target)
    text = TrainingText.of_corpus(corpus, ShardCache(cache_dir, _CACHE_BYTES))
    if text.tokens == 0:
        raise UserError(f"'{data_dir}' has no training text: prepare more")
    started = time.perf_counter()
    digest = job_digest(corpus, Job(target, text, options))
    with partial_folder(target, digest) as folder:
        build = Build(Job(folder.path, text, options), folder, workers, max_memory_bytes)
        # The manifest is there if an earlier call was killed in its last moment.
        is_whole = (folder.path / FILE_NAME).is_file()
        manifest = TableManifest.load(folder.path) if is_whole else build.run(corpus)
        remove_working_folders(folder.path)
        replace_folder(folder.path, target)
    _print_summary(output_dir, manifest, time.perf_counter() - started)


def _already_built(target: Path, corpus_hash: str, tokenizer_hash: str, options: NgramOptions) -> bool:
    """Whether just this table is there; raises ``UserError`` if another one is."""
    from tst_lightning.data.ngram.table import NgramTable

    if not (target / FILE_NAME).is_file():
        return False
    manifest = NgramTable(str(target)).manifest
    same = {"corpus_hash": corpus_hash, "tokenizer_hash": tokenizer_hash, "options": asdict(options)}
    other = [name for name, value in same.items() if getattr(manifest, name) != value]
    if other:
        what = json.dumps(manifest.options) if other == ["options"] else "another corpus"
        raise UserError(
            f"'{target}' holds an n-gram table of {what}: choose another output_dir, or replace it with "
            "--overwrite true"
        )
    return True


def _require_free(target: Path) -> None:
    """Refuse a folder of something else, which must not be deleted; raises ``UserError``."""
    from tst_lightning.data.ngram.table_manifest import KIND
    from tst_lightning.files import read_json

    if target.is_file():
        raise UserError(f"output_dir '{target}' is a file: choose another")
    manifest = read_json(target / FILE_NAME) or {}
    if target.is_dir() and any(target.iterdir()) and manifest.get("kind") != KIND:
        raise UserError(f"output_dir '{target}' holds other files than an n-gram table: choose another, or empty it")


def _print_summary(output_dir: str, manifest: object, seconds: float) -> None:
    statistics = manifest.statistics
    size_bytes = sum(file["bytes"] for file in manifest.files.values())
    print(
        f"'{output_dir}': {manifest.rows - 1:,} of {statistics['contexts']:,} contexts have a row, "
        f"{statistics['share_of_tokens_with_a_row']:.1%} of {statistics['tokens']:,} tokens have one as their target; "
        f"tail {statistics['tail_share']:.1%}; {size_bytes / 1e6:,.1f} MB, {seconds:.1f} s"
    )
