"""Two processes of a run, one of which is asked to stop: both do, at the same step, and go on together."""

import os
import signal
import socket

import pytest
import torch
from programs import Programs, fit_arguments, last, same, wait_for_step, weights, write_config

STEPS, SWITCH = 24, 10


class Pair:
    """A data-parallel run of two processes on the CPU (gloo)."""

    def __init__(self, folder):
        self.ranks = []
        for rank in range(2):
            (folder / str(rank)).mkdir()
            self.ranks.append(Programs(folder / str(rank)))

    def start(self, config, run):
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        arguments = [*fit_arguments(config, run), "--trainer.devices", "2", "--trainer.strategy", "ddp"]
        places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
        return [
            rank.start(*arguments, environment=places | {"LOCAL_RANK": str(number)})
            for number, rank in enumerate(self.ranks)
        ]

    def wait(self):
        return [rank.wait() for rank in self.ranks]

    def said(self):
        return "".join(rank.output.read_text() for rank in self.ranks)


@pytest.fixture
def pair(tmp_path):
    started = Pair(tmp_path)
    yield started
    for rank in started.ranks:
        assert not rank.survivors()
        rank.close()


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [0, 1])
def test_both_stop_at_the_same_step_and_go_on(pair, prepared_source, tmp_path, signalled):
    config = write_config(tmp_path / "fit.yaml", prepared_source, STEPS, SWITCH, evaluate=False)
    run, whole = tmp_path / "run", tmp_path / "whole"
    pids = pair.start(config, run)
    wait_for_step(run, 4, pids[0])
    os.kill(pids[signalled], signal.SIGTERM)
    assert pair.wait() == [128 + 15, 0], pair.said()
    step = torch.load(last(run), weights_only=True)["global_step"]
    assert 4 <= step < STEPS
    assert f"stopped by SIGTERM after optimizer step {step}" in pair.said()
    pair.start(config, run)
    assert pair.wait() == [0, 0], pair.said()
    pair.start(config, whole)
    assert pair.wait() == [0, 0], pair.said()
    assert same(weights(whole), weights(run))
