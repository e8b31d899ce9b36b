"""Prepared folders against the documents, concatenated in Python."""

import errno
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from jsonargparse import auto_parser
from litdata import StreamingDataset, TokensLoader
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from tst_lightning.cli import main
from tst_lightning.data import encode
from tst_lightning.data.corpus import JsonLines, TextFiles, TextSource
from tst_lightning.data.installed_docs import InstalledDocs
from tst_lightning.data.manifest import Manifest
from tst_lightning.data.prepare import prepare
from tst_lightning.data.sharding import ShardWriter
from tst_lightning.data.shards import Shards, require_shards
from tst_lightning.data.tokenizer import Bytes, TrainedBPE
from tst_lightning.data.whole_folder import whole_folder
from tst_lightning.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs" / "prepare"


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


def snapshot(folder):
    """Every file with its time of change and content."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture
def corpus(tmp_path):
    return write_jsonl(tmp_path / "corpus.jsonl", make_documents(120))


@pytest.fixture(scope="module")
def byte_folder(tmp_path_factory):
    """120 documents as bytes: (folder, documents)."""
    folder = tmp_path_factory.mktemp("bytes")
    source = write_jsonl(folder / "corpus.jsonl", make_documents(120))
    prepare(source, str(folder / "out"), Bytes(), validation_fraction=0.2, shard_tokens=1000)
    return folder / "out", make_documents(120)


def test_splits_hold_every_document_once_and_in_order(byte_folder):
    folder, documents = byte_folder
    train, validation = decoded(folder, "train"), decoded(folder, "validation")
    assert sorted(train + validation) == sorted(documents)
    assert train == [text for text in documents if text in set(train)]
    assert validation == [text for text in documents if text in set(validation)]
    assert 0.05 < len(validation) / len(documents) < 0.4


def test_manifest_counts_what_the_shards_hold(byte_folder):
    folder, _ = byte_folder
    manifest = Manifest.load(folder)
    for name in ("train", "validation"):
        split, shards, texts = getattr(manifest, name), shard_ids(folder / name), decoded(folder, name)
        assert list(split.shard_tokens) == [len(shard) for shard in shards]
        assert all(tokens == 1000 for tokens in split.shard_tokens[:-1])
        assert 0 < split.shard_tokens[-1] <= 1000
        assert split.documents == len(texts)
        assert split.bytes == sum(len(text.encode()) for text in texts)
        assert split.tokens == sum(split.shard_tokens) == split.bytes + split.documents
        require_shards(folder / name, split)
    assert manifest.token_dtype == "uint16"
    assert manifest.versions["litdata"]
    assert json.loads((folder / "manifest.json").read_text())["options"]["source_content"]["files"] == 1
    assert len(AutoTokenizer.from_pretrained(folder / "tokenizer")) == manifest.tokenizer.vocab_size == 257


def test_the_datamodules_reader_reads_the_shards(byte_folder):
    from tst_lightning.data.plan import Span

    folder, _ = byte_folder
    ids = shard_ids(folder / "train")
    shards = Shards(folder / "train", 100, Manifest.load(folder).train.shard_tokens)
    rows = shards.read([Span(shard=1, first_token=250, tokens=50), Span(shard=0, first_token=900, tokens=50)])
    assert rows.tolist() == [ids[1][250:300], ids[0][900:950]]


def test_evaluation_items_come_from_validation_documents(tmp_path):
    source = InstalledDocs(packages=["asyncio", "concurrent", "email", "importlib", "logging"])
    prepare(source, str(tmp_path / "out"), Bytes(), validation_fraction=0.3, evaluation_items=20)
    items = Manifest.load(tmp_path / "out").evaluation_items
    validation = decoded(tmp_path / "out", "validation")
    assert 0 < sum(items.values()) <= 40
    for name, count in items.items():
        lines = (tmp_path / "out" / "evaluation" / f"{name}.jsonl").read_text().splitlines()
        assert len(lines) == count
        contexts = [json.loads(line)["context"] for line in lines]
        assert all(any(context in text for text in validation) for context in contexts)


def test_a_document_stays_in_its_split_whatever_surrounds_it(tmp_path, byte_folder):
    validation = set(decoded(byte_folder[0], "validation"))
    texts = make_documents(120)[::-2] + make_documents(60, seed=1)
    texts += texts[:30]  # exact duplicates
    source = write_jsonl(tmp_path / "other.jsonl", texts)
    prepare(source, str(tmp_path / "out"), Bytes(), validation_fraction=0.2, evaluation_items=0)
    again = decoded(tmp_path / "out", "validation")
    assert {text for text in again if text in set(make_documents(120))} == validation & set(texts)
    assert not set(again) & set(decoded(tmp_path / "out", "train"))
    assert not (tmp_path / "out" / "evaluation").exists()


def test_trained_bpe_round_trips_and_is_trained_without_validation_text(tmp_path):
    documents = make_documents(100)
    validation = [f"{text} zzqqzzqq zzqqzzqq" for text in make_documents(5, seed=2)]
    prepare(
        write_jsonl(tmp_path / "a.jsonl", [*documents, *validation]),
        str(tmp_path / "out"),
        TrainedBPE(400),
        validation_source=write_jsonl(tmp_path / "b.jsonl", validation),
        shard_tokens=777,
        threads=2,
    )
    assert decoded(tmp_path / "out", "train") == documents
    assert decoded(tmp_path / "out", "validation") == validation
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.skipped == {"documents that the validation source holds": 5}
    assert manifest.train.tokens < manifest.train.bytes / 1.5
    vocabulary = json.loads((tmp_path / "out" / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    assert not any("zz" in token for token in vocabulary)


@pytest.mark.parametrize("threads", [1, 3])
def test_order_survives_threads_and_batches(tmp_path, monkeypatch, threads):
    monkeypatch.setattr("tst_lightning.data.routing.BATCH_BYTES", 300)
    documents = make_documents(80)
    source = write_jsonl(tmp_path / "a.jsonl", documents)
    prepare(source, str(tmp_path / "out"), TrainedBPE(300), validation_fraction=0.3, threads=threads)
    train = decoded(tmp_path / "out", "train")
    assert len(train) > 30
    assert train == [text for text in documents if text in set(train)]


def test_memory_is_bounded_by_the_batches_under_way(monkeypatch):
    monkeypatch.setattr(encode, "PIECES_PER_THREAD", 2)
    drawn = []

    class Slow:
        def encode(self, documents):
            return np.zeros(1)

    pieces = (drawn.append(i) or encode.Batch("train", []) for i in range(100))
    for position, _ in enumerate(encode.encode_batches(pieces, Slow(), threads=2)):
        assert len(drawn) <= position + 4
    assert len(drawn) == 100


def test_limits_end_the_reading(tmp_path, corpus):
    documents = make_documents(120)
    prepare(corpus, str(tmp_path / "a"), Bytes(), validation_fraction=0.3, max_documents=40)
    assert set(decoded(tmp_path / "a", "train") + decoded(tmp_path / "a", "validation")) == set(documents[:40])
    limit = sum(len(text.encode()) for text in documents[:30]) + 5
    prepare(corpus, str(tmp_path / "b"), Bytes(), validation_fraction=0.3, max_bytes=limit)
    assert set(decoded(tmp_path / "b", "train") + decoded(tmp_path / "b", "validation")) == set(documents[:30])


def test_what_is_not_text_is_left_out_and_counted(tmp_path):
    documents = make_documents(40)
    path = tmp_path / "a.jsonl"
    source = write_jsonl(path, documents)
    with path.open("a") as file:
        file.write('{"text": ""}\n{"text": " \\n"}\n{"text": "half \\ud800 pair"}\nnot JSON\n')
    source.on_error = "skip"
    prepare(source, str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.skipped == {
        "documents without text": 2,
        "documents that are not valid Unicode": 1,
        "malformed lines": 1,
    }
    assert manifest.train.documents + manifest.validation.documents == 40


def test_the_same_options_do_nothing(tmp_path, corpus, capsys):
    prepare(corpus, str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
    before = snapshot(tmp_path)
    capsys.readouterr()
    prepare(JsonLines(str(tmp_path / "corpus.jsonl")), str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
    assert capsys.readouterr().out == f"already prepared: '{tmp_path / 'out'}'\n"
    assert snapshot(tmp_path) == before


def test_other_options_are_refused_and_named_until_told_to_overwrite(tmp_path, corpus):
    out = tmp_path / "out"
    prepare(corpus, str(out), Bytes(), validation_fraction=0.3)
    before = snapshot(tmp_path)
    message = (
        r"prepared with other options \(shard_tokens: 1048576 -> 500; tokenizer.class_path: .*Bytes.* -> "
        r".*TrainedBPE.*; tokenizer.init_args.* --overwrite true"
    )
    with pytest.raises(UserError, match=message):
        prepare(corpus, str(out), TrainedBPE(300), validation_fraction=0.3, shard_tokens=500)
    assert snapshot(tmp_path) == before
    prepare(corpus, str(out), TrainedBPE(300), validation_fraction=0.3, shard_tokens=500, overwrite=True)
    assert Manifest.load(out).tokenizer.vocab_size == 300
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "out"]


def test_changed_files_are_noticed(tmp_path, corpus):
    prepare(corpus, str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
    write_jsonl(tmp_path / "corpus.jsonl", make_documents(121))
    with pytest.raises(UserError, match=r"other options \(source_content.bytes: \d+ -> \d+; "):
        prepare(corpus, str(tmp_path / "out"), Bytes(), validation_fraction=0.3)


def test_a_failed_replacement_keeps_the_old_folder(tmp_path, corpus):
    prepare(corpus, str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
    before = snapshot(tmp_path / "out")
    with (tmp_path / "corpus.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(UserError, match="line 121 is not valid JSON"):
        prepare(corpus, str(tmp_path / "out"), Bytes(), validation_fraction=0.3, overwrite=True)
    assert snapshot(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "out"]


DYING = """
import os, signal, sys
from tst_lightning.data.corpus import TextSource
from tst_lightning.data.prepare import Bytes, prepare

class Dying(TextSource):
    def documents(self):
        for number in range(100):
            yield f"{number} " * 60_000
            if number == 90:
                os.kill(os.getpid(), signal.SIGKILL)

prepare(Dying(), sys.argv[1], Bytes(), validation_fraction=0.3, shard_tokens=10_000, threads=1)
"""


def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path, corpus):
    out = tmp_path / "out"
    result = subprocess.run([sys.executable, "-c", DYING, str(out)], capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    partial = list(tmp_path.glob("out.partial-*"))
    assert len(partial) == 1
    assert list(partial[0].rglob("chunk-*.bin"))
    assert not list(tmp_path.rglob("manifest.json"))
    assert not out.exists()
    prepare(corpus, str(out), Bytes(), validation_fraction=0.3)
    assert not list(tmp_path.glob("out.partial-*"))
    assert Manifest.load(out).train.documents > 0


def test_two_runs_cannot_write_the_same_folder(tmp_path, corpus):
    with whole_folder(tmp_path / "out") as partial:
        with pytest.raises(UserError, match=rf"another prepare is writing '.*out' \(in '{partial.name}'\)"):
            prepare(corpus, str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
        assert partial.is_dir()


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, corpus, monkeypatch):
    def fail(self, ids):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ShardWriter, "append", fail)
    with pytest.raises(UserError, match=r"cannot write output_dir '.*out' \(No space left on device\): choose"):
        prepare(corpus, str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_folders_that_cannot_be_used_are_refused(tmp_path, corpus):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write output_dir '.*/file/out' \(.*\): choose a folder"):
        prepare(corpus, str(tmp_path / "file" / "out"), Bytes())
    with pytest.raises(UserError, match=r"output_dir '.*/file' is a file"):
        prepare(corpus, str(tmp_path / "file"), Bytes())
    with pytest.raises(UserError, match=r"holds other files and no manifest\.json: choose another folder"):
        prepare(corpus, str(tmp_path), Bytes(), overwrite=True)
    assert (tmp_path / "corpus.jsonl").exists()


def test_bad_values_are_collected_in_one_message(corpus):
    message = (
        r"validation_fraction is 1\.0: it has to lie between 0 and 1.*; shard_tokens is 0: it has to be at "
        r"least 1; max_documents is -1: .*; threads is 0: .*; evaluation_items is -1: .*; output_dir is empty"
    )
    with pytest.raises(UserError, match=message):
        prepare(corpus, "", Bytes(), 1.0, shard_tokens=0, max_documents=-1, threads=0, evaluation_items=-1)


def test_corpora_with_too_little_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    out = str(tmp_path / "out")
    with pytest.raises(UserError, match=r"the corpus is empty: .* \(left out: 1 documents without text\)"):
        prepare(TextFiles(str(tmp_path / "empty.txt")), out, Bytes())
    with pytest.raises(UserError, match=r"the corpus is empty"):
        prepare(TextFiles(str(tmp_path / "empty.txt")), out, TrainedBPE(257))
    (tmp_path / "one.txt").write_text("one document")
    one = TextFiles(str(tmp_path / "one.txt"))
    with pytest.raises(UserError, match=r"none of 1 documents falls into validation with validation_fraction 0\.01"):
        prepare(one, out, Bytes())
    with pytest.raises(UserError, match=r"no document is left for train \(left out: 1 documents that the"):
        prepare(one, out, Bytes(), validation_source=one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "one.txt"]


def test_a_changed_environment_is_noted_but_not_refused(tmp_path, capsys):
    class Changing(TextSource):
        content_must_match = False
        version = 1

        def documents(self):
            return iter(make_documents(40))

        def content(self):
            return {"version": self.version}

    prepare(Changing(), str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
    Changing.version = 2
    prepare(Changing(), str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
    assert "the installed packages have changed since" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_parse_and_are_what_they_say(path):
    written = yaml.safe_load(path.read_text())
    parser = auto_parser(prepare, as_positional=False, parser_mode="yaml", exit_on_error=False)
    parsed = parser.instantiate(parser.parse_args(["--config", str(path)]))
    assert type(parsed.source).__name__ == written["source"]["class_path"]
    assert type(parsed.tokenizer).__name__ == written["tokenizer"]["class_path"]
    assert parsed.output_dir == written["output_dir"]


def test_command_line(tmp_path, corpus, capsys):
    arguments = ["--source", "JsonLines", "--source.paths", str(tmp_path / "corpus.jsonl")]
    arguments += ["--tokenizer", "TrainedBPE", "--tokenizer.vocab_size", "300"]
    arguments += ["--output_dir", str(tmp_path / "out"), "--validation_fraction", "0.3"]
    assert main(["prepare", *arguments]) == 0
    assert f"prepared '{tmp_path / 'out'}'" in capsys.readouterr().out
    assert Manifest.load(tmp_path / "out").options["tokenizer"]["init_args"]["vocab_size"] == 300
    arguments[arguments.index("300")] = "256"
    assert main(["prepare", *arguments]) == 2
    assert "vocab_size is 256: a byte-level BPE needs at least 257" in capsys.readouterr().err


def test_32_bit_ids_survive_the_shards(tmp_path):
    ids = np.random.default_rng(0).integers(0, 200_000, 2500).astype(np.int32)
    writer = ShardWriter(tmp_path / "split", 1000, np.dtype(np.int32))
    for part in np.split(ids, [0, 1, 999, 1000, 2400]):
        writer.append(part)
    assert writer.close() == (1000, 1000, 500)
    assert list(itertools.chain(*shard_ids(tmp_path / "split"))) == ids.tolist()
