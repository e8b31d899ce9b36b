"""Text files against the texts that were written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading_parts import check_file_parts, flat, read_in_parts

from tst_lightning.data.sources.text_files import TextFiles


def test_text_files_of_a_folder_are_documents_in_the_order_of_their_paths(tmp_path):
    (tmp_path / "b.md").write_text("# two", encoding="utf-8")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.TXT").write_text("one ä", encoding="utf-8-sig")
    (tmp_path / "c.csv").write_text("not text")
    source = TextFiles(str(tmp_path))
    assert list(source.documents()) == ["one ä", "# two"]
    assert list(source.documents()) == ["one ä", "# two"]
    assert source.bytes_read == source.size_bytes() == 9 + 5


def test_a_file_that_is_not_utf8_is_skipped_with_a_warning_and_counted(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "latin1.txt").write_bytes("schön".encode("latin-1"))
    source = TextFiles(str(tmp_path))
    with pytest.warns(UserWarning, match=r"skipped '.*latin1\.txt': 'utf-8' codec can't decode byte 0xf6"):
        assert list(source.documents()) == ["good"]
    assert source.skipped == {"files that are not UTF-8": 1}
    with pytest.warns(UserWarning, match="skipped"):
        assert read_in_parts(source, 1) == ([["good"], []], {"files that are not UTF-8": 1})


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=9), part_bytes=st.integers(1, 30))
def test_consecutive_small_files_are_one_part(tmp_path_factory, sizes, part_bytes):
    folder = tmp_path_factory.mktemp("texts")
    for number, size in enumerate(sizes):
        (folder / f"{number}.txt").write_text("abcdefghij"[:size])
    source = TextFiles(str(folder))
    check_file_parts(source, part_bytes)
    documents, _ = read_in_parts(source, part_bytes)
    assert flat(documents) == ["abcdefghij"[:size] for size in sizes]
    totals = [sum(map(len, part)) for part in documents]
    for number, (total, part) in enumerate(zip(totals, documents, strict=True)):
        assert total <= part_bytes or len(part) == 1
        if number + 1 < len(documents):
            assert total + len(documents[number + 1][0]) > part_bytes
