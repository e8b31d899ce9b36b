"""Removed duplicates against a set of texts."""

import random

import pytest
from corpora import files_of, in_reading_order, prepare_small, write_files
from prepared_folders import decoded, make_documents, write_jsonl

from tst_lightning.data.manifest import Manifest
from tst_lightning.data.preparing import duplicates
from tst_lightning.errors import UserError


@pytest.fixture
def repeated():
    """200 documents, 120 of them different, in an order of their own."""
    documents = make_documents(120)
    choose = random.Random(1)
    documents += choose.choices(documents, k=80)
    choose.shuffle(documents)
    return documents


def first_ones(documents):
    return list(dict.fromkeys(documents))


@pytest.mark.parametrize("bucket_records", [4_000_000, 7], ids=["one bucket", "many buckets"])
def test_the_first_occurrence_stays(bucket_records, repeated, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "BUCKET_RECORDS", bucket_records)
    source = write_files(tmp_path / "text", repeated)
    one = prepare_small(source, tmp_path / "one", deduplicate=True, workers=1)
    two = prepare_small(source, tmp_path / "two", deduplicate=True, workers=2)
    assert files_of(one) == files_of(two)
    expected = first_ones(in_reading_order(repeated))
    assert len(expected) == 120
    train = decoded(one, "train")
    assert train == [text for text in expected if text in set(train)]
    assert sorted(train + decoded(one, "validation")) == sorted(expected)
    assert Manifest.load(one).skipped == {"duplicate documents": 80}


def test_without_the_option_all_stay(repeated, tmp_path):
    out = prepare_small(write_files(tmp_path / "text", repeated), tmp_path / "out")
    assert sorted(decoded(out, "train") + decoded(out, "validation")) == sorted(repeated)


def test_limits_count_what_is_left(repeated, tmp_path):
    source = write_files(tmp_path / "text", repeated)
    options = {"deduplicate": True, "max_documents": 90}
    out = prepare_small(source, tmp_path / "out", workers=2, **options)
    assert sorted(decoded(out, "train") + decoded(out, "validation")) == sorted(
        first_ones(in_reading_order(repeated))[:90]
    )


def test_documents_of_the_validation_source_are_counted_as_such(repeated, tmp_path):
    held_out = [*make_documents(10), *make_documents(3)]
    out = prepare_small(
        write_files(tmp_path / "text", repeated),
        tmp_path / "out",
        validation_source=write_jsonl(tmp_path / "validation.jsonl", held_out),
        deduplicate=True,
    )
    expected = [text for text in first_ones(in_reading_order(repeated)) if text not in held_out]
    assert decoded(out, "train") == expected
    assert decoded(out, "validation") == first_ones(held_out)
    shared = sum(text in held_out for text in repeated)
    assert Manifest.load(out).skipped == {
        "documents that the validation source holds": shared,
        "duplicate documents": 3 + 200 - shared - len(expected),
    }


def test_the_first_pass_goes_on_after_a_failure(repeated, tmp_path):
    """The last file breaks off; mended to the same size, its first part alone is read anew."""
    source = write_files(tmp_path / "text", repeated)
    whole = (tmp_path / "text" / "2.jsonl").read_text()
    (tmp_path / "text" / "2.jsonl").write_text(whole[:-3] + "xxx")
    with pytest.raises(UserError, match="is not valid JSON"):
        prepare_small(source, tmp_path / "out", deduplicate=True, workers=1)
    (partial,) = tmp_path.glob("out.partial-*")
    before = {path.name: path.stat().st_mtime_ns for path in (partial / "digests").iterdir()}
    assert before
    written = []
    original = duplicates.write_digests
    (tmp_path / "text" / "2.jsonl").write_text(whole)

    def record(job, task, on_advance):
        written.append(duplicates.digests_file(task.number).removeprefix("digests/"))
        return original(job, task, on_advance)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tst_lightning.data.preparing.stages.write_digests", record)
        out = prepare_small(source, tmp_path / "out", deduplicate=True, workers=1)
    assert written
    assert not set(written) & set(before)
    assert len(decoded(out, "train") + decoded(out, "validation")) == 120
