"""Tables against counts by dictionary; consistency; the same files whatever the memory, the workers, the breaks."""

import math
from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
from ngram_tables import (
    MEMORY,
    all_targets,
    build,
    contexts_of,
    corpus_of,
    counted,
    ids_of,
    job_of,
    refusing,
    small_corpus,
)

from tst_lightning.data.ngram import building, merging
from tst_lightning.data.ngram.building import CHUNK_BYTES, Build
from tst_lightning.data.ngram.counting import ContextKeys, has_context, sorted_pairs
from tst_lightning.data.ngram.merging import TailDraws
from tst_lightning.data.ngram.options import NgramOptions
from tst_lightning.data.ngram.table import IGNORE, NgramTable
from tst_lightning.data.preparing.partial_folder import PartialFolder

SIZES = [2, 4, 6, 9]
"""Of n with 9 bits an id: keys beside the positions, by their rank, and hashed."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return small_corpus(tmp_path_factory.mktemp("ngram") / "corpus")


def top_and_tail(counts: Counter, r: int):
    order = sorted(counts, key=lambda token: (-counts[token], token))
    return order[:r], set(order[r:])


@pytest.mark.parametrize("rule", ["A", "E"])
@pytest.mark.parametrize("n", SIZES)
def test_every_target_is_the_one_of_a_dictionary(n, rule, corpus, tmp_path):
    r, min_count = 4, 3
    ids, weights = all_targets(build(corpus, tmp_path / "table", n=n, r=r, min_count=min_count, rule=rule))
    counts, kinds = counted(corpus, n), Counter()
    for position, (context, token) in enumerate(
        zip(contexts_of(corpus, n), np.concatenate(ids_of(corpus)).tolist(), strict=True)
    ):
        found = {int(i): float(w) for i, w in zip(ids[position], weights[position], strict=True) if i != IGNORE}
        total = counts[context].total() if context else 0
        top, tail = top_and_tail(counts[context], r) if total >= min_count else ([token], set())
        if token in tail and rule == "A":
            top, tail = [token], set()
        in_top = sum(counts[context][t] for t in top) if len(top) > 1 else 1
        expected = {t: (counts[context][t] if len(top) > 1 else 1) / in_top for t in top}
        if tail and rule == "E":
            drawn = set(found) - set(top)
            assert drawn == {token} if token in tail else len(drawn) == 1 and drawn <= tail
            expected = {t: w * in_top / total for t, w in expected.items()} | {drawn.pop(): 1 - in_top / total}
        assert found.keys() == expected.keys()
        assert all(abs(found[token] - weight) < 1e-6 for token, weight in expected.items())
        kinds[len(top) > 1, bool(tail)] += 1
    assert len(kinds) == (2 if n == 2 else 3)  # one-hot, whole distributions, those with a tail
    assert min(kinds.values()) > 20, kinds


@pytest.mark.parametrize("rule", ["A", "E"])
def test_targets_sum_to_one_and_are_ids_of_the_vocabulary(rule, corpus, tmp_path):
    ids, weights = all_targets(build(corpus, tmp_path / "table", r=3, rule=rule))
    assert ids.dtype == np.int32
    assert weights.dtype == np.float32
    assert ids.shape == weights.shape == (sum(map(len, ids_of(corpus))), 4)
    np.testing.assert_allclose(weights.sum(1, dtype=np.float64), 1, atol=1e-6)
    assert ((ids == IGNORE) == (weights == 0)).all()
    assert ids[ids != IGNORE].min() >= 0
    assert ids.max() <= 256


@pytest.mark.parametrize("rule", ["A", "E"])
@pytest.mark.parametrize("n", [2, 4])
def test_the_mean_target_of_a_context_is_its_distribution(n, rule, corpus, tmp_path):
    """Rule A: exactly. Rule E: but for the draws, which keep to the tail up to a Weyl sequence's discrepancy."""
    r = 3
    ids, weights = all_targets(build(corpus, tmp_path / "table", n=n, r=r, rule=rule))
    sums = defaultdict(Counter)
    for position, context in enumerate(contexts_of(corpus, n)):
        if context is not None:
            for token, weight in zip(ids[position].tolist(), weights[position].tolist(), strict=True):
                if weight:
                    sums[context][token] += weight
    counts, drawn_pairs = counted(corpus, n), 0
    for context, expected in counts.items():
        top, tail = top_and_tail(expected, r)
        draws = sum(expected[token] for token in top)
        tail_share = 1 - draws / expected.total()
        for token in set(expected) | set(sums[context]):
            most = 1e-5 * expected.total()
            if rule == "E" and token in tail:
                most += tail_share * (2 + math.log(draws))  # of the draws, each with the weight of the tail
                drawn_pairs += 1
            assert abs(sums[context][token] - expected[token]) <= most
    assert rule == "A" or drawn_pairs > 50


def test_each_draw_of_rule_e_is_distributed_as_the_tail():
    """Exact expectation: a grid of starting points, as many times the tail's count as one likes, stands for all."""
    in_top, tail_counts = np.array([False, True, False, False, True]), np.array([3, 9, 1, 4, 7])
    tail, contexts = 8, 8 * 32
    counts = SimpleNamespace(
        contexts_C=np.arange(contexts, dtype=np.uint64),
        first_pairs_C=np.arange(contexts) * 5,
        context_U=np.repeat(np.arange(contexts), 5),
        tokens_U=np.tile(np.arange(5, dtype=np.uint16) + 10, contexts),
        counts_U=np.tile(tail_counts, contexts),
    )
    chosen = SimpleNamespace(tail_C=np.full(contexts, tail), in_top_U=np.tile(in_top, contexts))
    draws = TailDraws(counts, chosen, seed=0)
    draws._start_C = np.arange(contexts, dtype=np.uint64) << np.uint64(64 - 8)
    per_context = draws.draw(np.arange(contexts), np.full(contexts, 6)).reshape(contexts, 6)
    for of_number in per_context.T:
        assert Counter(of_number.tolist()) == {10: 3 * 32, 12: 32, 13: 4 * 32}
    assert len({tuple(row) for row in per_context.tolist()}) > 8  # and they differ from one another


def test_draws_go_on_where_the_last_chunk_ended_and_depend_on_the_seed():
    counts = SimpleNamespace(
        contexts_C=np.array([5, 77], np.uint64), first_pairs_C=np.array([0, 100]), context_U=np.repeat([0, 1], 100),
        tokens_U=np.arange(200, dtype=np.uint16), counts_U=np.ones(200, np.int64),
    )  # fmt: skip
    chosen = SimpleNamespace(tail_C=np.array([100, 100]), in_top_U=np.zeros(200, bool))
    both, chunk = np.array([0, 1]), TailDraws(counts, chosen, 0)
    whole = TailDraws(counts, chosen, 0).draw(both, np.array([40, 30]))
    first, second = chunk.draw(both, np.array([15, 30])), chunk.draw(np.array([0]), np.array([25]))
    assert whole.tolist() == [*first[:15], *second, *first[15:]]
    assert set(whole[:40].tolist()) <= set(range(100))
    assert set(whole[40:].tolist()) <= set(range(100, 200))
    other = TailDraws(counts, chosen, 1).draw(both, np.array([40, 30]))
    assert (other != whole).mean() > 0.8


@pytest.mark.parametrize("n", [2, 4, 9])
def test_keys_of_different_contexts_differ_and_share_the_parts_evenly(n):
    keys = ContextKeys(n, token_bits=9)
    ids = np.random.default_rng(0).integers(0, 257, 20_000).astype(np.uint64)
    made = keys.of(ids)
    contexts = [tuple(ids[end - n + 1 : end].tolist()) for end in range(n - 1, len(ids))]
    assert len(made) == len(contexts) == len(ids) - n + 1
    assert len(set(made.tolist())) == len(set(contexts)) == len(set(zip(made.tolist(), contexts, strict=True)))
    assert keys.exact == (n < 9)
    assert int(made.max()) < 2**keys.bits
    shares = np.bincount((made >> np.uint64(keys.bits - 3)).astype(int), minlength=8) / len(made)
    assert (np.abs(shares - 1 / 8) < 0.02).all()


def test_two_sorts_give_what_one_gives():
    random = np.random.default_rng(1)
    keys, ids = random.integers(0, 40, 5000).astype(np.uint64), random.integers(0, 9, 5000).astype(np.uint16)
    one, two = (sorted_pairs(keys, bits, ids, np.arange(5000, dtype=np.uint32), 9) for bits in (27, 64))
    for name, values in one.arrays().items():
        np.testing.assert_array_equal(values, two.arrays()[name], err_msg=name)
        assert values.dtype == two.arrays()[name].dtype
    assert int(one.counts.sum()) == 5000


def test_tokens_near_the_start_of_their_document_have_no_context():
    found = has_context(12, np.array([0, 5, 6, 11]), n=4)
    expected = [all(not (place - 2 <= start <= place) for start in (0, 5, 6, 11)) for place in range(3, 12)]
    assert found.tolist() == expected


def test_the_table_does_not_depend_on_memory_or_workers(corpus, tmp_path, monkeypatch):
    whole = build(corpus, tmp_path / "a").manifest
    monkeypatch.setattr(building, "PAIR_BYTES", 10**7)
    job, folder = job_of(corpus, tmp_path / "b"), PartialFolder(tmp_path / "b")
    (tmp_path / "b").mkdir()
    two = Build(job, folder, 2, MEMORY)
    manifest = two.run(corpus_of(corpus))
    assert two._parts() > Build(job_of(corpus, tmp_path / "a"), folder, 1, MEMORY).workers * building.PARTS_PER_WORKER
    assert manifest.files == whole.files
    assert manifest.statistics == whole.statistics
    assert build(corpus, tmp_path / "c", seed=1).manifest.files != whole.files


@pytest.mark.parametrize("step", ["count_chunk", "merge_part", "assign_chunk"])
def test_a_broken_build_goes_on_with_what_is_finished(step, corpus, tmp_path, monkeypatch):
    whole = build(corpus, tmp_path / "whole").manifest.files
    work, calls = getattr(building, step), []

    def breaks(*arguments):
        calls.append(arguments[-2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        work(*arguments)

    monkeypatch.setattr(building, step, breaks)
    with pytest.raises(KeyboardInterrupt):
        build(corpus, tmp_path / "table")
    with refusing("no n-gram table"):
        NgramTable(str(tmp_path / "table"))
    done, calls[:] = calls[:2], [None] * 3
    assert build(corpus, tmp_path / "table").manifest.files == whole
    assert not set(done) & set(calls[3:])
    assert {path.suffix for path in (tmp_path / "table").iterdir()} == {".uint16", ".u32", ".f32", ".json"}


def test_too_little_memory_or_too_large_a_vocabulary_is_refused(corpus, tmp_path, monkeypatch):
    job = job_of(corpus, tmp_path)
    with refusing(f"max_memory_bytes=.* is too little for workers=2: allow {CHUNK_BYTES:,} bytes each"):
        Build(job, PartialFolder(tmp_path), 2, 2 * CHUNK_BYTES - 1)
    monkeypatch.setattr(building, "MOST_TOKEN_BITS", 8)
    with refusing("the vocabulary has 257 tokens, n-grams are counted of up to 256"):
        Build(job, PartialFolder(tmp_path), 1, MEMORY)


def test_counts_beyond_what_is_ranked_stay_in_order():
    """Counts of billions are cut off in the ranking, not in the weights."""
    counts = merging.Counts(
        np.array([3], np.uint64), np.array([0]), np.zeros(3, np.int64), np.array([7, 8, 9], np.uint16),
        np.array([1, 2**40, 5]), np.array([0]), np.array([0, 1, 2]),
    )  # fmt: skip
    chosen = merging.choose(counts, NgramOptions(r=2))
    assert chosen.ids.tolist() == [[8, 9]]
    assert chosen.tail_C.tolist() == [1]
    assert chosen.weights[0, 0] == np.float32(2**40 / (2**40 + 6))
