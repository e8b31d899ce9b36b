"""``tst-lightning`` commands as processes to be killed, and the small run that the fault tests start."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

STEPS, SWITCH, SAVE_EVERY, EVALUATE_EVERY = 40, 20, 3, 15
SECONDS = 240


class Programs:
    """Starts commands through ``program_server.py``, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "output.txt"
        self.groups: list[int] = []
        self._running = False
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with (folder / "server.txt").open("w") as errors:
            self._server = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("program_server.py"))], text=True, env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip

    def start(self, *arguments: str, pause=None, environment=None) -> int:
        """The process id, which is its group's too."""
        self._end_last()  # of a test that failed
        order = {"arguments": [str(argument) for argument in arguments], "output": str(self.output)}
        order |= {"pause": pause, "environment": environment or {}}
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        self.groups.append(int(self._server.stdout.readline()))
        self._running = True
        return self.groups[-1]

    def wait(self) -> int:
        """The exit status of what was started last."""
        self._running = False
        return int(self._server.stdout.readline())

    def run(self, *arguments: str, **options) -> int:
        self.start(*arguments, **options)
        return self.wait()

    def _end_last(self) -> None:
        if self._running:
            with contextlib.suppress(ProcessLookupError):
                kill(self.groups[-1])
            self.wait()

    def close(self) -> None:
        self._end_last()
        self._server.stdin.close()
        self._server.wait(30)

    def survivors(self) -> list[int]:
        """Processes of the groups that are left, after the time that a reading worker needs to miss its parent."""
        end = time.monotonic() + 20
        while (left := [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._ours(pid)]) and (
            time.monotonic() < end
        ):
            time.sleep(0.2)
        return left

    def _ours(self, pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return False
        return int(state[2]) in self.groups and state[0] != "Z"


def prepare_arguments(folder: Path) -> list[str]:
    """A corpus of 60 documents in several parts; the arguments of its preparation into ``folder/prepared``."""
    choose = random.Random(0)
    words = ["".join(choose.choices("abcdefghijklmnopqrstuvwxyz", k=choose.randint(2, 9))) for _ in range(300)]
    lines = []
    for _ in range(60):
        sentences = (" ".join(choose.choices(words, k=12)).capitalize() + "." for _ in range(30))
        lines.append(json.dumps({"text": " ".join(sentences)}) + "\n")
    folder.mkdir(exist_ok=True)
    (folder / "text.jsonl").write_text("".join(lines))
    return [
        "prepare", "--source", "JsonLines", "--source.paths", f"{folder}/text.jsonl", "--tokenizer", "Bytes",
        "--output_dir", f"{folder}/prepared", "--validation_fraction", "0.2", "--part_bytes", "20000",
        "--evaluation_items", "10", "--workers", "1",
    ]  # fmt: skip


def write_config(path: Path, prepared: Path, steps: int = STEPS, switch: int = SWITCH, evaluate: bool = True) -> Path:
    """A run of some seconds that does everything a run can be killed in."""
    sizes = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128}
    callbacks = {
        "SuperpositionCallback": {"bag_size": 4, "recovery_step": switch},
        "StepCheckpoint": {"every_n_steps": SAVE_EVERY},
        "DownstreamEvaluation": {"tasks": ["heldout"], "every_n_steps": EVALUATE_EVERY, "limit": 4},
        "Throughput": {"every_n_seconds": 0.0},
    }
    if not evaluate:
        del callbacks["DownstreamEvaluation"]
    trainer = {
        "accelerator": "cpu", "devices": 1, "max_steps": steps, "max_epochs": -1, "gradient_clip_val": 1.0,
        "check_val_every_n_epoch": None, "val_check_interval": 7, "num_sanity_val_steps": 0,
        "accumulate_grad_batches": 2, "enable_progress_bar": False, "enable_model_summary": False,
        "callbacks": [{"class_path": f"callbacks.{name}", "init_args": args} for name, args in callbacks.items()],
    }  # fmt: skip
    data = {"data_dir": str(prepared), "sequence_length": 32, "batch_size": 8, "num_workers": 1}
    values = {"model": {"config": {"class_path": "transformers.LlamaConfig", "init_args": sizes}}}
    path.write_text(yaml.safe_dump(values | {"data": data | {"validation_windows": 16}, "trainer": trainer}))
    return path


def fit_arguments(config: Path, run: Path) -> list[str]:
    """Of a run that starts, or goes on if it has a checkpoint."""
    resume = ["--ckpt_path", "last"] if last(run).exists() else []
    return ["fit", "--config", str(config), "--trainer.default_root_dir", str(run), *resume]


def last(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(last(run), weights_only=True)["state_dict"]


def same(before: dict[str, torch.Tensor], now: dict[str, torch.Tensor]) -> bool:
    return before.keys() == now.keys() and all(torch.equal(tensor, now[name]) for name, tensor in before.items())


def kill(pid: int) -> None:
    """Only the main process, as the system does when memory runs out: its workers have to notice."""
    os.kill(pid, signal.SIGKILL)


def wait_for_step(run: Path, step: int, pid: int) -> int:
    """Wait until the run has done so many steps; how many it has done."""
    return wait_for(lambda: ((done := steps_done(run)) >= step) and done, pid)


def wait_for(condition, pid: int):
    end = time.monotonic() + SECONDS
    while not (result := condition()):
        assert time.monotonic() < end, "waited too long"
        assert Path(f"/proc/{pid}").exists(), "the process ended before it could be killed"
        time.sleep(0.002)
    return result


def steps_done(run: Path) -> int:
    try:
        return json.loads((run / "progress.json").read_text())["step"]
    except OSError:
        return 0
