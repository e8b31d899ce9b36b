"""The files of a split: litdata token shards, their index, and where documents end.

Written without litdata, whose import brings torch and a quarter of a gigabyte into every process that only
tokenizes. ``litdata.StreamingDataset(folder, item_loader=TokensLoader(...))`` opens what is written here.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

HEADER_BYTES = 12
"""Number of items (1), and the first and last byte of the item, as litdata has them: uint32 each."""
INDEX_NAME = "index.json"
DOCUMENT_ENDS_NAME = "document_ends.u32"
"""Little-endian uint32, shard by shard: the position in its shard right after each document's end-of-text."""

_LITDATA_TYPE_NUMBERS = {"uint16": 20, "int32": 16}


def write_shard(path: Path, ids: np.ndarray) -> str:
    """Write one shard of token ids (1-D, uint16 or int32); returns the sha256 of the file."""
    header = np.array([1, HEADER_BYTES, HEADER_BYTES + ids.nbytes], dtype="<u4").tobytes()
    data = np.ascontiguousarray(ids)
    digest = hashlib.sha256(header)
    digest.update(data)
    with open(path, "wb") as file:
        file.write(header)
        file.write(data)
    return digest.hexdigest()


def map_shard(path: Path, dtype: str) -> np.ndarray:
    """The token ids of a shard, 1-D, read from the file as they are looked at."""
    return np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES)


def shard_bytes(tokens: int, dtype: str) -> int:
    """Size of the file of a shard of ``tokens``."""
    return HEADER_BYTES + tokens * np.dtype(dtype).itemsize


def index_json(files: Iterable[tuple[str, int]], shard_tokens: int, dtype: str) -> str:
    """litdata's index of shards given as (file name, tokens); ``shard_tokens`` is their common length."""
    chunks = [
        {"chunk_bytes": shard_bytes(tokens, dtype), "chunk_size": 1, "dim": tokens, "filename": name}
        for name, tokens in files
    ]
    config = {
        "chunk_bytes": None,
        "chunk_size": shard_tokens,
        "compression": None,
        "data_format": [f"no_header_tensor:{_LITDATA_TYPE_NUMBERS[dtype]}"],
        "data_spec": json.dumps([1, {"type": None, "context": None, "children_spec": []}]),
        "encryption": None,
        "item_loader": "TokensLoader",
    }
    return json.dumps({"chunks": chunks, "config": config}, indent=1) + "\n"
