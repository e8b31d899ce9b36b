"""What happens to the output folder: done before, other options, killed, refused, failed."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from prepared_folders import make_documents, write_jsonl

from tst_lightning.data.manifest import Manifest
from tst_lightning.data.prepare import prepare
from tst_lightning.data.preparing.partial_folder import partial_folder
from tst_lightning.data.preparing.sharding import ShardWriter
from tst_lightning.data.sources.base import TextSource
from tst_lightning.data.sources.json_lines import JsonLines
from tst_lightning.data.sources.text_files import TextFiles
from tst_lightning.data.tokenizer import Bytes, TrainedBPE
from tst_lightning.errors import UserError


def snapshot(folder):
    """Every file with its time of change and content."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture
def corpus(tmp_path):
    return write_jsonl(tmp_path / "corpus.jsonl", make_documents(120))


def test_the_same_options_do_nothing(tmp_path, corpus, capsys):
    prepare(corpus, str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
    before = snapshot(tmp_path)
    capsys.readouterr()
    prepare(JsonLines(str(tmp_path / "corpus.jsonl")), str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
    assert capsys.readouterr().out == f"already prepared: '{tmp_path / 'out'}'\n"
    assert snapshot(tmp_path) == before


def test_other_options_are_refused_and_named_until_told_to_overwrite(tmp_path, corpus):
    out = tmp_path / "out"
    prepare(corpus, str(out), Bytes(), validation_fraction=0.3)
    before = snapshot(tmp_path)
    message = (
        r"prepared with other options \(shard_tokens: 1048576 -> 500; tokenizer.class_path: .*Bytes.* -> "
        r".*TrainedBPE.*; tokenizer.init_args.* --overwrite true"
    )
    with pytest.raises(UserError, match=message):
        prepare(corpus, str(out), TrainedBPE(300), validation_fraction=0.3, shard_tokens=500)
    assert snapshot(tmp_path) == before
    prepare(corpus, str(out), TrainedBPE(300), validation_fraction=0.3, shard_tokens=500, overwrite=True)
    assert Manifest.load(out).tokenizer.vocab_size == 300
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "out"]


def test_changed_files_are_noticed(tmp_path, corpus):
    prepare(corpus, str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
    write_jsonl(tmp_path / "corpus.jsonl", make_documents(121))
    with pytest.raises(UserError, match=r"other options \(source_content.bytes: \d+ -> \d+; "):
        prepare(corpus, str(tmp_path / "out"), Bytes(), validation_fraction=0.3)


def test_a_failed_replacement_keeps_the_old_folder(tmp_path, corpus):
    prepare(corpus, str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
    before = snapshot(tmp_path / "out")
    with (tmp_path / "corpus.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(UserError, match="line 121 is not valid JSON"):
        prepare(corpus, str(tmp_path / "out"), Bytes(), validation_fraction=0.3, overwrite=True)
    assert snapshot(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "out"]


DYING = """
import os, signal, sys
from tst_lightning.data.sources.base import TextSource
from tst_lightning.data.prepare import Bytes, prepare

class Dying(TextSource):
    def documents(self, part=None):
        for number in range(100):
            yield f"{number} " * 60_000
            if number == 90:
                os.kill(os.getpid(), signal.SIGKILL)

prepare(Dying(), sys.argv[1], Bytes(), validation_fraction=0.3, shard_tokens=10_000, workers=1)
"""


def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path, corpus):
    out = tmp_path / "out"
    result = subprocess.run([sys.executable, "-c", DYING, str(out)], capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    partial = list(tmp_path.glob("out.partial-*"))
    assert len(partial) == 1
    assert list(partial[0].rglob("chunk-*.bin"))
    assert not list(tmp_path.rglob("manifest.json"))
    assert not out.exists()
    prepare(corpus, str(out), Bytes(), validation_fraction=0.3)
    assert not list(tmp_path.glob("out.partial-*"))
    assert Manifest.load(out).train.documents > 0


def test_two_runs_cannot_write_the_same_folder(tmp_path, corpus):
    with partial_folder(tmp_path / "out", "other") as partial:
        with pytest.raises(UserError, match=rf"another command is writing '.*out' \(in '{partial.path.name}'\)"):
            prepare(corpus, str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
        assert partial.path.is_dir()


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, corpus, monkeypatch):
    def fail(self, ids, lengths, complete):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ShardWriter, "append", fail)
    with pytest.raises(UserError, match=r"cannot write output_dir '.*out' \(No space left on device\): choose"):
        prepare(corpus, str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_folders_that_cannot_be_used_are_refused(tmp_path, corpus):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write output_dir '.*/file/out' \(.*\): choose a folder"):
        prepare(corpus, str(tmp_path / "file" / "out"), Bytes())
    with pytest.raises(UserError, match=r"output_dir '.*/file' is a file"):
        prepare(corpus, str(tmp_path / "file"), Bytes())
    with pytest.raises(UserError, match=r"holds other files and no manifest\.json: choose another folder"):
        prepare(corpus, str(tmp_path), Bytes(), overwrite=True)
    assert (tmp_path / "corpus.jsonl").exists()


def test_bad_values_are_collected_in_one_message(corpus):
    message = (
        r"validation_fraction is 1\.0: it has to lie between 0 and 1.*; shard_tokens is 0: it has to be at "
        r"least 1; max_documents is -1: .*; workers is 0: .*; evaluation_items is -1: .*; output_dir is empty"
    )
    with pytest.raises(UserError, match=message):
        prepare(corpus, "", Bytes(), 1.0, shard_tokens=0, max_documents=-1, workers=0, evaluation_items=-1)


def test_corpora_with_too_little_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    out = str(tmp_path / "out")
    with pytest.raises(UserError, match=r"the corpus is empty: .* \(left out: 1 documents without text\)"):
        prepare(TextFiles(str(tmp_path / "empty.txt")), out, Bytes())
    with pytest.raises(UserError, match=r"the corpus is empty"):
        prepare(TextFiles(str(tmp_path / "empty.txt")), out, TrainedBPE(257))
    (tmp_path / "one.txt").write_text("one document")
    one = TextFiles(str(tmp_path / "one.txt"))
    with pytest.raises(UserError, match=r"none of 1 documents .*fraction 0\.01: a corpus of one text cannot"):
        prepare(one, out, Bytes())
    with pytest.raises(UserError, match=r"no document is left for train \(left out: 1 documents that the"):
        prepare(one, out, Bytes(), validation_source=one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "one.txt"]


def test_a_changed_environment_is_noted_but_not_refused(tmp_path, capsys):
    class Changing(TextSource):
        content_must_match = False
        version = 1

        def documents(self, part=None):
            return iter(make_documents(40))

        def content(self):
            return {"version": self.version}

    prepare(Changing(), str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
    Changing.version = 2
    prepare(Changing(), str(tmp_path / "out"), Bytes(), validation_fraction=0.3)
    assert "the installed packages have changed since" in capsys.readouterr().out
