"""What every source has in common, and what a source of one's own must bring."""

import pytest
from reading_parts import read_in_parts

from tst_lightning.data.sources.base import WHOLE, Part, TextSource


class Numbers(TextSource):
    """A user's source: one method."""

    def documents(self, part):
        yield from ("one", "two")


def test_a_source_of_ones_own_is_one_part():
    assert Numbers().parts(1) == [WHOLE] == [Part()]
    assert read_in_parts(Numbers(), part_bytes=1) == ([["one", "two"]], {})
    assert Numbers().size_bytes() is None


def test_a_source_without_documents_cannot_be_made():
    class Nothing(TextSource):
        pass

    with pytest.raises(TypeError, match="documents"):
        Nothing()


def test_a_part_is_a_value():
    part = Part(("a", "b"), 1, 2, 3)
    assert part == Part(["a", "b"], 1, 2, 3)
    assert hash(part) == hash(Part(["a", "b"], 1, 2, 3))
    with pytest.raises(AttributeError):
        part.first = 0
