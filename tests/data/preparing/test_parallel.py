"""Several processes against one; workers that die, and parents that are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpora import files_of, in_reading_order, prepare_small, write_files
from prepared_folders import decoded, make_documents, write_jsonl

from tst_lightning.data.manifest import Manifest
from tst_lightning.data.prepare import prepare
from tst_lightning.data.preparing.engines import Processes
from tst_lightning.data.sources.base import TextSource
from tst_lightning.data.sources.json_lines import JsonLines
from tst_lightning.data.tokenizer import Bytes, TrainedBPE
from tst_lightning.errors import UserError


def test_processes_give_the_files_of_one_process(tmp_path):
    source = write_files(tmp_path / "text")
    validation = write_jsonl(tmp_path / "validation.jsonl", [*make_documents(20, seed=3), *make_documents(9)])
    options = {"tokenizer": TrainedBPE(300), "validation_source": validation, "evaluation_items": 5}
    one = prepare_small(source, tmp_path / "one", workers=1, **options)
    two = prepare_small(source, tmp_path / "two", workers=3, **options)
    assert files_of(one) == files_of(two)
    assert len(Manifest.load(one).train.shards) > 5
    held_out = set(make_documents(9))
    assert decoded(two, "train") == [text for text in in_reading_order(make_documents(150)) if text not in held_out]
    assert decoded(two, "validation") == [*make_documents(20, seed=3), *make_documents(9)]


def test_a_source_that_workers_cannot_get_is_refused(tmp_path):
    class Local(JsonLines):
        pass

    write_files(tmp_path / "text")
    with pytest.raises(UserError, match=r"cannot be handed to worker processes .*or set workers to 1"):
        prepare_small(Local(str(tmp_path / "text")), tmp_path / "out", workers=2)
    assert prepare_small(Local(str(tmp_path / "text")), tmp_path / "out", workers=1).is_dir()


def kill_at_two(task, on_advance):
    if task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return task * 10


def test_a_worker_that_dies_is_named_and_the_others_finish():
    outcomes = dict(Processes(2).run(kill_at_two, iter(range(4)), on_advance=None))
    error = outcomes.pop(2)
    assert isinstance(error, UserError)
    assert str(error).startswith("the worker process for 2 died (SIGKILL, as by a system that is out of memory)")
    assert outcomes == {0: 0, 1: 10, 3: 30}


def fail(task, on_advance):
    raise ZeroDivisionError("a fault of the program")


def test_a_fault_of_the_program_keeps_the_workers_traceback():
    with pytest.raises(ZeroDivisionError) as raised:
        list(Processes(1).run(fail, iter([1]), on_advance=None))
    assert "in fail" in "".join(raised.value.__notes__)


SLOW = """
import sys, time
from tst_lightning.data.sources.json_lines import JsonLines

class Slow(JsonLines):
    def documents(self, part=None):
        for text in super().documents(part):
            time.sleep(0.03)
            yield text
"""


def children(pid):
    """Processes that were started by ``pid`` or by what it started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found += [int(stat.parent.name), *children(int(stat.parent.name))]
    return found


def alive(pids):
    """Those of the processes that exist and are not only waiting to be collected."""
    found = []
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_stopped_preparation_leaves_no_process_and_goes_on_later(how, tmp_path, monkeypatch, capsys):
    source = write_files(tmp_path / "text")
    (tmp_path / "slow_source.py").write_text(SLOW)
    program = (
        # A shell that starts the tests in the background has its children ignore Ctrl-C.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import sys; sys.path.insert(0, sys.argv[1]); from slow_source import Slow;"
        "from tst_lightning.data.prepare import Bytes, prepare;"
        "prepare(Slow(sys.argv[1] + '/text'), sys.argv[1] + '/out', Bytes(), validation_fraction=0.2,"
        "part_bytes=10_000, shard_tokens=4000, workers=2)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("out.partial-*/tasks/*/report.json"))) < 3:
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started = children(parent.pid)
    assert len(started) >= 2
    parent.send_signal(how)
    parent.wait(timeout=20)
    while alive(started) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(started)
    assert not (tmp_path / "out").exists()

    monkeypatch.syspath_prepend(tmp_path)
    from slow_source import Slow

    capsys.readouterr()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    prepare_small(Slow(str(tmp_path / "text")), tmp_path / "out", workers=1)
    assert "parts are finished" in capsys.readouterr().out
    expected = prepare_small(source, tmp_path / "expected", workers=1)
    for split in ("train", "validation"):
        assert files_of(tmp_path / "out" / split) == files_of(expected / split)
    del sys.modules["slow_source"]


class FailingOnce(TextSource):
    """Five parts; the third fails while a file named ``broken`` is there."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.read = []

    def parts(self, part_bytes):
        from tst_lightning.data.sources.base import Part

        return [Part(first=number, last=number + 1) for number in range(5)]

    def documents(self, part):
        self.read.append(part.first)
        if part.first == 2 and (Path(self.folder) / "broken").exists():
            raise UserError("part 2 is broken")
        return iter(make_documents(30, seed=part.first))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_failed_part_loses_none_before_it(workers, tmp_path, capsys):
    (tmp_path / "broken").touch()
    source = FailingOnce(str(tmp_path))
    with pytest.raises(UserError, match="part 2 is broken"):
        prepare_small(source, tmp_path / "out", workers=workers)
    (tmp_path / "broken").unlink()
    source.read.clear()
    prepare_small(source, tmp_path / "out", workers=1)
    assert not {0, 1} & set(source.read)
    assert {2, 3, 4} >= set(source.read) >= {2}
    assert "of 5 parts are finished" in capsys.readouterr().out
    expected = prepare_small(FailingOnce(str(tmp_path)), tmp_path / "expected", workers=1)
    assert files_of(tmp_path / "out") == files_of(expected)


def test_a_trained_tokenizer_is_not_trained_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken").touch()
    with pytest.raises(UserError):
        prepare_small(FailingOnce(str(tmp_path)), tmp_path / "out", TrainedBPE(300, sample_bytes=10_000), workers=1)
    assert "training the tokenizer" in capsys.readouterr().out
    (tmp_path / "broken").unlink()
    monkeypatch.setattr(TrainedBPE, "build", None)
    prepare_small(FailingOnce(str(tmp_path)), tmp_path / "out", TrainedBPE(300, sample_bytes=10_000), workers=1)
    assert "training the tokenizer" not in capsys.readouterr().out


@pytest.mark.parametrize("moment", ["prepare.replace_folder", "preparing.finish.finish_split"])
def test_a_preparation_killed_while_it_finishes_goes_on(moment, tmp_path, monkeypatch):
    source = write_files(tmp_path / "text")
    expected = prepare_small(source, tmp_path / "expected", workers=1)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"tst_lightning.data.{moment}", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare_small(source, tmp_path / "out", workers=1)
    monkeypatch.setattr("tst_lightning.data.preparing.in_order.run_task", None)  # no part is done again
    prepare_small(source, tmp_path / "out", workers=1)
    assert files_of(tmp_path / "out") == files_of(expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "out", "text"]


def test_other_options_do_not_take_over_finished_parts(tmp_path):
    (tmp_path / "broken").touch()
    with pytest.raises(UserError):
        prepare_small(FailingOnce(str(tmp_path)), tmp_path / "out", workers=1)
    (tmp_path / "broken").unlink()
    source = FailingOnce(str(tmp_path))
    prepare(source, str(tmp_path / "out"), Bytes(), validation_fraction=0.3, workers=1)
    assert source.read == [0, 1, 2, 3, 4]
    assert not list(tmp_path.glob("out.partial-*"))


def test_workers_import_nothing_heavy():
    """What a worker needs to unpickle its job and to do tasks."""
    program = (
        "import sys; import tst_lightning.cli, tst_lightning.data.preparing.task, tst_lightning.data.prepare;"
        "import tokenizers;"
        "print([name for name in ('torch', 'litdata', 'transformers', 'datasets', 'pyarrow', 'ray', 'boto3')"
        " if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
