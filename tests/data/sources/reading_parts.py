"""Reads a source part by part, as tasks in other processes would."""

import json
import pickle
from collections import Counter
from dataclasses import asdict
from itertools import chain

from tst_lightning.data.sources.base import Part


def json_lines(documents, field="text", end="\n"):
    return "".join(json.dumps({"id": i, field: text}) + end for i, text in enumerate(documents)).encode()


def read_in_parts(source, part_bytes):
    """Documents of each part and what was skipped: each part alone, by a copy of the source, the last first."""
    parts = source.parts(part_bytes)
    assert parts == source.parts(part_bytes)
    documents, skipped = [], Counter()
    for part in reversed(parts):
        part = Part(**json.loads(json.dumps(asdict(part))))
        reader = pickle.loads(pickle.dumps(source))
        documents.insert(0, list(reader.documents(part)))
        assert reader.bytes_read == part.size_bytes
        skipped.update(reader.skipped)
    return documents, skipped


def flat(parts):
    return list(chain.from_iterable(parts))


def check_file_parts(source, part_bytes):
    """Every byte of every file is in one part, in order; a part above ``part_bytes`` holds what cannot be cut."""
    parts = source.parts(part_bytes)
    assert sum(part.size_bytes for part in parts) == source.size_bytes()
    names = [name for part in parts for name in part.files]
    assert list(dict.fromkeys(names)) == [str(path.absolute()) for path in source.files()]
    reached = {}
    for part in parts:
        if part.last is None:
            assert part.first == 0
            assert part.size_bytes <= part_bytes or len(part.files) == 1
            assert not set(part.files) & set(reached)
        else:
            (name,) = part.files
            assert part.first == reached.get(name, 0)
            assert part.last > part.first
            reached[name] = part.last
