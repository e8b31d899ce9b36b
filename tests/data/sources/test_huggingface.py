"""Data sets in local folders: whole, and in shards read alone."""

import pickle

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading_parts import flat, json_lines, read_in_parts

from tst_lightning import hub
from tst_lightning.data.sources.base import Part
from tst_lightning.data.sources.huggingface import HuggingFaceDataset
from tst_lightning.errors import UserError

DOCUMENTS = [["one", "two ä"], ["three"], ["", "five\r\n", "six"], ["seven"]]
FLAT = flat(DOCUMENTS)


def write_json(folder, number, documents):
    (folder / f"{number}.jsonl").write_bytes(json_lines(documents))


def write_parquet(folder, number, documents):
    table = pa.table({"id": list(range(len(documents))), "text": documents})
    pq.write_table(table, folder / f"{number}.parquet", row_group_size=1)


WRITERS = {"json": write_json, "parquet": write_parquet}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    datasets.disable_progress_bars()


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("streaming", [True, False])
def test_parts_hold_every_document_once_in_order(tmp_path, write, streaming):
    for number, documents in enumerate(DOCUMENTS):
        write(tmp_path, number, documents)
    source = HuggingFaceDataset(str(tmp_path), streaming=streaming)
    assert list(source.documents()) == FLAT
    for part_bytes in (1, 20, 1 << 20):
        documents, skipped = read_in_parts(source, part_bytes)
        assert flat(documents) == FLAT
        assert not skipped
        if streaming:
            assert documents == DOCUMENTS
        else:
            assert len(documents) == {1: 7, 1 << 20: 1}.get(part_bytes, len(documents))
    assert len(source.parts(20)) > 1
    unopened = HuggingFaceDataset(str(tmp_path), streaming=streaming)
    assert pickle.dumps(source) == pickle.dumps(unopened)


def test_text_files_are_documents_by_line_as_the_library_reads_them(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"a{number}\n\nb{number}\n")
    documents, _ = read_in_parts(HuggingFaceDataset(str(tmp_path)), 1)
    assert documents == [["a0", "", "b0"], ["a1", "", "b1"], ["a2", "", "b2"]]


def test_a_part_opens_only_its_shard(tmp_path):
    for number, documents in enumerate(DOCUMENTS):
        write_json(tmp_path, number, documents)
    parts = HuggingFaceDataset(str(tmp_path)).parts(1)
    (tmp_path / "2.jsonl").write_text("{nonsense")
    for part, documents in zip(parts, DOCUMENTS, strict=True):
        source = HuggingFaceDataset(str(tmp_path))
        if part.first == 2:
            with pytest.raises(UserError, match="cannot read data set"):
                list(source.documents(part))
        else:
            assert list(source.documents(part)) == documents


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("streaming", [True, False])
def test_rows_without_text_are_skipped_and_wrong_columns_named(tmp_path, write, streaming):
    write(tmp_path, 0, ["one", None])
    write(tmp_path, 1, [None, "two"])

    def source(**options):
        return HuggingFaceDataset(str(tmp_path), streaming=streaming, **options)

    documents, skipped = read_in_parts(source(), 1)
    assert flat(documents) == ["one", "two"]
    assert skipped == {"documents without text": 2}
    with pytest.raises(UserError, match=r"has no column 'body' \(its columns: id, text\): set text_field"):
        list(source(text_field="body").documents())
    with pytest.raises(UserError, match=r"column 'id' of data set '.*' holds int, not text, in row 1: set"):
        list(source(text_field="id").documents())
    part = Part(first=1, last=2)
    row = "row 1 of shard 1" if streaming else "row 2"
    with pytest.raises(UserError, match=rf"column 'id' of data set '.*' holds int, not text, in {row}: set"):
        list(source(text_field="id").documents(part))


def test_a_missing_split_and_a_saved_data_set_are_named(tmp_path):
    write_json(tmp_path, 0, ["one"])
    with pytest.raises(UserError, match=r"cannot read data set '.*' \(name: None, split: nosuch\): .*nosuch"):
        HuggingFaceDataset(str(tmp_path), split="nosuch").parts(1)
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"saved' was written by save_to_disk: read it with the source Arrow"):
        HuggingFaceDataset(str(tmp_path / "saved")).parts(1)


def test_an_unreachable_hub_is_named_at_once(monkeypatch):
    monkeypatch.setattr(hub, "why_no_hub", lambda: "the hub is away")
    for read in (lambda source: list(source.documents()), lambda source: source.parts(1)):
        with pytest.raises(UserError, match=r"cannot read data set 'some/name' .*: the hub is away\. Correct"):
            read(HuggingFaceDataset("some/name"))
