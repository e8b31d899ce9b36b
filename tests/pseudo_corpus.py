"""Prepared corpora of made-up text, written without the preparation."""

import hashlib
from pathlib import Path

import numpy as np

from tst_lightning.data.manifest import Manifest, Split, TokenizerInfo
from tst_lightning.data.preparing.sharding import ShardWriter, finish_split

END_OF_TEXT = "<|endoftext|>"
BYTE_VOCABULARY = 257


def write_byte_tokenizer(folder: Path) -> str:
    """A byte-level BPE without merges: ids 0-255 are bytes, 256 ends a text. Returns a hash of its rules."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT).save_pretrained(folder)
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def pseudo_text_tokens(tokens: int, seed: int) -> np.ndarray:
    """Token ids below 257 with something to learn: words of a small dictionary, drawn at random."""
    generator = np.random.default_rng(seed)
    words = [generator.integers(0, 256, generator.integers(3, 8)) for _ in range(200)]
    ids = np.concatenate([words[i] for i in generator.zipf(1.4, tokens // 3 + 1) % len(words)])[:tokens]
    ids[generator.integers(0, tokens, max(1, tokens // 500))] = BYTE_VOCABULARY - 1
    return ids.astype(np.uint16)


def write_split(folder: Path, shards: list[np.ndarray]) -> Split:
    """One split of the given shards; a document ends at every end-of-text id."""
    written, ends = [], []
    for number, ids in enumerate(shards):
        # A writer for each, because these are of different lengths.
        writer = ShardWriter(folder, len(ids), ids.dtype, name=str(number))
        document_ends = np.flatnonzero(ids == BYTE_VOCABULARY - 1) + 1
        writer.append(ids, np.diff(document_ends, prepend=0))
        (shard,), shard_ends = writer.close()
        written.append(shard)
        ends.append(shard_ends)
    tokens = sum(len(ids) for ids in shards)
    documents = sum(map(len, ends))
    return finish_split(folder, written, np.concatenate(ends), shards[0].dtype, documents, text_bytes=tokens)


def write_prepared(folder: Path, train_shards: list[np.ndarray], validation_shards: list[np.ndarray]) -> Path:
    """A prepared corpus as ``prepare`` leaves it, without evaluation items."""
    tokenizer_hash = write_byte_tokenizer(folder / "tokenizer")
    splits = {
        "train": write_split(folder / "train", train_shards),
        "validation": write_split(folder / "validation", validation_shards),
    }
    small = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".bin"]
    Manifest(
        options={"source": "pseudo_text"},
        tokenizer=TokenizerInfo(BYTE_VOCABULARY, BYTE_VOCABULARY - 1, tokenizer_hash),
        token_dtype="uint16",
        **splits,
        files={str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in small},
    ).save(folder)
    return folder
