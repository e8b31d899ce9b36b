"""Sources against documents written out by hand or by other libraries."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tst_lightning import hub
from tst_lightning.data.sources.corpus import JsonLines, Parquet, TextFiles
from tst_lightning.data.sources.huggingface import HuggingFaceDataset
from tst_lightning.errors import UserError

DOCUMENTS = ["first\nline two", "Zweites Dokument: äöü €", "third 🙂", "", "fifth\r\n"]


def json_lines(documents, field="text"):
    return "".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(documents)).encode()


def test_text_files_of_a_folder_are_documents_in_the_order_of_their_paths(tmp_path):
    (tmp_path / "b.md").write_text("# two", encoding="utf-8")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.TXT").write_text("one ä", encoding="utf-8-sig")
    (tmp_path / "c.csv").write_text("not text")
    source = TextFiles(str(tmp_path))
    assert list(source.documents()) == ["one ä", "# two"]
    assert list(source.documents()) == ["one ä", "# two"]
    assert source.bytes_read == source.size_bytes() == 9 + 5


def test_text_files_take_patterns_and_repeated_files_once(tmp_path):
    for name in ("2.txt", "1.txt", "3.log"):
        (tmp_path / name).write_text(name)
    source = TextFiles([str(tmp_path / "3.log"), str(tmp_path / "*.txt"), str(tmp_path / "1.txt")])
    assert list(source.documents()) == ["3.log", "1.txt", "2.txt"]


def test_a_text_file_that_is_not_utf8_is_skipped_with_a_warning_and_counted(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "latin1.txt").write_bytes("schön".encode("latin-1"))
    source = TextFiles(str(tmp_path))
    with pytest.warns(UserWarning, match=r"skipped '.*latin1\.txt': 'utf-8' codec can't decode byte 0xf6"):
        assert list(source.documents()) == ["good"]
    assert source.skipped == {"files that are not UTF-8": 1}


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_json_lines_plain_and_compressed(tmp_path, ending):
    data = json_lines(DOCUMENTS, field="content")
    if ending == ".gz":
        data = gzip.compress(data)
    if ending == ".zst":  # two frames, as `cat a.zst b.zst` makes them
        half = len(data) // 2
        data = zstandard.compress(data[:half]) + zstandard.compress(data[half:])
    (tmp_path / f"part.jsonl{ending}").write_bytes(data)
    source = JsonLines(str(tmp_path), text_field="content")
    assert list(source.documents()) == DOCUMENTS
    assert source.bytes_read == len(data)


BAD_LINES = [
    (b'{"text": "cut', r"line 2 is not valid JSON \(Unterminated string"),
    (b'{"text": "\xff"}', r"line 2 is not valid JSON \('utf-8' codec can't decode"),
    (b'["text"]', r"line 2 is not a JSON object but a list"),
    (b'{"body": "x", "id": 1}', r"line 2 has no field 'text' \(its fields: body, id\)"),
    (b'{"text": null}', r"line 2: field 'text' is not text but null"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_malformed_line_stops_with_file_and_line_or_is_counted(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + line + b'\n\n{"text": "three"}\n')
    with pytest.raises(UserError, match=rf"a\.jsonl' {message}.*on_error: skip"):
        list(JsonLines(str(path)).documents())
    source = JsonLines(str(path), on_error="skip")
    assert list(source.documents()) == ["one", "three"]
    assert source.skipped == {"malformed lines": 1}


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_compressed_file_that_breaks_off_stops(tmp_path, ending):
    compress = {"gz": gzip.compress, "zst": zstandard.compress}[ending]
    whole = compress(json_lines([f"{i} " * 50 for i in range(5000)]))
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cannot read '.*a\.jsonl\.\w+' after line \d+ .*replace the file"):
        list(JsonLines(str(path), on_error="skip").documents())


def test_missing_and_unfitting_paths_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no such file, folder or pattern: '.*/nothing-\*\.txt'.*correct paths"):
        list(TextFiles(str(tmp_path / "nothing-*.txt")).documents())
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(UserError, match=r"holds no \.jsonl, .* file \(it holds: 1 x \.csv\)"):
        list(JsonLines(str(tmp_path)).documents())
    with pytest.raises(UserError, match="paths is empty"):
        list(TextFiles([]).documents())
    with pytest.raises(UserError, match="on_error is 'ignore': it has to be 'stop' or 'skip'"):
        JsonLines("x", on_error="ignore")


def test_content_changes_with_sizes_and_names_but_not_with_the_folder(tmp_path):
    def content(folder, name, text):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(text)
        return TextFiles(str(tmp_path / folder / name)).content()

    base = content("a", "x.txt", "abc")
    assert base == content("b", "x.txt", "abd")
    assert base["bytes"] == 3
    assert base != content("a", "x.txt", "abcd")
    assert base != content("a", "y.txt", "abc")
    assert str(tmp_path) not in json.dumps(base)


def test_parquet(tmp_path):
    texts = [f"text {i}" for i in range(700)] + [None, "last"]
    pq.write_table(pa.table({"n": list(range(702)), "body": texts}), tmp_path / "a.parquet")
    source = Parquet(str(tmp_path), text_field="body")
    assert list(source.documents()) == [text for text in texts if text is not None]
    assert source.skipped == {"documents without text": 1}
    with pytest.raises(UserError, match=r"a\.parquet' has no column 'text' \(its columns: n, body\)"):
        list(Parquet(str(tmp_path)).documents())
    with pytest.raises(UserError, match=r"column 'n' of .* holds int64, not text"):
        list(Parquet(str(tmp_path), text_field="n").documents())
    (tmp_path / "b.parquet").write_text("no")
    with pytest.raises(UserError, match=r"cannot read '.*b\.parquet' as Parquet"):
        list(Parquet(str(tmp_path / "b.parquet"), text_field="body").documents())


def test_hugging_face_data_set_of_a_local_folder(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(json_lines(DOCUMENTS, field="body"))
    source = HuggingFaceDataset(str(tmp_path), text_field="body")
    assert list(source.documents()) == DOCUMENTS
    with pytest.raises(UserError, match=r"has no column 'text' \(its columns: id, body\): set text_field"):
        list(HuggingFaceDataset(str(tmp_path)).documents())
    with pytest.raises(UserError, match=r"column 'id' of data set '.*' holds int, not text, in row 1"):
        list(HuggingFaceDataset(str(tmp_path), text_field="id").documents())
    with pytest.raises(UserError, match=r"cannot read data set '.*' \(name: None, split: nosuch\): .*nosuch"):
        list(HuggingFaceDataset(str(tmp_path), split="nosuch").documents())


def test_an_unreachable_hub_is_named_at_once(monkeypatch):
    monkeypatch.setattr(hub, "why_no_hub", lambda: "the hub is away")
    with pytest.raises(UserError, match=r"cannot read data set 'some/name' .*: the hub is away\. Correct"):
        list(HuggingFaceDataset("some/name").documents())
