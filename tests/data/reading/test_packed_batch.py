"""Batches of packed rows, against the same written out slot by slot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tst_lightning.bags import IGNORE
from tst_lightning.data.reading.packed_batch import packed_batch

END_OF_TEXT = 99


def bags_of(piece, bag_size):
    return [piece[start : start + bag_size] for start in range(0, len(piece), bag_size)]


def reference(rows, row_positions, bag_size, isolate):
    """Token by token, with lists of bags and the number of the piece that each belongs to."""
    tokens, targets, position_ids = [], [], []
    for pieces in rows:
        bags, piece_of, positions = [], [], []
        for number, piece in enumerate(pieces):
            for position, bag in enumerate(bags_of(piece, bag_size)):
                bags.append(bag)
                piece_of.append(number)
                positions.append(position)
        positions += range(row_positions - len(bags))
        piece_of += [None] * (row_positions - len(bags))
        bags += [[]] * (row_positions - len(bags))
        tokens.append([bag + [END_OF_TEXT] * (bag_size - len(bag)) for bag in bags])
        row_targets = []
        for place in range(row_positions - 1):
            following = bags[place + 1]
            if isolate and piece_of[place + 1] != piece_of[place]:
                following = []
            row_targets.append(following + [IGNORE] * (bag_size - len(following)))
        targets.append(row_targets)
        position_ids.append(positions[:-1])
    return {"tokens": tokens, "targets": targets} | ({"position_ids": position_ids} if isolate else {})


@st.composite
def packed_rows(draw):
    """Rows of pieces that fit, the bag size, and the positions of a row."""
    bag_size, row_positions = draw(st.sampled_from([1, 2, 4])), draw(st.integers(2, 9))
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        left, row = row_positions, []
        while left and draw(st.integers(0, 4)):
            tokens = draw(st.integers(1, left * bag_size))
            row.append(draw(st.lists(st.integers(0, 98), min_size=tokens, max_size=tokens)))
            left -= -(-tokens // bag_size)
        rows.append(row)
    return rows, row_positions, bag_size


@given(packed_rows(), st.booleans())
def test_batches_are_those_of_the_reference(packed, isolate):
    rows, row_positions, bag_size = packed
    arrays = [[np.array(piece, np.uint16) for piece in row] for row in rows]
    batch = packed_batch(arrays, row_positions, bag_size, END_OF_TEXT, isolate)
    assert {name: array.tolist() for name, array in batch.items()} == reference(rows, row_positions, bag_size, isolate)
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}
    assert all(array.flags.c_contiguous for array in batch.values())


ROW = [np.array([1, 2, 3, 4, 5, 6], np.uint16), np.array([7, 8, 9, 10], np.uint16), np.array([11], np.uint16)]
_ = IGNORE


@pytest.mark.parametrize(
    ("isolate", "targets"),
    [
        (False, [[5, 6, _, _], [7, 8, 9, 10], [11, _, _, _], [_] * 4, [_] * 4]),
        (True, [[5, 6, _, _], [_] * 4, [_] * 4, [_] * 4, [_] * 4]),
    ],
)
def test_a_row_of_bags_written_out(isolate, targets):
    batch = packed_batch([ROW], row_positions=6, bag_size=4, end_of_text_id=0, isolate=isolate)
    assert batch["tokens"].tolist() == [
        [[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 9, 10], [11, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    ]
    assert batch["targets"].tolist() == [targets]
    assert ("position_ids" in batch) == isolate
    if isolate:
        assert batch["position_ids"].tolist() == [[0, 1, 0, 0, 0]]


def test_one_document_that_fills_a_row_of_single_tokens_is_as_if_it_were_not_packed():
    ids = np.arange(1, 10, dtype=np.uint16)
    batch = packed_batch([[ids]], row_positions=9, bag_size=1, end_of_text_id=0, isolate=True)
    assert batch["tokens"].ravel().tolist() == ids.tolist()
    assert batch["targets"].ravel().tolist() == ids[1:].tolist()
    assert batch["position_ids"].tolist() == [list(range(8))]
