"""Parquet and Arrow files against the tables that were written."""

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading_parts import check_file_parts, flat, read_in_parts

from tst_lightning.data.sources.arrow import Arrow
from tst_lightning.data.sources.parquet import Parquet
from tst_lightning.errors import UserError


def write_parquet(table, path, group_rows):
    pq.write_table(table, path.with_suffix(".parquet"), row_group_size=group_rows)


def write_file_format(table, path, group_rows):
    pyarrow.feather.write_feather(table, path.with_suffix(".feather"), chunksize=group_rows)


def write_stream_format(table, path, group_rows):
    with pa.ipc.new_stream(path.with_suffix(".arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=group_rows)


FORMATS = {
    "parquet": (Parquet, write_parquet),
    "file": (Arrow, write_file_format),
    "stream": (Arrow, write_stream_format),
}
every_format = pytest.mark.parametrize(("kind", "write"), FORMATS.values(), ids=FORMATS)


@every_format
@settings(max_examples=30, deadline=None)
@given(
    tables=st.lists(st.lists(st.none() | st.text(max_size=30), max_size=20), min_size=1, max_size=3),
    group_rows=st.integers(1, 8),
    part_bytes=st.sampled_from([1, 300, 1000, 2000, 4000, 1 << 20]),
)
def test_parts_hold_every_document_once_in_order(tmp_path_factory, kind, write, tables, group_rows, part_bytes):
    folder = tmp_path_factory.mktemp("tables")
    for number, texts in enumerate(tables):
        table = pa.table({"n": list(range(len(texts))), "body": pa.array(texts, pa.string())})
        write(table, folder / str(number), group_rows)
    source = kind(str(folder), text_field="body")
    expected = [text for texts in tables for text in texts if text is not None]
    nulls = sum(text is None for texts in tables for text in texts)
    assert list(source.documents()) == expected
    assert source.bytes_read == source.size_bytes()
    documents, skipped = read_in_parts(source, part_bytes)
    assert flat(documents) == expected
    assert skipped.total() == skipped["documents without text"] == nulls
    check_file_parts(source, part_bytes)


@every_format
@pytest.mark.parametrize("text_type", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_types_of_text(tmp_path, kind, write, text_type):
    texts = ["one", None, "", "a longer text, ä 🙂"]
    write(pa.table({"text": pa.array(texts, pa.string()).cast(text_type)}), tmp_path / "a", 10)
    assert list(kind(str(tmp_path)).documents()) == ["one", "", "a longer text, ä 🙂"]


@every_format
def test_a_wrong_column_or_file_is_named(tmp_path, kind, write):
    write(pa.table({"n": [1, 2], "body": ["a", "b"]}), tmp_path / "a", 1)
    for read in (lambda source: list(source.documents()), lambda source: source.parts(1)):
        with pytest.raises(UserError, match=r"a\.\w+' has no column 'text' \(its columns: n, body\): set text_field"):
            read(kind(str(tmp_path)))
        with pytest.raises(UserError, match=r"column 'n' of .* holds int64, not text: set text_field"):
            read(kind(str(tmp_path), text_field="n"))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (b"no", whole[: len(whole) // 2], whole[: len(whole) - 1]):
        path.write_bytes(damaged)
        with pytest.raises(
            UserError, match=rf"cannot read '.*' as {kind.format_name} \(.*: replace it or leave it out"
        ):
            list(kind(str(tmp_path), text_field="body").documents())


@every_format
def test_a_text_that_is_not_utf8_is_named(tmp_path, kind, write):
    binary = pa.array([b"fine", b"\xff"])
    text = pa.Array.from_buffers(pa.string(), len(binary), binary.buffers())
    write(pa.table({"text": text}), tmp_path / "a", 10)
    with pytest.raises(UserError, match=r"cannot read '.*' as .*utf-8.*replace it"):
        list(kind(str(tmp_path)).documents())
