"""What several processes say alike is said by one of them, and nothing is lost."""

import sys
from types import SimpleNamespace

import pytest

from tst_lightning import said_once
from tst_lightning.said_once import say_once


@pytest.fixture
def rank(monkeypatch):
    """Be a process of two, started by torchrun or, without a port, by another one."""

    def be(number, port=None, processes=2):
        values = {"WORLD_SIZE": str(processes), "RANK": str(number), "MASTER_ADDR": "127.0.0.1"}
        if port is not None:
            values |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": str(port)}
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    return be


def said(capsys):
    return capsys.readouterr().err.splitlines()


def test_one_process_says_it_as_often_as_it_is_told(monkeypatch, capsys):
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    say_once("a", "error: ")
    say_once("a", "error: ")
    assert said(capsys) == ["error: a", "error: a"]


def test_the_first_says_it_and_what_only_one_has_to_say_is_said(rank, capsys):
    from torch.distributed import TCPStore

    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for number in (1, 0):
        rank(number, agent.port)
        say_once("a", "error: ")
    assert said(capsys) == ["error: rank 1: a"]
    say_once("b", "error: ")
    rank(1, agent.port)
    say_once("c", "error: ")
    assert said(capsys) == ["error: b", "error: rank 1: c"]


def test_processes_that_torchrun_starts_again_say_it_again(rank, capsys, monkeypatch):
    """Its store outlives them."""
    from torch.distributed import TCPStore

    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for attempt in (0, 1):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
        for number in (0, 1):
            rank(number, agent.port)
            say_once("a", "error: ")
        assert said(capsys) == ["error: a"]


def test_without_a_store_each_says_it(rank, capsys, monkeypatch):
    monkeypatch.setattr(said_once, "_STORE_SECONDS", 0.2)
    for number, port in ((0, None), (1, None), (1, 1)):  # at which nobody answers
        rank(number, port)
        say_once("a")
    assert said(capsys) == ["a", "rank 1: a", "rank 1: a"]


def test_who_hosts_the_store_waits_for_the_others_to_ask(capsys, monkeypatch):
    from torch.distributed import HashStore

    store, waits = HashStore(), []
    group = SimpleNamespace(_get_default_store=lambda: store, get_rank=lambda: 0)
    group.is_initialized, group.get_world_size = (lambda: True), (lambda: 2)
    monkeypatch.setitem(sys.modules, "torch.distributed.distributed_c10d", group)

    def other_asks(seconds):
        waits.append(seconds)
        group.get_rank = lambda: 1
        say_once("a")

    monkeypatch.setattr(said_once.time, "sleep", other_asks)
    say_once("a")
    assert len(waits) == 1
    assert said(capsys) == ["a"]
