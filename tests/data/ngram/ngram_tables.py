"""Small corpora with documents, their tables, and the counts that a dictionary makes of them."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from pseudo_corpus import BYTE_VOCABULARY, write_prepared

from tst_lightning.data.ngram.building import Build, remove_working_folders
from tst_lightning.data.ngram.job import Job
from tst_lightning.data.ngram.options import NgramOptions
from tst_lightning.data.ngram.table import NgramTable
from tst_lightning.data.ngram.text import TrainingText
from tst_lightning.data.preparing.partial_folder import PartialFolder
from tst_lightning.data.reading.cache import ShardCache
from tst_lightning.data.reading.prepared import PreparedCorpus, open_corpora
from tst_lightning.data.shard_format import map_shard
from tst_lightning.errors import UserError

END = BYTE_VOCABULARY - 1
MEMORY = 1_000_000_000


def small_corpus(folder: Path, seed: int = 0) -> Path:
    """Phrases with misprints, so that long contexts recur too; documents of all lengths, some across shards."""
    random = np.random.default_rng(seed)
    phrases = [random.integers(0, 12, length) * 23 for length in (1, 2, 5, 9, 12)]  # up to 253: all bits count
    shards = []
    for length in (2000, 2, 1500, 1, 2500):
        ids = np.concatenate([phrases[i] for i in random.integers(0, len(phrases), length)])[:length]
        misprints = random.random(length) < 0.05
        ids[misprints] = random.integers(0, 12, misprints.sum()) * 23
        ids[random.random(length) < 0.01] = END
        shards.append(ids.astype(np.uint16))
    shards[0][:4] = END  # documents without a text
    return write_prepared(folder, shards, [shards[0]])


def corpus_of(folder: Path) -> PreparedCorpus:
    return open_corpora(str(folder), None)[0]


def job_of(folder: Path, target: Path, chunk_tokens: int = 1100, **options) -> Job:
    text = TrainingText.of_corpus(corpus_of(folder), ShardCache(None, 10**9))
    return Job(target, text, NgramOptions(**options), chunk_tokens)


def build(folder: Path, target: Path, workers: int = 1, memory: int = MEMORY, **options) -> NgramTable:
    """A table of small chunks, so that there are several."""
    target.mkdir(exist_ok=True)
    Build(job_of(folder, target, **options), PartialFolder(target), workers, memory).run(corpus_of(folder))
    remove_working_folders(target)
    return NgramTable(str(target))


def ids_of(folder: Path) -> list[np.ndarray]:
    manifest = corpus_of(folder).manifest
    return [np.array(map_shard(folder / "train" / shard.file, manifest.token_dtype)) for shard in manifest.train.shards]


def contexts_of(folder: Path, n: int) -> list[tuple | None]:
    """The context of every token of the text; None without ``n - 1`` tokens of its document before it."""
    contexts, document = [], []
    for token in np.concatenate(ids_of(folder)).tolist():
        contexts.append(tuple(document[-(n - 1) :]) if len(document) >= n - 1 else None)
        document.append(token)
        if token == END:
            document = []
    return contexts


def counted(folder: Path, n: int) -> dict[tuple, Counter]:
    counts = defaultdict(Counter)
    for context, token in zip(contexts_of(folder, n), np.concatenate(ids_of(folder)).tolist(), strict=True):
        if context is not None:
            counts[context][token] += 1
    return counts


def all_targets(table: NgramTable) -> tuple[np.ndarray, np.ndarray]:
    return table.targets([(shard, 0, tokens) for shard, tokens in enumerate(table.manifest.shard_tokens)])


def refusing(message: str):
    return pytest.raises(UserError, match=message)
