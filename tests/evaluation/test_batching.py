"""Grouping and cutting against a trie and against what the words say, on made-up rows."""

import random

import pytest

from tst_lightning.evaluation.batching import Row, Tree, batches, common_length, single_rows, trees
from tst_lightning.evaluation.forward import _places, _tokens


def made_up_rows(seed: int) -> list[Row]:
    """Rows of 1 to 40 tokens, many of which begin alike, in any order."""
    generator = random.Random(seed)
    stems = [tuple(generator.choices(range(4), k=generator.randint(1, 30))) for _ in range(6)]
    inputs = {
        generator.choice(stems) + tuple(generator.choices(range(4), k=generator.randint(0, 10))) for _ in range(50)
    }
    rows = [Row(tokens, [(owner, [0] * generator.randint(1, len(tokens)))]) for owner, tokens in enumerate(inputs)]
    generator.shuffle(rows)
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_trees_hold_every_row_once_and_pay(seed: int) -> None:
    rows = made_up_rows(seed)
    found = trees(rows)
    assert sorted(id(row) for tree in found for row in tree.rows) == sorted(map(id, rows))
    assert any(len(tree.rows) > 1 for tree in found)
    for tree in found:
        tokens = _tokens(tree)
        assert len(tokens) == tree.length
        for row, places in zip(tree.rows, _places(tree), strict=True):
            assert tuple(tokens[place] for place in places) == row.inputs
        # No tree is longer than its rows apart, nor than the bound.
        assert tree.length <= sum(len(row.inputs) for row in tree.rows)
        assert tree.length <= 2 * max(len(row.inputs) for row in tree.rows)
    assert sum(tree.length for tree in found) < 0.8 * sum(len(row.inputs) for row in rows)


def test_an_items_choices_share_their_context_by_hand() -> None:
    context = tuple(range(20))
    rows = [Row((*context, 30 + choice, 40), [(choice, [1, 1])]) for choice in range(4)]
    (tree,) = trees([*rows])
    assert (tree.shared, tree.length) == (20, 20 + 4 * 2)
    assert [places[-2:] for places in _places(tree)] == [[20, 21], [22, 23], [24, 25], [26, 27]]
    # One common token of ten is not worth a mask.
    assert len(trees([Row((1, *range(10, 30)), [(0, [1])]), Row((1, *range(40, 60)), [(1, [1])])])) == 2


def test_a_tree_is_no_longer_than_twice_its_longest_row() -> None:
    rows = [Row((*range(10), *[choice + 50] * 10), [(choice, [1])]) for choice in range(9)]
    assert [tree.length for tree in trees(rows)] == [40, 40, 40]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("group", [trees, single_rows])
def test_batches_keep_their_bounds(seed: int, group) -> None:
    grouped = group(made_up_rows(seed))
    found = list(batches(grouped, batch_tokens=100, max_positions=60))
    assert [tree for batch in found for tree in batch] == grouped
    for batch in found:
        assert len({len(tree.rows) == 1 for tree in batch}) == 1
        if len(batch) > 1:
            assert len(batch) * max(tree.length for tree in batch) <= 100
            assert sum(tree.positions for tree in batch) <= 60
    lengths = [max(tree.length for tree in batch) for batch in found if batch[0].is_row]
    assert lengths == sorted(lengths, reverse=True)


def test_one_row_is_a_tree_of_its_own_length() -> None:
    (tree,) = single_rows([Row((1, 2, 3), [(0, [4])])])
    assert tree == Tree([Row((1, 2, 3), [(0, [4])])], 3)
    assert (tree.length, tree.is_row, _tokens(tree), _places(tree)) == (3, True, [1, 2, 3], [[0, 1, 2]])


@pytest.mark.parametrize(
    ("a", "b", "length"), [("", "x", 0), ("abc", "abd", 2), ("abc", "abcde", 3), ("xbc", "abc", 0)]
)
def test_common_length(a: str, b: str, length: int) -> None:
    assert common_length(tuple(a), tuple(b)) == length
