"""Packing, against its invariants, packings written out in O(n^2), and published figures."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tst_lightning.data.reading.packing import fill_ratio, pack

POLICIES = ["concat", "best_fit", "spfhp"]
documents = st.lists(st.integers(0, 70), max_size=40)
capacities = st.integers(1, 30)


def rows_of(packing):
    """Rows as lists of pieces ``(document, first, length)``."""
    pieces = list(zip(packing.document.tolist(), packing.first.tolist(), packing.length.tolist(), strict=True))
    starts = packing.row_starts.tolist()
    assert starts[0] == 0
    assert starts[-1] == len(pieces)
    return [pieces[a:b] for a, b in itertools.pairwise(starts)]


def web_like_lengths():
    """100 000 documents of 700 tokens on average, most of them shorter, as web pages are."""
    return np.random.default_rng(0).lognormal(np.log(700) - 0.5, 1.0, 100_000).astype(int) + 1


@pytest.mark.parametrize("policy", POLICIES)
@given(lengths=documents, capacity=capacities)
def test_every_position_is_in_one_row_and_no_row_is_over_full(policy, lengths, capacity):
    rows = rows_of(pack(np.array(lengths, int), capacity, policy))
    assert all(0 < sum(length for _, _, length in row) <= capacity for row in rows)
    assert all(length > 0 for row in rows for _, _, length in row)
    placed = Counter((d, first + i) for row in rows for d, first, length in row for i in range(length))
    assert placed == Counter((d, i) for d, length in enumerate(lengths) for i in range(length))


@pytest.mark.parametrize("policy", ["best_fit", "spfhp"])
@given(lengths=documents, capacity=capacities)
def test_documents_are_cut_only_where_they_must_be(policy, lengths, capacity):
    rows = rows_of(pack(np.array(lengths, int), capacity, policy))
    pieces = Counter(document for row in rows for document, _, _ in row)
    assert pieces == Counter({d: -(-length // capacity) for d, length in enumerate(lengths)})
    whole = [row for row in rows if row[0][2] == capacity]
    assert len(whole) == sum(length // capacity for length in lengths)


@given(lengths=documents, capacity=capacities)
def test_concat_is_concatenation(lengths, capacity):
    rows = rows_of(pack(np.array(lengths, int), capacity, "concat"))
    units = [(document, i) for document, length in enumerate(lengths) for i in range(length)]
    expected = [units[start : start + capacity] for start in range(0, len(units), capacity)]
    assert [[(d, first + i) for d, first, length in row for i in range(length)] for row in rows] == expected
    assert all(len({document for document, _, _ in row}) == len(row) for row in rows), "a document is cut at row ends"


@pytest.mark.parametrize(("policy", "choose"), [("best_fit", min), ("spfhp", max)])
@given(lengths=documents, capacity=capacities)
def test_rows_are_as_full_as_those_of_one_document_at_a_time(policy, choose, lengths, capacity):
    room: list[int] = []
    for length in sorted((length % capacity for length in lengths if length % capacity), reverse=True):
        if fitting := [r for r in room if r >= length]:
            room.remove(chosen := choose(fitting))
        else:
            chosen = capacity
        room.append(chosen - length)
    rows = rows_of(pack(np.array(lengths, int), capacity, policy))
    left = [capacity - sum(length for _, _, length in row) for row in rows]
    assert sorted(left) == sorted([*room, *[0] * sum(length // capacity for length in lengths)])


@pytest.mark.parametrize("policy", POLICIES)
def test_rows_list_their_pieces_in_the_order_of_the_documents(policy):
    rows = rows_of(pack(web_like_lengths()[:2000], 512, policy))
    assert all(row == sorted(row) for row in rows)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_documents_are_packed_the_same_way(policy):
    first, second = (pack(web_like_lengths()[:2000].astype(dtype), 512, policy) for dtype in (np.int64, np.uint32))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert {part.dtype for part in second} == {np.dtype(np.int64)}


def test_best_fit_costs_hardly_more_rows_than_concatenation():
    """Ding et al., table 1: no more than 0.01 % at 2048."""
    lengths = web_like_lengths()
    concatenated = -(-int(lengths.sum()) // 2048)
    packing = pack(lengths, 2048, "best_fit")
    assert concatenated <= packing.rows <= 1.0001 * concatenated


def test_spfhp_fills_rows():
    """Krell et al.: 99.6 % of Wikipedia at 512 without a limit on the documents of a row."""
    packing = pack(web_like_lengths(), 512, "spfhp")
    assert fill_ratio(packing, 512) == web_like_lengths().sum() / (packing.rows * 512) >= 0.99
    # Long documents fill rows by themselves: those that fit have to as well.
    lengths = web_like_lengths()
    short = lengths[lengths < 512]
    assert fill_ratio(pack(short, 512, "spfhp"), 512) >= 0.99


@pytest.mark.parametrize("policy", ["best_fit", "spfhp"])
def test_documents_of_one_length_share_rows(policy):
    """The published listing of spfhp opens a row for each of them."""
    assert pack(np.full(1000, 10), 100, policy).rows == 100


def test_a_capacity_beyond_16_bits_is_kept():
    packing = pack(np.array([50_000, 80_000, 70_000, 100_000]), 150_000, "best_fit")
    assert [[document for document, _, _ in row] for row in rows_of(packing)] == [[0, 3], [1, 2]]


@pytest.mark.parametrize("policy", POLICIES)
def test_no_documents_make_no_rows(policy):
    packing = pack(np.array([], int), 8, policy)
    assert rows_of(packing) == []
    assert fill_ratio(packing, 8) == 1
