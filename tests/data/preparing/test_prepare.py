"""Prepared folders against the documents, concatenated in Python."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from jsonargparse import auto_parser
from prepared_folders import decoded, make_documents, shard_ids, write_jsonl
from transformers import AutoTokenizer

from tst_lightning.cli import main
from tst_lightning.data.manifest import Manifest
from tst_lightning.data.prepare import prepare
from tst_lightning.data.preparing import encode
from tst_lightning.data.preparing.batches import Batch
from tst_lightning.data.preparing.sharding import ShardWriter, finish_split
from tst_lightning.data.reading.shards import Shards, require_shards
from tst_lightning.data.sources.installed_docs import InstalledDocs
from tst_lightning.data.tokenizer import Bytes, TrainedBPE

CONFIGS = Path(__file__).parents[3] / "configs" / "prepare"


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
        require_shards(folder / name, split, manifest.token_dtype)
    assert manifest.token_dtype == "uint16"
    assert manifest.versions["litdata"]
    assert json.loads((folder / "manifest.json").read_text())["options"]["source_content"]["files"] == 1
    assert len(AutoTokenizer.from_pretrained(folder / "tokenizer")) == manifest.tokenizer.vocab_size == 257


def test_the_datamodules_reader_reads_the_shards(byte_folder):
    folder, _ = byte_folder
    ids = shard_ids(folder / "train")
    manifest = Manifest.load(folder)
    shards = Shards(str(folder / "train"), manifest.train.shards, manifest.token_dtype, manifest.tokenizer.vocab_size)
    assert shards.tokens(1, 250, 50).tolist() == ids[1][250:300]
    assert shards.tokens(0, 900, 50).tolist() == ids[0][900:950]


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
        workers=2,
    )
    assert decoded(tmp_path / "out", "train") == documents
    assert decoded(tmp_path / "out", "validation") == validation
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.skipped == {"documents that the validation source holds": 5}
    assert manifest.train.tokens < manifest.train.bytes / 1.5
    vocabulary = json.loads((tmp_path / "out" / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    assert not any("zz" in token for token in vocabulary)


@pytest.mark.parametrize("workers", [1, 3])
def test_order_survives_threads_and_batches(tmp_path, monkeypatch, workers):
    monkeypatch.setattr("tst_lightning.data.preparing.batches.BATCH_BYTES", 300)
    documents = make_documents(80)
    source = write_jsonl(tmp_path / "a.jsonl", documents)
    prepare(source, str(tmp_path / "out"), TrainedBPE(300), validation_fraction=0.3, workers=workers)
    train = decoded(tmp_path / "out", "train")
    assert len(train) > 30
    assert train == [text for text in documents if text in set(train)]


def test_memory_is_bounded_by_the_batches_under_way(monkeypatch):
    monkeypatch.setattr(encode, "BATCHES_PER_THREAD", 2)
    drawn = []

    class Slow:
        def encode(self, documents):
            return np.zeros(1), [1]

    pieces = (drawn.append(i) or Batch([], []) for i in range(100))
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
    for part in np.split(ids, [1, 999, 1000, 2400]):
        writer.append(part, [len(part)])
    shards, ends = writer.close()
    split = finish_split(tmp_path / "split", shards, ends, ids.dtype, len(ends), 0)
    assert split.shard_tokens == (1000, 1000, 500)
    # Documents of 1, 998, 1, 1400 and 100 tokens; the fourth ends in the third shard.
    assert [shard.documents for shard in split.shards] == [3, 0, 2]
    assert np.fromfile(tmp_path / "split" / "document_ends.u32", "<u4").tolist() == [1, 999, 1000, 400, 500]
    assert list(itertools.chain(*shard_ids(tmp_path / "split"))) == ids.tolist()
