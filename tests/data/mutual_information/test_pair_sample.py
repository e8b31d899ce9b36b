"""Which pairs are counted: each token stands for its own position, so that a pair shows where it comes from."""

import itertools
from collections import Counter

import numpy as np
import pytest

from tst_lightning.data.mutual_information import sample as sample_module
from tst_lightning.data.mutual_information.estimate import information_curve
from tst_lightning.data.mutual_information.sample import Sample, draw_sample
from tst_lightning.data.reading.documents import Documents
from tst_lightning.data.shard_format import DOCUMENT_ENDS_NAME


class FakeShards:
    def __init__(self, shards):
        self.shards = shards

    def tokens(self, shard, first, count):
        assert 0 <= first <= first + count <= len(self.shards[shard])
        return self.shards[shard][first : first + count]


def corpus(tmp_path, shard_tokens, document_lengths, ids=None):
    """Shards of ``ids`` (positions, if none are given), cut into documents whatever the shards; the last is open."""
    total = sum(shard_tokens)
    shard_of = np.repeat(np.arange(len(shard_tokens)), shard_tokens)
    ends = np.cumsum(document_lengths)
    ends = ends[ends <= total]
    document_of = np.searchsorted(ends, np.arange(total), side="right")
    shard_begins = np.cumsum([0, *shard_tokens])
    shard_of_end = shard_of[ends - 1]
    (ends - shard_begins[shard_of_end]).astype("<u4").tofile(tmp_path / DOCUMENT_ENDS_NAME)
    in_shard = tuple(int((shard_of_end == shard).sum()) for shard in range(len(shard_tokens)))
    documents = Documents(str(tmp_path), tuple(shard_tokens), in_shard, max(shard_tokens))
    ids = np.arange(total, dtype=np.int32) if ids is None else ids
    return FakeShards(np.split(ids, shard_begins[1:-1])), documents, shard_of, document_of


def all_pairs(sample, distance):
    return [
        pair for first, second in sample.pairs(distance) for pair in zip(first.tolist(), second.tolist(), strict=True)
    ]


@pytest.mark.parametrize("block_tokens", [7, 1 << 18])
@pytest.mark.parametrize("shard_tokens", [[60], [20, 20, 20], [25, 0, 35], [33, 27]])
def test_all_pairs_inside_documents_and_shards_once_and_no_others(monkeypatch, tmp_path, shard_tokens, block_tokens):
    monkeypatch.setattr(sample_module, "BLOCK_TOKENS", block_tokens)
    shards, documents, shard_of, document_of = corpus(tmp_path, shard_tokens, [1, 12, 7, 1, 5, 14, 20])
    sample = draw_sample(shards, documents, max_tokens=60, seed=0)
    assert sample.tokens.tolist() == list(range(60))
    for distance in range(1, 30):
        expected = [
            (place, place + distance)
            for place in range(60 - distance)
            if shard_of[place] == shard_of[place + distance] and document_of[place] == document_of[place + distance]
        ]
        assert sorted(all_pairs(sample, distance)) == expected
        assert sample.pair_count(distance) == len(expected)


def test_part_of_a_corpus_lies_evenly_and_never_across(monkeypatch, tmp_path):
    monkeypatch.setattr(sample_module, "WINDOW_TOKENS", 50)
    generator = np.random.default_rng(0)
    shards, documents, shard_of, document_of = corpus(
        tmp_path, [1000, 3000, 30, 970], generator.integers(1, 90, 200).tolist()
    )
    seen = Counter()
    for seed in range(200):
        sample = draw_sample(shards, documents, max_tokens=520, seed=seed)
        assert len(sample.tokens) == sample.lengths.sum() == 500
        assert len(set(sample.tokens.tolist())) == 500
        # Ten windows, one in each tenth of the text.
        windows = sample.tokens.reshape(10, 50)
        assert (np.diff(windows) == 1).all()
        assert (windows[:, 0] // 500 == np.arange(10)).all()
        assert (windows[:, -1] // 500 == np.arange(10)).all()
        for distance in (1, 3, 20):
            for first, second in all_pairs(sample, distance):
                assert second - first == distance
                assert document_of[first] == document_of[second]
                assert shard_of[first] == shard_of[second]
        seen.update(windows[:, 0].tolist())
    assert len(seen) > 1000  # of 4,510 places where a window can begin


def test_the_seed_alone_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_module, "WINDOW_TOKENS", 50)
    shards, documents, *_ = corpus(tmp_path, [2000], [2000])
    first, again, other = (draw_sample(shards, documents, 100, seed).tokens for seed in (3, 3, 4))
    assert first.tolist() == again.tolist() != other.tolist()


def test_information_across_documents_is_not_seen(tmp_path):
    # Each document of 40 independent tokens begins with the last ten of the one before it.
    generator = np.random.default_rng(0)
    texts = generator.integers(0, 8, (3000, 40)).astype(np.uint16)
    for before, text in itertools.pairwise(texts):
        text[:10] = before[30:]
    ids = texts.ravel()
    shards, documents, *_ = corpus(tmp_path, [len(ids)], [40] * 3000, ids)
    apart = information_curve(draw_sample(shards, documents, len(ids), 0), 8, 12)
    across = information_curve(Sample(ids, np.array([len(ids)])), 8, 12)
    assert max(abs(each.value) for each in apart) < 0.002
    assert across[9].value > 0.05
