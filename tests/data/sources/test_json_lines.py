"""JSON lines against documents written out by hand, whole, in parts, and damaged."""

import gzip
import json

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from reading_parts import check_file_parts, flat, json_lines, read_in_parts

from tst_lightning.data.sources.json_lines import JsonLines
from tst_lightning.errors import UserError

DOCUMENTS = ["first\nline two", "Zweites Dokument: äöü €", "third 🙂", "", "fifth\r\n"]
COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("ending", COMPRESS)
def test_plain_and_compressed(tmp_path, ending):
    data = json_lines(DOCUMENTS, field="content")
    half = len(data) // 2
    # Two members or frames, as `cat a.gz b.gz` makes them.
    data = COMPRESS[ending](data[:half]) + COMPRESS[ending](data[half:])
    (tmp_path / f"part.JSONL{ending.upper()}").write_bytes(data)
    source = JsonLines(str(tmp_path), text_field="content")
    assert list(source.documents()) == DOCUMENTS
    assert source.bytes_read == len(data)


LINES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(
        lambda text: (json.dumps({"text": text}, ensure_ascii=False).encode(), text)
    ),
    st.sampled_from([(b"", None), (b" \t", None)]),
)
FILES = st.lists(
    st.tuples(st.lists(LINES, max_size=8), st.sampled_from([b"\n", b"\r\n"]), st.booleans()), min_size=1, max_size=4
)


@settings(max_examples=150, deadline=None)
@given(files=FILES, part_bytes=st.integers(1, 120), ending=st.sampled_from(list(COMPRESS)))
def test_parts_hold_every_document_once_in_order(tmp_path_factory, files, part_bytes, ending):
    folder = tmp_path_factory.mktemp("lines")
    expected = []
    for number, (lines, end, ends) in enumerate(files):
        data = end.join(line for line, _ in lines) + (end if ends else b"")
        (folder / f"{number}.jsonl{ending}").write_bytes(COMPRESS[ending](data))
        expected += [text for _, text in lines if text is not None]
    source = JsonLines(str(folder))
    assert list(source.documents()) == expected
    assert flat(read_in_parts(source, part_bytes)[0]) == expected
    check_file_parts(source, part_bytes)
    if not ending:
        assert all(part.size_bytes <= part_bytes for part in source.parts(part_bytes))


def test_a_line_belongs_to_the_part_that_it_begins_in(tmp_path):
    line = b'{"text": "%d"}\n'
    (tmp_path / "a.jsonl").write_bytes(b"".join(line % number for number in range(6)))
    size = len(line % 0)
    for part_bytes, expected in {
        size - 1: [["0"], ["1"], ["2"], ["3"], ["4"], ["5"], []],  # equal parts of 12 bytes for lines of 14
        size: [["0"], ["1"], ["2"], ["3"], ["4"], ["5"]],
        2 * size - 1: [["0", "1"], ["2"], ["3", "4"], ["5"]],  # of 21 bytes
        2 * size: [["0", "1"], ["2", "3"], ["4", "5"]],
    }.items():
        assert read_in_parts(JsonLines(str(tmp_path)), part_bytes)[0] == expected


def read_in_order(source, part_bytes):
    return [list(source.documents(part)) for part in source.parts(part_bytes)]


BAD_LINES = [
    (b'{"text": "cut', r"line 2 is not valid JSON \(Invalid control character"),
    (b'{"text": "\xff"}', r"line 2 is not valid JSON \('utf-8' codec can't decode"),
    (b"[" * 100_000, r"line 2 is not valid JSON \(maximum recursion depth"),
    (b'["text"]', r"line 2 is not a JSON object but a list"),
    (b'{"body": "x", "id": 1}', r"line 2 has no field 'text' \(its fields: body, id\)"),
    (b'{"text": null}', r"line 2 holds no text in field 'text' but null"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_malformed_line_stops_with_file_and_line_or_is_counted(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + line + b'\n\n{"text": "three"}\n')
    with pytest.raises(UserError, match=rf"a\.jsonl' {message}.*on_error: skip") as caught:
        list(JsonLines(str(path)).documents())
    assert "cut off" not in str(caught.value)
    source = JsonLines(str(path), on_error="skip")
    assert list(source.documents()) == ["one", "three"]
    assert source.skipped == {"malformed lines": 1}


@pytest.mark.parametrize("part_bytes", [1, 2, 7, 16, 17, 100, 131, 1000])
def test_a_bad_line_in_any_part_is_reported_with_its_number_in_the_file(tmp_path, part_bytes):
    path = tmp_path / "a.jsonl"
    lines = [b'{"text": "%d"}' % number for number in range(1, 20)]
    for bad in (1, 2, 10, 19):
        path.write_bytes(b"\n".join([*lines[: bad - 1], b"{nonsense}", *lines[bad:]]) + b"\n")
        source = JsonLines(str(path))
        with pytest.raises(UserError, match=rf"a\.jsonl' line {bad} is not valid JSON"):
            read_in_order(source, part_bytes)
        documents, skipped = read_in_parts(JsonLines(str(path), on_error="skip"), part_bytes)
        assert flat(documents) == [str(number) for number in range(1, 20) if number != bad]
        assert skipped == {"malformed lines": 1}


@pytest.mark.parametrize("ending", COMPRESS)
def test_a_file_that_ends_within_a_record_is_said_to_be_cut_off(tmp_path, ending):
    path = tmp_path / f"a.jsonl{ending}"
    whole = json_lines(["one", "two ä"])
    for length in range(len(whole) - 2, whole.index(b"\n") + 1, -1):
        path.write_bytes(COMPRESS[ending](whole[:length]))
        source = JsonLines(str(path))
        with pytest.raises(UserError, match=r"' line 2 is not valid JSON .* so the file seems to be cut off: "):
            read_in_order(source, part_bytes=20)
    path.write_bytes(COMPRESS[ending](whole[:-1]))  # only the line break is missing
    assert list(source.documents()) == ["one", "two ä"]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_compressed_file_that_breaks_off_stops(tmp_path, ending):
    data = json_lines([f"{i} " * 50 for i in range(200)])
    whole = COMPRESS[ending](data) * 2
    path = tmp_path / f"a.jsonl{ending}"
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        if length == len(whole) // 2:
            assert len(list(JsonLines(str(path)).documents())) == 200
            continue
        with pytest.raises(UserError, match=r"cannot read '.*a\.jsonl\.\w+' \(.*cut off or damaged\): replace"):
            list(JsonLines(str(path), on_error="skip").documents())
    path.write_bytes(whole[:200] + b"\0" * 20 + whole[220:])
    with pytest.raises(UserError, match=r"cut off or damaged\): replace"):
        list(JsonLines(str(path), on_error="skip").documents())


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    source = JsonLines(str(tmp_path))
    (part,) = source.parts(100)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(UserError, match=r"cannot read '.*a\.jsonl' \(No such file or directory\): replace"):
        list(source.documents(part))


def test_empty_files_hold_no_documents(tmp_path):
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(b""))
    assert flat(read_in_parts(JsonLines(str(tmp_path)), 1)[0]) == []


def test_on_error_is_checked():
    with pytest.raises(UserError, match="on_error is 'ignore': it has to be 'stop' or 'skip'"):
        JsonLines("x", on_error="ignore")
