"""Corpora, raw and prepared, and the options of the commands that make and read them."""

import gzip
import json
import shutil
from pathlib import Path

from malformed_cases import Case, parametrize, require_refused

PREPARE = ("prepare", "--tokenizer", "Bytes", "--output_dir", "{here}/out", "--workers", "1")
CORPUS = "{world}/prepared"


def source(name: str, file: str, content: object, *words: str, more: tuple[str, ...] = (), make=None) -> Case:
    """A preparation of one file."""
    files = {} if content is None else {file: content}
    return Case((*PREPARE, "--source", name, "--source.paths", file, *more), words, files, make)


def prepare(*words: str, more: tuple[str, ...]) -> Case:
    """A preparation of sound text with further arguments."""
    return source("JsonLines", "a.jsonl", '{"text": "some words"}\n' * 50, *words, more=more)


def damaged(command: str, *words: str, make, more: tuple[str, ...] = ()) -> Case:
    """A command on a copy of the prepared corpus that ``make`` does something to."""

    def copied(here: Path, world: Path) -> None:
        shutil.copytree(world / "prepared", here / "corpus")
        make(here / "corpus")

    return Case((command, "corpus", *more), words, make=copied)


def manifest(change) -> object:
    """Something done to the values of a corpus' manifest."""

    def make(corpus: Path) -> None:
        path = corpus / "manifest.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return make


def shard(change) -> object:
    """Something done to the first training shard's file."""
    return lambda corpus: change(min((corpus / "train").glob("*.bin")))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def renamed_shard(name: str):
    """The first training shard has another name in the manifest."""

    def change(values: dict) -> dict:
        values["train"]["shards"][0]["file"] = name
        return values

    return change


SOURCES = {
    "no file": source("JsonLines", "nowhere.jsonl", None, "nowhere.jsonl", "correct paths"),
    "empty folder": source(
        "TextFiles", "texts", None, "texts", r"\.txt", make=lambda here, world: (here / "texts").mkdir()
    ),
    "other files": Case(
        (*PREPARE, "--source=TextFiles", "--source.paths=raw"), ("raw", r"1 x \.bin"), {"raw/a.bin": b"x"}
    ),
    "empty file": source("JsonLines", "a.jsonl", "", "empty", "source"),
    "no text": source("JsonLines", "a.jsonl", '{"text": ""}\n{"text": " "}\n', "empty|no document", "source"),
    "other field": source("JsonLines", "a.jsonl", '{"body": "x"}\n', "text", "body", "text_field"),
    "number for a text": source("JsonLines", "a.jsonl", '{"text": 3}\n', "text", "a number|int"),
    "broken line": source("JsonLines", "a.jsonl", '{"text": "x"}\n{"text": \n', "a.jsonl", "line 2"),
    "a JSON list": source("JsonLines", "a.jsonl", '["x"]\n', "a.jsonl", "line 1", "list"),
    "not UTF-8": source("JsonLines", "a.jsonl", b'{"text": "\xff\xfe"}\n', "a.jsonl", "utf-8"),
    "text not UTF-8": source("TextFiles", "a.txt", b"\xff\xfe\x00", "empty|no document", "not UTF-8"),
    "broken gzip": source("JsonLines", "a.jsonl.gz", b"no gzip", "a.jsonl.gz", "replace|damaged"),
    "gzip cut off": source(
        "JsonLines", "a.jsonl.gz", gzip.compress(b'{"text": "word word"}\n' * 999)[:60], "a.jsonl.gz", "cut off"
    ),
    "broken zstandard": source("JsonLines", "a.jsonl.zst", b"no zstandard", "a.jsonl.zst", "damaged|cannot read"),
    "broken Parquet": source("Parquet", "a.parquet", b"PAR1 no parquet", "a.parquet", "cannot read|not"),
    "empty Parquet": source("Parquet", "a.parquet", b"", "a.parquet"),
    "broken Arrow": source("Arrow", "a.arrow", b"ARROW1 nothing", "a.arrow"),
    "data set script": Case(
        (*PREPARE, "--source=HuggingFaceDataset", "--source.path=scripted"),
        ("scripted", "folder of data files"),
        {"scripted/scripted.py": "open('ran', 'w').close()\n"},
    ),
    "no data set": Case(
        (*PREPARE, "--source=HuggingFaceDataset", "--source.path=nobody/nothing"), ("nobody/nothing", "local folder")
    ),
}

PREPARE_OPTIONS = {
    "unknown source": Case((*PREPARE, "--source=Nothing"), ("Nothing",)),
    "no source": Case(PREPARE, ("source",)),
    "fraction 0": prepare("validation_fraction is 0", "between 0 and 1", more=("--validation_fraction=0",)),
    "fraction nan": prepare("validation_fraction is nan", "between 0 and 1", more=("--validation_fraction=.nan",)),
    "shard 0": prepare("shard_tokens is 0", "at least 1", more=("--shard_tokens=0",)),
    "shard enormous": prepare("shard_tokens", more=("--shard_tokens=100000000000000000000000",)),
    "part -1": prepare("part_bytes is -1", "at least 1", more=("--part_bytes=-1",)),
    "documents 1.5": prepare("max_documents", "1.5", more=("--max_documents=1.5",)),
    "workers 0": prepare("workers is 0", "at least 1", more=("--workers=0",)),
    "items -1": prepare("evaluation_items is -1", "0 or more", more=("--evaluation_items=-1",)),
    "seed -1": prepare("seed", "0", more=("--seed=-1",)),
    "engine": prepare("engine", "spark", "ray", more=("--engine=spark",)),
    "dtype": prepare("token_dtype", "int64", more=("--token_dtype=int64",)),
    "mistyped option": prepare("max_document", "did you mean --max_documents", more=("--max_document=3",)),
    "no output": prepare("output_dir is empty", more=("--output_dir=",)),
    "output is a file": prepare("output_dir|a.jsonl", "file", more=("--output_dir=a.jsonl",)),
    "output holds others": prepare("here", "other", more=("--output_dir={here}",)),
    "output below a file": prepare("a.jsonl", more=("--output_dir=a.jsonl/out",)),
    "bucket": prepare("s3://", "BUCKET", more=("--output_dir=s3://",)),
    "tokenizer": prepare("Nothing", more=("--tokenizer=Nothing",)),
    "vocabulary 10": prepare("vocab_size is 10", "257", more=("--tokenizer=TrainedBPE", "--tokenizer.vocab_size=10")),
    "vocabulary enormous": prepare(
        "vocab_size is 10", "at most", more=("--tokenizer=TrainedBPE", "--tokenizer.vocab_size=10000000000000")
    ),
    "vocabulary and uint16": prepare(
        "uint16", "65,536", more=("--tokenizer=TrainedBPE", "--tokenizer.vocab_size=70000", "--token_dtype=uint16")
    ),
    "no tokenizer": prepare("nowhere", "folder", more=("--tokenizer=Pretrained", "--tokenizer.name_or_path=nowhere")),
    "one document": source("JsonLines", "a.jsonl", '{"text": "x"}\n', "1 document", "validation_fraction|more"),
    "empty config": Case(("prepare", "--config", "a.yaml"), ("a.yaml", "nothing"), {"a.yaml": ""}),
}

PREPARED = {
    "no folder": Case(("verify", "nowhere"), ("nowhere", "tst-lightning prepare")),
    "no argument": Case(("verify",), ("data_dir",)),
    "empty": Case(("verify", "."), ("no prepared corpus", "tst-lightning prepare")),
    "no JSON": damaged("verify", "manifest.json", "prepare", make=lambda c: (c / "manifest.json").write_text("{")),
    "binary": damaged(
        "verify", "manifest.json", "prepare", make=lambda c: (c / "manifest.json").write_bytes(b"\xff\x00")
    ),
    "a list": damaged("verify", "manifest.json", "prepare", make=manifest(lambda values: [values])),
    "newer": damaged("verify", "newer release", "version 99", make=manifest(lambda v: v | {"format_version": 99})),
    "older": damaged("verify", "older release", "prepare", make=manifest(lambda v: v | {"format_version": 1})),
    "version of text": damaged("verify", "manifest", make=manifest(lambda v: v | {"format_version": "x"})),
    "unknown field": damaged("verify", "manifest", "extra", make=manifest(lambda v: v | {"extra": 1})),
    "no split": damaged("verify", "train", make=manifest(lambda v: {k: x for k, x in v.items() if k != "train"})),
    "splits of text": damaged("verify", "manifest", make=manifest(lambda v: v | {"train": "x"})),
    "tokens of text": damaged(
        "verify",
        "manifest|tokens",
        make=manifest(
            lambda v: v | {"train": v["train"] | {"shards": [s | {"tokens": "x"} for s in v["train"]["shards"]]}}
        ),
    ),
    "shard outside": damaged("verify", r"\.\./\.\./secret", "outside", make=manifest(renamed_shard("../../secret"))),
    "shard at the root": damaged("inspect", "/etc/passwd", "outside", make=manifest(renamed_shard("/etc/passwd"))),
    "file outside": damaged("verify", r"\.\./x", "outside", make=manifest(lambda v: v | {"files": {"../x": "0" * 64}})),
    "dtype": damaged("inspect", "float8", make=manifest(lambda v: v | {"token_dtype": "float8"})),
    "shard missing": damaged("verify", "is missing", "prepare", make=shard(Path.unlink)),
    "shard cut": damaged("verify", "bytes instead of", make=shard(lambda p: p.write_bytes(p.read_bytes()[:-2]))),
    "byte flipped": damaged("verify", "altered", make=shard(flip)),
    "shard a folder": damaged("verify", "cannot be read|bytes", make=shard(lambda p: (p.unlink(), p.mkdir()))),
    "tokenizer missing": damaged("verify", "tokenizer", "missing", make=lambda c: shutil.rmtree(c / "tokenizer")),
    "inspect without a shard": damaged("inspect", "lacks 1 of 4 shards", "verify", make=shard(Path.unlink)),
    "inspect a cut shard": damaged("inspect", "bin", make=shard(lambda p: p.write_bytes(p.read_bytes()[:40]))),
    "inspect without a tokenizer": damaged("inspect", "tokenizer", make=lambda c: shutil.rmtree(c / "tokenizer")),
    "inspect a broken tokenizer": damaged(
        "inspect", "tokenizer", make=lambda c: (c / "tokenizer" / "tokenizer.json").write_text("{")
    ),
    "inspect without documents": damaged(
        "inspect", "document_ends", make=lambda c: (c / "train" / "document_ends.u32").unlink()
    ),
    "n-grams without a shard": damaged("ngram", "lacks 1 of 4 shards", "verify", make=shard(Path.unlink)),
    "n-grams of a cut shard": damaged("ngram", "bin", make=shard(lambda p: p.write_bytes(p.read_bytes()[:40]))),
    "information of a cut shard": damaged(
        "mutual-information", "bin", make=shard(lambda p: p.write_bytes(p.read_bytes()[:40]))
    ),
}

READERS = {
    "inspect bag 0": Case(("inspect", CORPUS, "--bag_size=0"), ("bag_size is 0", "at least 1")),
    "inspect -1 windows": Case(("inspect", CORPUS, "--windows=-1"), ("windows is -1", "at least 1")),
    "inspect too long": Case(("inspect", CORPUS, "--sequence_length=1000000"), ("1,?000,?00", "token")),
    "inspect many": Case(("inspect", CORPUS, "--windows=many"), ("windows", "integer", "many")),
    "inspect into a file": Case(
        ("inspect", CORPUS, "--output_dir=a"), ("output_dir 'a' cannot be written",), {"a": "x"}
    ),
    "n-grams 1": Case(("ngram", CORPUS, "--n=1"), ("n=1", "from 2 to 64")),
    "n-grams r 0": Case(("ngram", CORPUS, "--r=0"), ("r=0", "from 1 to 255")),
    "n-grams rule": Case(("ngram", CORPUS, "--rule=B"), ("rule", "A", "E")),
    "n-grams workers": Case(("ngram", CORPUS, "--workers=0"), ("workers is 0", "at least 1")),
    "n-grams into a file": Case(("ngram", CORPUS, "--output_dir=a"), ("'a' is a file",), {"a": "x"}),
    "n-grams into others": Case(("ngram", CORPUS, "--output_dir=."), ("other files",), {"a": "x"}),
    "n-grams of nothing": Case(("ngram", "nowhere"), ("nowhere", "tst-lightning prepare")),
    "n-grams memory 1": Case(("ngram", CORPUS, "--max_memory_bytes=1", "--output_dir=out"), ("max_memory_bytes",)),
    "distance 0": Case(("mutual-information", CORPUS, "--max_distance=0"), ("max_distance is 0", "to 4096")),
    "distance too long": Case(
        ("mutual-information", CORPUS, "--max_distance=4096", "--output_dir=out"), ("4096", "lower max_distance")
    ),
    "10 tokens": Case(("mutual-information", CORPUS, "--max_tokens=10"), ("max_tokens is 10", "at least 10000")),
    "information into a file": Case(
        ("mutual-information", CORPUS, "--output_dir=a"), ("output_dir 'a' cannot be written",), {"a": "x"}
    ),
}


@parametrize(SOURCES)
def test_sources(case, here, world, capsys):
    require_refused(case, here, world, capsys)


@parametrize(PREPARE_OPTIONS)
def test_options_of_prepare(case, here, world, capsys):
    require_refused(case, here, world, capsys)


@parametrize(PREPARED | READERS, fast_every=2)
def test_prepared_corpora_and_their_readers(case, here, world, capsys):
    require_refused(case, here, world, capsys)
