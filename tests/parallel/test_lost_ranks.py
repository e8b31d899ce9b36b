"""One of two processes is killed, or makes a mistake: what is said, that all end, and how the run goes on."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest
import torch
import yaml
from forked_fits import free_port
from parallel_runs import STEPS, SWITCH, TST, fit_config

pytestmark = pytest.mark.slow

LIMIT_SECONDS = 240
MARK = "TST_TEST_MARK"
"""Environment variable of all processes of a run: torchrun's are of sessions of their own."""


def command(launcher, *arguments):
    fit = ["-m", "tst_lightning.cli", "fit", *arguments]
    if launcher == "lightning":
        return [sys.executable, *fit]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    return [sys.executable, *torchrun, *fit]


def written(folder, prepared_dir, callback, **values):
    folder.mkdir(exist_ok=True)
    saving = {"every_n_steps": 1, "keep_all": False}
    values = {"callbacks": [TST, callback], "saving": saving} | values
    path = folder / "fit.yaml"
    path.write_text(yaml.safe_dump(fit_config(folder, prepared_dir, 2, "ddp", **values)))
    return path


def ended(order):
    """Status and output; ten seconds after it no process may be left, and Lightning's observer takes five of them."""
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MASTER_", "SLURM_"))}
    mark = uuid.uuid4().hex
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, MARK: mark}
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(order, env=environment, stdout=log, stderr=log)
        try:
            status = child.wait(LIMIT_SECONDS)
            deadline = time.monotonic() + 10
            while processes_of(mark):
                assert time.monotonic() < deadline, "processes are left"
                time.sleep(0.1)
        finally:
            for process in processes_of(mark):
                os.kill(process, signal.SIGKILL)
            child.wait()
            log.seek(0)
            said = log.read()
    return status, said


def processes_of(mark):
    """Those with that mark which run or wait."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in Path(f"/proc/{entry}/environ").read_bytes():
                found.append(int(entry))
    return found


def last(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_named_and_the_run_goes_on(prepared_dir, tmp_path, launcher, rank):
    killing = {"rank": rank, "step": SWITCH + 1, "marker": str(tmp_path / "killed")}
    config = written(tmp_path, prepared_dir, {"class_path": "ending_callbacks.Killed", "init_args": killing})
    status, said = ended(command(launcher, "--config", str(config)))
    assert status != 0, said
    assert launcher == "torchrun" or "Traceback (most recent call last)" not in said  # torchrun prints one of its own
    how = [line for line in said.splitlines() if "the same command with --ckpt_path last goes on from there" in line]
    assert len(how) == 1, said
    assert "SIGKILL: by hand, by a batch system, or by the kernel because memory ran out" in how[0]
    if launcher == "torchrun":
        assert re.search(rf"rank\s*: {rank} .*\n\s*exitcode\s*: -9", said), said
        assert "torchrun names its rank and status below" in how[0]
    elif rank == 1:
        assert re.match(r"the process of rank 1 \(id \d+\) was ended by SIGKILL", how[0]), said
    else:
        assert status == -signal.SIGKILL
        assert how[0].startswith("the process that has started this one has ended")
    assert last(tmp_path)["global_step"] == SWITCH + 1
    status, said = ended(command(launcher, "--config", str(config), "--ckpt_path", "last"))
    assert status == 0, said
    assert last(tmp_path)["global_step"] == STEPS


@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
@pytest.mark.parametrize("ranks", [[0, 1], [0], [1]])
def test_a_mistake_is_said_once_whoever_makes_it(prepared_dir, tmp_path, launcher, ranks):
    config = written(tmp_path, prepared_dir, {"class_path": "ending_callbacks.Refuses", "init_args": {"ranks": ranks}})
    status, said = ended(command(launcher, "--config", str(config)))
    assert status != 0
    errors = re.findall(r"^error: .*", said, re.MULTILINE)
    assert len(errors) == 1, said
    assert errors[0] in ([] if ranks == [1] else ["error: the cup is empty: fill it"]) + (
        ["error: rank 1: the cup is empty: fill it"] if 1 in ranks else []
    )
    assert launcher == "torchrun" or "Traceback (most recent call last)" not in said


def test_a_config_that_does_not_parse_is_said_once(prepared_dir, tmp_path):
    """Before the processes have met."""
    config = written(tmp_path, prepared_dir, TST)
    status, said = ended(command("torchrun", "--config", str(config), "--trainer.max_step", "3"))
    assert status != 0
    assert len(re.findall("did you mean", said)) == 1, said
