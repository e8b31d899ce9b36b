"""Checkpoints that are folders: whole or not there, whenever the process is killed."""

import multiprocessing
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tst_lightning.modeling import publishing
from tst_lightning.modeling.publishing import is_there, publish, recover

ONE = SimpleNamespace(is_global_zero=True, world_size=1)
NAMES = {"a", "b"}


def writing(content):
    def write(path):
        for name in sorted(NAMES):
            with open(os.path.join(path, name), "w") as file:
                file.write(content)

    return write


def content(path):
    """What is in the checkpoint, which is a folder or a file; it must be whole."""
    if path.is_file():
        return path.read_text()
    files = {file.name: file.read_text() for file in path.iterdir()}
    assert files.keys() == NAMES
    assert len(set(files.values())) == 1
    return files["a"]


def test_a_checkpoint_replaces_another(tmp_path):
    path = tmp_path / "last.ckpt"
    for text in ("first", "second"):
        publish(path, writing(text), ONE)
        assert content(path) == text
        assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_folder_replaces_a_file_and_a_file_a_folder(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_text("file")
    publish(path, writing("folder"), ONE)
    assert content(path) == "folder"
    publish(path, lambda aside: Path(aside).write_text("file"), ONE, folder=False)
    assert content(path) == "file"
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_leaves_the_checkpoint_of_before(tmp_path):
    path = tmp_path / "last.ckpt"
    publish(path, writing("first"), ONE)

    def fails(aside):
        writing("second")(aside)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        publish(path, fails, ONE)
    assert content(path) == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


class Group:
    """Two processes, as threads that wait for each other in collective calls, and no longer than some seconds."""

    def __init__(self):
        self.barrier = threading.Barrier(2, timeout=5)
        self.values = {}

    def exchange(self, rank, value):
        self.barrier.wait()
        self.values[rank] = value
        self.barrier.wait()
        return dict(self.values)

    def strategy(self, rank):
        return SimpleNamespace(
            is_global_zero=rank == 0, world_size=2, global_rank=rank, root_device="cpu",
            reduce=lambda tensor, reduce_op: max(self.exchange(rank, tensor).values()),
            broadcast=lambda value, src: self.exchange(rank, value)[src],
        )  # fmt: skip

    def run(self, save):
        """What each ended with, by rank: None, or an exception."""
        ended = {}

        def process(rank):
            try:
                ended[rank] = save(self.strategy(rank))
            except Exception as error:
                ended[rank] = error

        threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ended


def shard(rank, text):
    return lambda aside: (Path(aside) / "ab"[rank]).write_text(text)


def test_two_processes_publish_one_folder(tmp_path):
    path = tmp_path / "last.ckpt"
    for text in ("first", "second"):
        ended = Group().run(lambda strategy: publish(path, shard(strategy.global_rank, text), strategy))  # noqa: B023
        assert ended == {0: None, 1: None}
        assert content(path) == text
        assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("failing", ["prepare", "write 0", "write 1", "move away", "move in"])
def test_what_fails_in_one_process_fails_in_both_and_leaves_the_one_before(tmp_path, monkeypatch, failing):
    path, renamed, rename = tmp_path / "last.ckpt", [], os.rename
    publish(path, writing("first"), ONE)

    def full(*_, **__):
        raise OSError(28, "no space left")

    def counted(source, target):
        renamed.append(target)
        # The first moves the old one away, the second the new one in.
        full() if len(renamed) == 1 + (failing == "move in") else rename(source, target)

    if failing.startswith("move"):
        monkeypatch.setattr(os, "rename", counted)
    if failing == "prepare":
        monkeypatch.setattr(publishing.Path, "mkdir", full)

    def save(strategy):
        rank = strategy.global_rank
        publish(path, full if failing == f"write {rank}" else shard(rank, "second"), strategy)

    ended = Group().run(save)
    monkeypatch.undo()
    for error in ended.values():
        assert isinstance(error, OSError)
        assert (error.errno, error.strerror) == (28, "no space left")
    assert ended.keys() == {0, 1}
    assert content(path) == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def killed_at(call, path):
    """Save ``path`` in this process, and end without a word at the n-th call that changes the disk."""
    left = [call]

    def counted(function):
        def run(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return function(*arguments, **options)

        return run

    for owner, names in {os: ("rename", "mkdir", "unlink", "rmdir", "open"), shutil: ("rmtree",)}.items():
        for name in names:
            setattr(owner, name, counted(getattr(owner, name)))
    publish(path, writing("second"), ONE)
    os._exit(0)


def test_killed_at_any_moment_a_whole_checkpoint_is_there(tmp_path):
    path, codes, found = tmp_path / "last.ckpt", [], []
    for call in range(40):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        publish(path, writing("first"), ONE)
        child = multiprocessing.get_context("fork").Process(target=killed_at, args=(call, path))
        child.start()
        child.join(30)
        codes.append(child.exitcode)
        missing = not path.exists()
        assert is_there(path)
        recover(path)
        found.append((missing, content(path)))
        publish(path, writing("third"), ONE)
        assert content(path) == "third"
        assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]
        if child.exitcode == 0:
            break
    assert codes[:-1] == [9] * (len(codes) - 1)
    assert codes[-1] == 0
    assert {(False, "first"), (True, "first"), (False, "second")} == set(found), "killed before, between and after"


def test_a_recovery_in_between_does_not_stop_the_run_that_saves(tmp_path, monkeypatch):
    path, rename, seen = tmp_path / "last.ckpt", os.rename, []
    publish(path, writing("first"), ONE)

    def recovered(source, target):
        rename(source, target)
        if not seen and not path.exists():
            seen.append(target)
            recover(path)

    monkeypatch.setattr(os, "rename", recovered)
    publish(path, writing("second"), ONE)
    assert seen
    assert content(path) == "second"


def test_nothing_to_recover(tmp_path):
    assert not is_there(tmp_path / "last.ckpt")
    recover(tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())
