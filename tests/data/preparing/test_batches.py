"""Cut documents put together again, and sets of digests."""

import numpy as np
import pytest
from corpora import prepare_small
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_folders import decoded

from tst_lightning.data.preparing import batches
from tst_lightning.data.preparing.batches import cut_position
from tst_lightning.data.preparing.encoder import Document
from tst_lightning.data.preparing.routing import Digests, Router, document_digest, usable_documents
from tst_lightning.data.sources.base import TextSource
from tst_lightning.data.tokenizer import Bytes, TrainedBPE

TEXT = st.text(st.sampled_from("ab \n é🙂"), min_size=1)


@pytest.mark.parametrize(
    ("text", "end"),
    [("a b\ncd efgh", 4), ("ab cd efgh", 5), ("abcdefghij", 8), ("\nabcdefghij", 1), ("aaaa🙂🙂🙂", 8), ("abc", 3)],
)
def test_cuts_are_after_lines_else_before_spaces_else_between_characters(text, end):
    assert cut_position(text.encode(), 0, 8) == end


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(["train", "validation"]), TEXT), max_size=20), st.integers(4, 30))
def test_batches_hold_the_text_in_order(documents, piece_bytes):
    selected = [(split, Document(text, text.encode())) for split, text in documents]
    again, pieces = [], []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(batches, "BATCH_BYTES", piece_bytes)
        patched.setattr(batches, "LONG_DOCUMENT_BYTES", piece_bytes)
        for batch in batches.batches(iter(selected)):
            assert len(batch.documents) == len(batch.splits) > 0
            assert sum(len(document.data) for document in batch.documents) <= piece_bytes
            assert all(document.text.encode() == document.data for document in batch.documents)
            pieces += zip(batch.splits, (document.text for document in batch.documents), strict=True)
            if batch.complete:
                if len(batch.documents) == 1:
                    pieces = [(pieces[0][0], "".join(text for _, text in pieces))]
                again += pieces
                pieces = []
    assert again == documents
    assert not pieces


class Long(TextSource):
    """Empty documents, short ones, and some far longer than pieces and shards."""

    texts = ("", "short", "\n", "line\n" * 3000, "\u2028 \x00", "no break" * 2000, "🙂" * 2500, "é", "", "end. " * 1500)

    def documents(self, part=None):
        return iter(self.texts)


@pytest.mark.parametrize("tokenizer", [Bytes(), TrainedBPE(270)], ids=["bytes", "bpe"])
def test_documents_longer_than_pieces_and_shards_come_back_whole(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "BATCH_BYTES", 1000)
    monkeypatch.setattr(batches, "LONG_DOCUMENT_BYTES", 2000)
    out = prepare_small(Long(), tmp_path / "out", tokenizer, shard_tokens=700, validation_fraction=0.4)
    train, validation = decoded(out, "train"), decoded(out, "validation")
    texts = [text for text in Long.texts if text.strip()]
    assert sorted(train + validation) == sorted(texts)
    assert train == [text for text in texts if text in train]


def test_digests_are_a_set():
    generator = np.random.default_rng(0)
    digests = [generator.bytes(16) for _ in range(2000)]
    digests += [generator.bytes(15) + b"\0", b"\0" * 16, b"\xff" * 16, digests[0]]
    packed = Digests(Digests.pack(digests))
    assert all(digest in packed for digest in digests)
    assert not any(generator.bytes(16) in packed for _ in range(2000))
    assert b"\0" * 15 + b"\x01" not in packed
    assert b"x" * 16 not in Digests(Digests.pack([]))


@settings(deadline=None)
@given(st.floats(0.05, 0.95), st.lists(st.text(min_size=1), min_size=1))
def test_the_split_is_a_function_of_the_text(fraction, texts):
    router = Router(fraction)
    for document in usable_documents(texts, {"documents without text": 0, "documents that are not valid Unicode": 0}):
        share = int.from_bytes(document_digest(document.data)[:8], "big") / 2**64
        assert router.split(document) == ("validation" if share < fraction else "train")
