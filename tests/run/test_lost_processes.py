"""What the first process of a run says of one that has ended, and that none outlives the first one for long."""

import os
import pickle
import re
import signal
import subprocess
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import TQDMProgressBar

from tst_lightning import cli
from tst_lightning.modeling.checked_resuming import CheckedResuming
from tst_lightning.run import lost_processes
from tst_lightning.run.lost_processes import LostProcesses
from tst_lightning.run.progress_bar import count_steps

BROKEN = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:30720"


FIRST = "TST_LIGHTNING_FIRST_PROCESS"


@pytest.fixture(autouse=True)
def no_first_process(monkeypatch):
    """The callback says in the environment who is the first one; no other test is to believe it."""
    monkeypatch.setenv(FIRST, "")


@pytest.fixture
def child():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def trainer(children, folder, launcher=True, processes=2):
    launched = SimpleNamespace(procs=children) if launcher else None
    return SimpleNamespace(
        strategy=SimpleNamespace(launcher=launched), global_rank=4, world_size=processes,
        state=SimpleNamespace(fn="fit"),
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


CAUGHT = "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback: [Errno 32] Broken pipe"


@pytest.mark.parametrize(("processes", "text"), [(1, BROKEN), (1, CAUGHT), (2, CAUGHT)])
def test_a_broken_connection_of_another_kind_is_left_alone(tmp_path, capsys, monkeypatch, processes, text):
    """In a run of one process, and of a worker with whoever has the text: it is raised as it is."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    error = RuntimeError(text)
    assert not ends_of(error, trainer([], tmp_path, processes=processes))

    def fail(*_):
        raise error

    monkeypatch.setattr(cli, "_dispatch", fail)
    with pytest.raises(RuntimeError, match=re.escape(text)):
        cli.main(["fit"])
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
    monkeypatch.setenv(FIRST, str(os.getppid()))
    callback, killed = LostProcesses(), []
    assert os.environ[FIRST] == str(os.getpid())
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
    monkeypatch.delenv(FIRST, raising=False)
    assert LostProcesses()._first is None
    monkeypatch.setenv(FIRST, str(os.getppid()))
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert LostProcesses()._first is None


def test_what_a_run_adds_to_the_trainer_can_be_spawned(tmp_path):
    """As ``ddp_spawn`` does; such processes have watchers of their own."""
    running = SimpleNamespace(callbacks=[LostProcesses(), CheckedResuming("a.ckpt"), TQDMProgressBar()])
    count_steps(running)
    lost, resuming, bar = pickle.loads(pickle.dumps(running.callbacks))
    lost.setup(trainer([], tmp_path), None, "fit")
    assert ends_of(RuntimeError(BROKEN), trainer([], tmp_path), lost)
    lost.teardown(trainer([], tmp_path), None, "fit")
    assert resuming.ckpt_path == "a.ckpt"
    assert type(bar) is type(running.callbacks[2])


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_started_after_a_run_has_another_first_process(tmp_path, fails):
    callback, running = LostProcesses(), trainer([], tmp_path)
    callback.setup(running, None, "fit")
    assert os.environ[FIRST] == str(os.getpid())  # until then: Lightning is about to start the others
    if fails:
        callback.on_exception(running, None, ValueError("its own"))
    else:
        callback.teardown(running, None, "fit")
    assert FIRST not in os.environ
