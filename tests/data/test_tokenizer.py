"""Encoders against the tokenizers that they save, loaded by transformers."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tst_lightning import hub
from tst_lightning.data.preparing.encoder import (
    ENCODER_FILE,
    Document,
    TokenizerEncoder,
    load_encoder,
    save_encoder,
    stored_dtype,
)
from tst_lightning.data.tokenizer import END_OF_TEXT, Bytes, Pretrained, TrainedBPE
from tst_lightning.errors import UserError

TEXTS = ["", "plain", "ünïcödé 🙂 \x00\x7f\u00a0", "  spaces  \r\n\ttabs ", f"a {END_OF_TEXT} b", "don't 123"]


def documents(texts):
    return [Document(text, text.encode()) for text in texts]


def training_text(count=300):
    words = ["token", "super", "position", "train", "language", "model", "bag", "naïve", "the", "of"]
    choose = random.Random(0)
    return documents([" ".join(choose.choices(words, k=200)) for _ in range(count)])


def saved(encoder, folder):
    encoder.save(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def trained():
    return TrainedBPE(300).build(training_text)


def test_bytes_are_their_own_ids(tmp_path):
    encoder = Bytes().build(list)
    expected = [value for text in TEXTS for value in (*text.encode(), 256)]
    assert encoder.encode(documents(TEXTS))[0].tolist() == expected
    assert (encoder.vocab_size, encoder.end_of_text_id, encoder.dtype) == (257, 256, np.dtype("uint16"))
    loaded = saved(encoder, tmp_path)
    assert len(loaded) == 257
    assert loaded.eos_token_id == 256
    for text in TEXTS:
        ids = loaded(text, split_special_tokens=True)["input_ids"]
        assert ids == list(text.encode())
        assert loaded.decode(ids) == text


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_the_fast_byte_path_equals_the_byte_tokenizer(texts):
    encoder = Bytes().build(list)
    ids, lengths = encoder.encode(documents(texts))
    expected_ids, expected_lengths = TokenizerEncoder(encoder.tokenizer).encode(documents(texts))
    assert ids.tolist() == expected_ids.tolist()
    assert lengths == expected_lengths


def test_trained_bpe_encodes_as_its_saved_folder_does(trained, tmp_path):
    loaded = saved(trained, tmp_path)
    assert trained.vocab_size == len(loaded) == 300
    ids, lengths = trained.encode(documents(TEXTS))
    assert sum(lengths) == len(ids)
    expected = []
    for text in TEXTS:
        expected += [*loaded(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]]
        expected += [loaded.eos_token_id]
    assert ids.tolist() == expected
    assert ids.dtype == np.uint16
    pieces = np.split(ids, np.flatnonzero(ids == trained.end_of_text_id) + 1)[:-1]
    assert [loaded.decode(piece[:-1]) for piece in pieces] == TEXTS
    assert len(trained.encode(training_text(1))[0]) < len(training_text(1)[0].data) / 3


def test_hash_is_of_the_rules(trained):
    assert TrainedBPE(300).build(training_text).hash() == trained.hash()
    assert TrainedBPE(299).build(training_text).hash() != trained.hash()
    assert Bytes().build(list).hash() == Bytes().build(list).hash()


def test_training_reads_the_stated_sample_only():
    read = []

    def sample():
        for document in training_text():
            read.append(document)
            yield document

    size = len(training_text(1)[0].data)
    TrainedBPE(260, sample_bytes=size * 2).build(sample)
    assert len(read) <= 3
    read.clear()
    TrainedBPE(260, sample_bytes=1000, document_sample_bytes=100).build(sample)
    assert len(read) == 10


def test_pretrained_folder(trained, tmp_path):
    trained.save(tmp_path)
    encoder = Pretrained(str(tmp_path)).build(list)
    assert encoder.encode(documents(TEXTS))[0].tolist() == trained.encode(documents(TEXTS))[0].tolist()
    assert encoder.hash() == trained.hash()


def test_large_vocabularies_are_stored_in_32_bits(tmp_path):
    vocabulary = {f"w{i}": i for i in range(70_000)} | {END_OF_TEXT: 70_000}
    backend = Backend(models.WordLevel(vocabulary, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT).save_pretrained(tmp_path)
    encoder = Pretrained(str(tmp_path)).build(list)
    ids, _ = encoder.encode(documents(["w1 w69999", "w65536"]))
    assert ids.tolist() == [1, 69_999, 70_000, 65_536, 70_000]
    assert ids.dtype == np.int32
    assert encoder.vocab_size == 70_001


def test_bad_choices_are_named(trained, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="vocab_size is 256: a byte-level BPE needs at least 257"):
        TrainedBPE(256)
    with pytest.raises(UserError, match="sample_bytes is 0: it has to be at least 1"):
        TrainedBPE(300, sample_bytes=0)
    with pytest.raises(UserError, match=r"vocab_size is 5000, but .* yields no more than \d+ ids"):
        TrainedBPE(5000).build(lambda: training_text(3))
    with pytest.raises(UserError, match=r"cannot load the tokenizer '.*': .*Give a folder"):
        Pretrained(str(tmp_path)).build(list)
    monkeypatch.setattr(hub, "why_no_hub", lambda: "the hub is away")
    with pytest.raises(UserError, match=r"cannot load the tokenizer 'no/such': the hub is away\. Give"):
        Pretrained("no/such").build(list)
    PreTrainedTokenizerFast(tokenizer_object=trained.backend).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer '.*' has no end-of-text \(eos\) token"):
        Pretrained(str(tmp_path)).build(list)


@pytest.mark.parametrize("choice", [Bytes(), TrainedBPE(300)], ids=["bytes", "bpe"])
def test_what_workers_load_encodes_alike(choice, tmp_path):
    encoder = choice.build(training_text, "int32")
    save_encoder(encoder, tmp_path)
    loaded = load_encoder(tmp_path / ENCODER_FILE, tmp_path / "tokenizer" / "tokenizer.json")
    ids, lengths = loaded.encode(documents(TEXTS))
    expected_ids, expected_lengths = encoder.encode(documents(TEXTS))
    assert ids.tolist() == expected_ids.tolist()
    assert lengths == expected_lengths
    assert ids.dtype == np.int32
    assert (loaded.vocab_size, loaded.end_of_text_id) == (encoder.vocab_size, encoder.end_of_text_id)


def test_the_type_of_ids_holds_the_vocabulary():
    assert [stored_dtype(size, "auto") for size in (257, 65_536, 65_537)] == ["uint16", "uint16", "int32"]
    assert stored_dtype(257, "int32") == "int32"
    with pytest.raises(UserError, match=r"token_dtype is uint16, which holds 65,536 ids, and .* has 65,537: set"):
        stored_dtype(65_537, "uint16")
    with pytest.raises(UserError, match="token_dtype is uint16"):
        TrainedBPE(70_000).build(lambda: pytest.fail("nothing is read"), "uint16")
