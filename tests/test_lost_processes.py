"""What the first process of a run says of one that has ended, and that none outlives the first one for long."""

import os
import re
import signal
import subprocess
from types import SimpleNamespace

import pytest

from tst_lightning import lost_processes
from tst_lightning.lost_processes import LostProcesses

BROKEN = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:30720"


@pytest.fixture
def child():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def trainer(children, folder, launcher=True):
    launched = SimpleNamespace(procs=children) if launcher else None
    return SimpleNamespace(
        strategy=SimpleNamespace(launcher=launched), global_rank=4, state=SimpleNamespace(fn="fit"),
        checkpoint_callbacks=[SimpleNamespace(dirpath=str(folder))],
    )  # fmt: skip


def ends_of(error, running, callback=None):
    (callback or LostProcesses()).on_exception(running, None, error)
    return getattr(error, "is_said", False)


@pytest.mark.parametrize("saved", [False, True])
def test_the_killed_process_is_named_once_with_what_to_do(child, tmp_path, capsys, monkeypatch, saved):
    """First by the one who watches: with NCCL no error comes."""
    monkeypatch.setattr(lost_processes, "_POLL_SECONDS", 0.01)
    if saved:
        (tmp_path / "last.ckpt").touch()
    running, callback = trainer([child], tmp_path), LostProcesses()
    child.kill()
    child.wait()
    callback._watch_children(running)
    said = capsys.readouterr().err
    assert re.match(rf"the process of rank 5 \(id {child.pid}\) was ended by SIGKILL: .*memory ran out", said)
    assert ("--ckpt_path last goes on from there" if saved else "start again with the same command") in said
    assert ends_of(RuntimeError(BROKEN), running, callback)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("signum", "words"), [(signal.SIGKILL, "SIGKILL: by hand"), (signal.SIGTERM, "SIGTERM. There")]
)
def test_the_error_of_a_broken_connection_is_explained(child, tmp_path, capsys, signum, words):
    os.kill(child.pid, signum)
    assert ends_of(RuntimeError(BROKEN), trainer([child], tmp_path))
    assert f"was ended by {words}" in capsys.readouterr().err


def test_of_one_that_has_its_own_message_only_the_status_is_said(tmp_path, capsys):
    child = subprocess.Popen(["false"])
    assert ends_of(RuntimeError(BROKEN), trainer([child], tmp_path))
    assert "has ended with status 1: its message says why" in capsys.readouterr().err


def test_other_errors_are_left_alone(child, tmp_path, capsys):
    child.kill()
    for error in (RuntimeError("shapes do not match"), ValueError(BROKEN)):
        assert not ends_of(error, trainer([child], tmp_path))
    assert capsys.readouterr().err == ""


def test_under_other_launchers_they_name_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert ends_of(RuntimeError(BROKEN), trainer([], tmp_path, launcher=False))
    assert "torchrun names its rank and status below. exitcode -9 is SIGKILL" in capsys.readouterr().err


@pytest.mark.parametrize("error_comes", [False, True])
def test_a_process_whose_first_one_has_ended_ends(monkeypatch, error_comes):
    """By itself if an error of its own ends it, else by SIGKILL."""
    for name, seconds in (("_POLL_SECONDS", 0.01), ("_END_SECONDS", 0.05)):
        monkeypatch.setattr(lost_processes, name, seconds)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("TST_LIGHTNING_FIRST_PROCESS", str(os.getppid()))
    callback, killed = LostProcesses(), []
    assert os.environ["TST_LIGHTNING_FIRST_PROCESS"] == str(os.getpid())
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    parents = iter([os.getppid(), os.getppid(), 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    if error_comes:
        monkeypatch.setattr(lost_processes, "_END_SECONDS", 5)
        callback._over.set()
    callback._watch_first()
    assert killed == ([] if error_comes else [(os.getpid(), signal.SIGKILL)])


def test_a_parent_that_is_not_the_first_process_may_end(monkeypatch):
    """Of a process that was started by hand, and whose shell is closed."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("TST_LIGHTNING_FIRST_PROCESS", raising=False)
    assert LostProcesses()._first is None
    monkeypatch.setenv("TST_LIGHTNING_FIRST_PROCESS", str(os.getppid()))
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert LostProcesses()._first is None
