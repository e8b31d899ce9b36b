"""What a user may get wrong: one message, and nothing that was finished is lost."""

import gzip

import pytest
from corpora import files_of, prepare_small, write_files
from prepared_folders import make_documents

from tst_lightning.data.manifest import Manifest
from tst_lightning.data.prepare import prepare
from tst_lightning.data.sources.json_lines import JsonLines
from tst_lightning.data.sources.text_files import TextFiles
from tst_lightning.data.tokenizer import Bytes, Pretrained, TrainedBPE
from tst_lightning.errors import UserError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": Pretrained("/no/such/folder")}, r"cannot load the tokenizer '/no/such/folder': .*Give a folder"),
        ({"tokenizer": TrainedBPE(70_000), "token_dtype": "uint16"}, r"token_dtype is uint16, which holds 65,536 ids"),
        ({"tokenizer": TrainedBPE(60_000)}, r"vocab_size is 60000, but the corpus' sample yields no more than \d+ ids"),
        ({"part_bytes": 0, "max_tokens": 0}, r"part_bytes is 0: it has to be at least 1; max_tokens is 0: it has to"),
        ({"max_tokens": 3}, r"the corpus is empty: it holds no document with text; correct source"),
        ({"validation_fraction": 1e-9}, r"none of 150 documents .* 1e-09: set validation_fraction to 0\.0\d*, which "),
    ],
    ids=["tokenizer", "uint16", "vocabulary", "values", "limit", "validation"],
)
def test_one_message_and_nothing_left_behind(options, message, tmp_path):
    source = write_files(tmp_path / "text")
    with pytest.raises(UserError, match=message) as raised:
        prepare_small(source, tmp_path / "out", **options)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_breaks_off_leaves_the_parts_before_it(workers, tmp_path):
    source = write_files(tmp_path / "text")
    whole = gzip.compress((tmp_path / "text" / "2.jsonl").read_bytes())
    (tmp_path / "text" / "2.jsonl").unlink()
    (tmp_path / "text" / "2.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cannot read '.*2\.jsonl\.gz' \(.*cut off or damaged\): replace the file"):
        prepare_small(source, tmp_path / "out", workers=workers)
    (partial,) = tmp_path.glob("out.partial-*")
    finished = list(partial.glob("tasks/*/report.json"))
    assert len(finished) == sum(len(JsonLines(str(path)).parts(10_000)) for path in (tmp_path / "text").glob("*.jsonl"))
    (tmp_path / "text" / "2.jsonl.gz").write_bytes(whole)  # of another size: a corpus of its own
    prepare_small(source, tmp_path / "out", workers=workers)
    assert files_of(tmp_path / "out") == files_of(prepare_small(source, tmp_path / "expected"))
    assert not list(tmp_path.glob("out.partial-*"))


def test_empty_documents_are_skipped_and_counted(tmp_path):
    source = write_files(tmp_path / "text", ["", " ", *make_documents(60), "\n"])
    out = prepare_small(source, tmp_path / "out")
    assert Manifest.load(out).skipped == {"documents without text": 3}


def test_an_empty_corpus_is_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="the corpus is empty"):
        prepare_small(JsonLines(str(tmp_path / "empty.jsonl")), tmp_path / "out")
    with pytest.raises(UserError, match=r"folder '.*' holds no .*\.txt"):
        prepare(TextFiles(str(tmp_path)), str(tmp_path / "out"), Bytes())
    assert [path.name for path in tmp_path.iterdir()] == ["empty.jsonl"]
