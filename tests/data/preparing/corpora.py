"""Whole preparations to compare: every file of a prepared folder, and one made in a single process."""

import json
from pathlib import Path

from prepared_folders import make_documents

from tst_lightning.data.prepare import prepare
from tst_lightning.data.sources.json_lines import JsonLines
from tst_lightning.data.tokenizer import Bytes

PART_BYTES = 10_000


def write_files(folder: Path, documents=None, files=3) -> JsonLines:
    """Documents in some JSON-lines files, of several parts each."""
    documents = make_documents(150) if documents is None else documents
    folder.mkdir(exist_ok=True)
    for number in range(files):
        lines = [json.dumps({"text": text}) + "\n" for text in documents[number::files]]
        (folder / f"{number}.jsonl").write_text("".join(lines))
    return JsonLines(str(folder))


def in_reading_order(documents, files=3):
    """The documents as ``write_files`` gives them back."""
    return [text for number in range(files) for text in documents[number::files]]


def prepare_small(source, out, tokenizer=None, **options):
    """``prepare`` into many small parts and shards; in this process, unless ``workers`` says otherwise."""
    options = {"validation_fraction": 0.2, "part_bytes": PART_BYTES, "shard_tokens": 4000, "workers": 1} | options
    prepare(source, str(out), tokenizer or Bytes(), **options)
    return out


def files_of(folder):
    """The content of every file by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
