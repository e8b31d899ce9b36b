"""Corpora to prepare, and prepared folders read back through litdata."""

import itertools
import json
import math
import random

import numpy as np
from litdata import StreamingDataset, TokensLoader
from tokenizers import Tokenizer as Backend

from tst_lightning.data.manifest import Manifest
from tst_lightning.data.sources.json_lines import JsonLines


def make_documents(count, seed=0):
    """Sentences of made-up words, 10 to 300 words a document, every one different."""
    choose = random.Random(seed)
    words = ["".join(choose.choices("abcdeé🙂", k=choose.randint(1, 9))) for _ in range(200)]
    return [f"{seed}-{n}. " + " ".join(choose.choices(words, k=choose.randint(10, 300))) for n in range(count)]


def write_jsonl(path, documents):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return JsonLines(str(path))


def shard_ids(folder):
    """Ids of each shard, read by litdata in blocks that fit every shard exactly."""
    lengths = [chunk["dim"] for chunk in json.loads((folder / "index.json").read_text())["chunks"]]
    block = math.gcd(*lengths)
    dataset = StreamingDataset(str(folder), item_loader=TokensLoader(block_size=block), shuffle=False)
    ids = np.concatenate([dataset[i].numpy() for i in range(len(dataset))])
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]


def decoded(folder, split):
    """The documents of a split, from its shards alone."""
    ids = list(itertools.chain(*shard_ids(folder / split)))
    end = Manifest.load(folder).tokenizer.end_of_text_id
    tokenizer = Backend.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    assert ids[-1] == end
    ends = [-1, *(position for position, value in enumerate(ids) if value == end)]
    pieces = [ids[a + 1 : b] for a, b in itertools.pairwise(ends)]
    return [tokenizer.decode(piece, skip_special_tokens=False) for piece in pieces]
