"""The program itself, in a process of its own, does what the cases of the other files try within this one."""

import os
import signal
import subprocess
import sys

import pytest
from malformed_cases import CHECKPOINT, FIT, Case, one_message, snapshot, write

pytestmark = pytest.mark.slow
LIMIT_SECONDS = 300
"""A process that waits for something is stopped; how long it computes is the machine's affair."""
CASES = {
    "command": Case(("fti",), ()),
    "config": Case((*FIT, "--config", "bad.yaml"), (), {"bad.yaml": "trainer:\n\tmax_steps: 4\n"}),
    "option": Case((*FIT, "--trainer.max_step=3"), ()),
    "corpus": Case((*FIT, "--data.data_dir=nowhere"), ()),
    "source": Case(
        ("prepare", "--source=JsonLines", "--source.paths=a.jsonl", "--tokenizer=Bytes", "--output_dir=out"), (),
        {"a.jsonl": '{"text": "x"}\n{"text": \n'},
    ),
    "manifest": Case(("verify", "."), (), {"manifest.json": "{"}),
    "checkpoint": Case(("export", "--ckpt_path=bad.ckpt", "--output_dir=out"), (), {"bad.ckpt": b"no weights"}),
    "export": Case(("export", "--ckpt_path", CHECKPOINT, "--output_dir=."), (), {"a": "x"}),
    "comparison": Case(("report", "."), (), {"experiment.json": "{"}),
    "information": Case(("mutual-information", "nowhere"), ()),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_one_message_status_2_and_nothing_changed(case, here, world):
    arguments = write(case, here, world)
    before = snapshot(here, world)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tst_lightning.cli", *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        _, shown = process.communicate(timeout=LIMIT_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 2, shown
    one_message("\n".join(line for line in shown.splitlines() if not line.startswith("Seed set to")))
    assert snapshot(here, world) == before
