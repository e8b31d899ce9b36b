"""Builds an n-gram table in a folder beside its place: three steps, whatever is finished of them is kept.

1. Every chunk of the text is sorted and its (context, token) pairs are counted.
2. The contexts are cut into parts by their keys. For each part the counts of all chunks are added up, and its rows
   of the table are chosen.
3. Every chunk's tokens get their rows and tail tokens.

No step holds more than a chunk or a part. Beside the table, a build takes 4 bytes a token, 2 bytes (or 4, as the ids
have) for each drawn tail token, and about 10 bytes for each different pair of each chunk of 4,194,304 tokens; these
are removed at the end.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tst_lightning.data.ngram import arrays
from tst_lightning.data.ngram.assigning import ROWS_NAME, assign_chunk, assigned_mark, tails_name
from tst_lightning.data.ngram.counting import MOST_TOKEN_BITS, has_context, sorted_pairs
from tst_lightning.data.ngram.job import Job
from tst_lightning.data.ngram.merging import merge_part
from tst_lightning.data.ngram.table_manifest import FORMAT_VERSION, TableManifest
from tst_lightning.data.preparing.engines import InProcess, Processes
from tst_lightning.data.preparing.partial_folder import PartialFolder
from tst_lightning.data.preparing.place import remove_unfinished
from tst_lightning.data.preparing.progress import SECONDS_BETWEEN_LINES
from tst_lightning.data.reading.prepared import PreparedCorpus
from tst_lightning.errors import UserError

CHUNK_BYTES = 500_000_000
"""Memory that a chunk takes at most, with the interpreter."""
PAIR_BYTES = 160
"""Memory that each pair of a chunk takes while a part is merged."""
PARTS_PER_WORKER = 4


def count_chunk(job: Job, chunk: int, on_advance: object = None) -> None:
    """Sort a chunk and save its ``Pairs``."""
    first, stop = job.chunk(chunk)
    before = job.options.n - 1
    # Before the text there is nothing: what is put there begins a document.
    missing = max(0, before - first)
    begin = first - before + missing
    ids = np.concatenate([np.zeros(missing, job.text.token_dtype), job.text.read(begin, stop)])
    starts = job.text.document_starts(begin, stop) - begin + missing
    positions = np.flatnonzero(has_context(len(ids), starts, job.options.n)).astype(np.uint32)
    keys = job.keys.of(ids.astype(np.uint64))[positions]
    pairs = sorted_pairs(keys, job.keys.bits, ids[before:][positions], positions, job.text.token_bits)
    arrays.save(job.counted, chunk, pairs.arrays())


class Build:
    """Fills a folder with a table.

    Args:
        job: what to build, and where.
        folder: the partial folder, to be told when there is something to keep.
        workers: processes.
        max_memory_bytes: of all processes together.

    Raises:
        UserError: that is too little for the workers, or the vocabulary too large.
    """

    def __init__(self, job: Job, folder: PartialFolder, workers: int, max_memory_bytes: int) -> None:
        if max_memory_bytes < workers * CHUNK_BYTES:
            raise UserError(
                f"max_memory_bytes={max_memory_bytes:,} is too little for workers={workers}: "
                f"allow {CHUNK_BYTES:,} bytes each, or lower workers"
            )
        if job.text.token_bits > MOST_TOKEN_BITS:
            raise UserError(
                f"the vocabulary has {job.text.shards.vocab_size:,} tokens, n-grams are counted of up to "
                f"{1 << MOST_TOKEN_BITS:,}: prepare the corpus with a smaller one"
            )
        self.job = job
        self.folder = folder
        self.workers = workers
        self.worker_bytes = max_memory_bytes // workers
        self._bar: tqdm | None = None

    def run(self, corpus: PreparedCorpus) -> TableManifest:
        """From whatever is there to the manifest."""
        job = self.job
        remove_unfinished(job.counted)
        with tqdm(
            total=3 * job.text.tokens, unit=" tokens", unit_scale=1 / 3,
            mininterval=0.5 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES,
        ) as self._bar:  # fmt: skip
            chunk_tokens = [stop - first for first, stop in map(job.chunk, range(job.chunks))]
            self._step("counting", partial(count_chunk, job), partial(arrays.is_saved, job.counted), chunk_tokens)
            parts = self._parts()
            remove_unfinished(job.merged(parts))
            part_tokens = np.diff(np.arange(parts + 1) * job.text.tokens // parts).tolist()
            merged = job.merged(parts)
            self._step("merging", partial(merge_part, job, parts), partial(arrays.is_saved, merged), part_tokens)
            sums = np.stack([arrays.load(merged, part, "sums") for part in range(parts)])
            row_offsets = self._prepare_files(parts, sums[:, 1])
            assign = partial(assign_chunk, job, row_offsets)
            self._step("writing", assign, lambda chunk: assigned_mark(job, chunk).exists(), chunk_tokens)
        return self._finish(corpus, sums.sum(0).tolist())

    def _step(
        self, name: str, function: Callable[[int, object], None], is_done: Callable[[int], bool], tokens: list[int]
    ) -> None:
        """Call ``function(number, on_advance)`` for every number that is not done."""
        self._bar.set_description(name)
        missing = [number for number in range(len(tokens)) if not is_done(number)]
        done = sum(tokens) - sum(tokens[number] for number in missing)
        # What an earlier call has done is left out of the rate.
        self._bar.n, self._bar.initial = self._bar.n + done, self._bar.initial + done
        workers = min(self.workers, len(missing))
        engine = Processes(workers) if workers > 1 else InProcess()
        with closing(engine.run(function, iter(missing), lambda advance: None)) as outcomes:
            for number, outcome in outcomes:
                if isinstance(outcome, UserError):
                    raise outcome
                self.folder.keep()
                self._bar.update(tokens[number])

    def _parts(self) -> int:
        """A power of two: so many that a part fits into a worker's memory, and that the workers end together."""
        job = self.job
        pairs = sum(len(arrays.load(job.counted, chunk, "counts")) for chunk in range(job.chunks))
        drawn_bytes = 2 * job.text.tokens * np.dtype(job.text.token_dtype).itemsize
        needed = max((pairs * PAIR_BYTES + drawn_bytes) / self.worker_bytes, PARTS_PER_WORKER * self.workers)
        return min(1 << (int(np.ceil(needed)) - 1).bit_length(), 1 << job.keys.bits)

    def _prepare_files(self, parts: int, rows: np.ndarray) -> tuple[int, ...]:
        """Write the table's rows, make room for the tokens' files; returns the rows before each part."""
        job, r = self.job, self.job.options.r
        if rows.sum() >= np.iinfo(np.uint32).max:
            raise UserError(f"the table would have {rows.sum():,} rows, more than it can number: raise min_count")
        one_hot = {"ids": np.zeros((1, r), job.text.token_dtype), "weights": np.zeros((1, r + 1), np.float32)}
        one_hot["weights"][0, r] = 1
        for name, kind in (("ids", job.text.token_dtype), ("weights", "f32")):
            with open(job.folder / f"{name}.{kind}", "wb") as file:
                file.write(one_hot[name].tobytes())
                for part in range(parts):
                    file.write(np.ascontiguousarray(arrays.load(job.merged(parts), part, name)).data)
        (job.folder / "assigned").mkdir(exist_ok=True)
        sizes = {ROWS_NAME: 4, tails_name(job.text.token_dtype): np.dtype(job.text.token_dtype).itemsize}
        for name, itemsize in sizes.items():
            with open(job.folder / name, "ab") as file:
                os.truncate(file.fileno(), job.text.tokens * itemsize)
        return tuple((np.cumsum(rows) - rows).tolist())

    def _finish(self, corpus: PreparedCorpus, sums: list[int]) -> TableManifest:
        """Write the manifest; with it the table is whole."""
        job, (contexts, rows, covered, tail) = self.job, sums
        files = {}
        for name in (f"ids.{job.text.token_dtype}", "weights.f32", ROWS_NAME, tails_name(job.text.token_dtype)):
            with open(job.folder / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[name] = {"bytes": (job.folder / name).stat().st_size, "sha256": digest}
        with_row = covered - tail if job.options.rule == "A" else covered
        statistics = {
            "tokens": job.text.tokens,
            "contexts": contexts,
            "contexts_are_exact": job.keys.exact,
            "share_of_tokens_with_a_row": with_row / max(1, job.text.tokens),
            "tail_share": tail / max(1, covered),
        }
        manifest = TableManifest(
            asdict(job.options), corpus.data_dir, corpus.hash, corpus.manifest.tokenizer.hash, job.text.token_dtype,
            corpus.manifest.train.shard_tokens, rows + 1, statistics, files,
        )  # fmt: skip
        manifest.save(job.folder)
        return manifest


def remove_working_folders(folder: Path) -> None:
    """Of a build whose manifest is written."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)


def job_digest(corpus: PreparedCorpus, job: Job) -> str:
    """Names the folder in which a table grows: the same corpus and options go on with what is there."""
    identity = [FORMAT_VERSION, corpus.hash, corpus.manifest.tokenizer.hash, asdict(job.options), job.chunk_tokens]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
