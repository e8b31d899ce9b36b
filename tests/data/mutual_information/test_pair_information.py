"""Mutual information of token pairs: against brute force, exact distributions and Grassberger's own formulas."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy.special import digamma, exp1
from scipy.stats import poisson

from tst_lightning.data.mutual_information import estimate
from tst_lightning.data.mutual_information.estimate import (
    independent_information,
    information_curve,
    pair_information,
)
from tst_lightning.data.mutual_information.sample import Sample


def grassberger(n):
    """G(n) as in eq. 28 of arXiv physics/0307138."""
    return digamma(n) + (-1) ** n / 2 * (digamma((n + 1) / 2) - digamma(n / 2))


def brute_force(first, second):
    """Plug-in and corrected mutual information, count by count."""

    def entropies(items):
        counts = Counter(items).values()
        total = sum(counts)
        return (
            -sum(n / total * math.log(n / total) for n in counts),
            math.log(total) - sum(n * grassberger(n) for n in counts) / total,
        )

    first, second = list(map(int, first)), list(map(int, second))
    x, y, joint = entropies(first), entropies(second), entropies(zip(first, second, strict=True))
    return x[0] + y[0] - joint[0], x[1] + y[1] - joint[1]


def one_piece(tokens):
    return Sample(tokens, np.array([len(tokens)]))


def markov_chain(transitions, tokens, generator):
    """Tokens of a stationary chain of two states."""
    uniform, chain = generator.random(tokens), np.empty(tokens, np.uint16)
    state = 0
    for place, number in enumerate(uniform.tolist()):
        state = int(number > transitions[state][0])
        chain[place] = state
    return chain


def exact_information(joint):
    first, second = joint.sum(axis=1, keepdims=True), joint.sum(axis=0, keepdims=True)
    used = joint > 0
    return float((joint[used] * np.log((joint / (first * second))[used])).sum())


@pytest.mark.parametrize(("vocab_size", "dtype"), [(50, np.uint16), (65_536, np.uint16), (130_000, np.int32)])
def test_pairs_are_counted_as_by_brute_force(vocab_size, dtype):
    generator = np.random.default_rng(1)
    first = (generator.integers(0, 50, 3000) * (vocab_size // 50)).astype(dtype)
    second = np.where(generator.random(3000) < 0.6, first, vocab_size - 1 - first).astype(dtype)
    blocks = [(first[:10], second[:10]), (first[10:10], second[10:10]), (first[10:], second[10:])]
    plugin, corrected = brute_force(first, second)
    found = pair_information(blocks, vocab_size)
    assert found.pairs == 3000
    assert found.plugin == pytest.approx(plugin, abs=1e-9)
    assert found.value == pytest.approx(corrected, abs=1e-9)


def test_tables_and_sorting_count_the_same(monkeypatch):
    generator = np.random.default_rng(2)
    blocks = [generator.integers(0, 2 + n, (2, 5000)).astype(np.uint16) for n in range(5)]
    as_table = pair_information(blocks, 257)
    monkeypatch.setattr(estimate, "DENSE_CELLS", 0)
    by_sorting = pair_information(blocks, 257)
    assert as_table.pairs == by_sorting.pairs == 25_000
    assert (as_table.plugin, as_table.value) == pytest.approx((by_sorting.plugin, by_sorting.value), abs=1e-12)


def test_markov_chain_has_its_exact_information_at_every_distance():
    transitions = np.array([[0.9, 0.1], [0.3, 0.7]])
    chain = markov_chain(transitions.tolist(), 400_000, np.random.default_rng(0))
    stationary = np.array([0.75, 0.25])
    curve = information_curve(one_piece(chain), 2, 8)
    exact = [
        exact_information(stationary[:, None] * np.linalg.matrix_power(transitions, distance))
        for distance in range(1, 9)
    ]
    assert exact[0] > 0.15
    assert exact[7] < 0.001
    np.testing.assert_allclose([each.value for each in curve], exact, atol=0.003)


def test_known_joint_distribution_of_many_tokens():
    # A quarter of the tokens repeats the one before it, the others are drawn from 500 alike.
    vocab_size, tokens, generator = 500, 1_000_000, np.random.default_rng(0)
    drawn = generator.integers(0, vocab_size, tokens)
    kept = np.maximum.accumulate(np.where(generator.random(tokens) < 0.25, 0, np.arange(tokens)))
    repeated = drawn[kept].astype(np.uint16)
    joint = np.full((vocab_size, vocab_size), 0.75 / vocab_size**2) + np.eye(vocab_size) * 0.25 / vocab_size
    found = information_curve(one_piece(repeated), vocab_size, 1)[0]
    exact = exact_information(joint)
    assert abs(found.plugin - exact) > 0.08
    assert found.value == pytest.approx(exact, abs=0.006)


@pytest.mark.parametrize(("vocab_size", "tokens"), [(300, 200_000), (3000, 5_000_000)])
def test_correction_takes_most_of_the_bias_away(vocab_size, tokens):
    independent = np.random.default_rng(0).integers(0, vocab_size, tokens).astype(np.uint16)
    for found in information_curve(one_piece(independent), vocab_size, 1):
        assert found.plugin > 0.2
        assert abs(found.value) < 0.25 * found.plugin


def test_expected_bias_is_the_documented_one():
    for mean in (0.05, 0.22, 1.0, 2.0, 7.5):
        counts = np.arange(1, 100)
        expected = (poisson.pmf(counts, mean) * counts * grassberger(counts)).sum()
        assert expected - mean * np.log(mean) == pytest.approx(mean * exp1(2 * mean), abs=1e-9)
    worst = max(mean * exp1(2 * mean) for mean in np.linspace(0.01, 3, 1000))
    assert worst == pytest.approx(0.141, abs=0.001)


def test_what_is_left_is_what_tokens_paired_at_random_show():
    # Of 4 million pairs, each is expected 0.05 times: far too few to see that there is no information.
    vocab_size = 2000
    tokens = np.random.default_rng(0).integers(0, vocab_size, 200_000).astype(np.uint16)
    sample = one_piece(tokens)
    found = information_curve(sample, vocab_size, 2)
    paired = independent_information(sample, vocab_size, found[1].pairs, repeats=4, seed=0)
    assert len({each.value for each in paired}) == 4
    assert all(each.pairs == found[1].pairs for each in paired)
    mean = np.mean([each.value for each in paired])
    assert mean > 1
    assert found[0].value == pytest.approx(mean, rel=0.02)


def test_random_pairs_of_dependent_tokens_are_independent():
    alternating = np.tile(np.array([0, 1], np.uint16), 20_000)
    sample = one_piece(alternating)
    assert information_curve(sample, 2, 1)[0].value == pytest.approx(math.log(2), abs=1e-3)
    for each in independent_information(sample, 2, 39_999, repeats=3, seed=0):
        assert abs(each.value) < 1e-3


def test_every_distance_is_reported():
    done = []
    curve = information_curve(one_piece(np.zeros(50, np.uint16)), 2, 20, lambda: done.append(1))
    assert [each.pairs for each in curve] == list(range(49, 29, -1))
    assert len(done) == 20
