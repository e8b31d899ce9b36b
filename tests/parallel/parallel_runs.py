"""Runs of ``tst-lightning fit`` by several processes on the CPU with gloo, and what to compare them by."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml

SWITCH, STEPS, ROWS = 3, 6, 4
LLAMA = {
    "vocab_size": 257, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "eos_token_id": 256,
    "initializer_range": 0.1,
}  # fmt: skip


def tst(**options):
    """Superposition in the first half of the run."""
    stages = {"bag_size": 4, "recovery_step": SWITCH}
    return {"class_path": "callbacks.SuperpositionCallback", "init_args": stages | options}


TST = tst()


def ddp(_processes):
    return "ddp"


def fsdp2(processes, tensor=1, distributed_checkpoint=False):
    sizes = {"data_parallel_size": processes // tensor, "tensor_parallel_size": tensor}
    return {
        "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
        "init_args": sizes | {"save_distributed_checkpoint": distributed_checkpoint},
    }


def tensor_parallel(processes):
    """Two devices a row."""
    return fsdp2(processes, tensor=2)


STRATEGIES = {"ddp": ddp, "fsdp2": fsdp2, "tensor_parallel": tensor_parallel}


@dataclass(frozen=True)
class Fit:
    """A run in ``folder``, with ``ROWS`` rows a micro-batch over all processes; it saves and validates at the switch.

    Args:
        arguments: further ones of the command.
        values: of the model its ``family`` and ``config``; ``callbacks``, by default superposition; ``saving``, options
            of the checkpoints; and of ``model``, ``data`` and ``trainer`` what is to be other than in ``fit_config``.
    """

    folder: Path
    processes: int = 1
    strategy: str = "ddp"
    arguments: tuple[str, ...] = ()
    values: dict = field(default_factory=dict)


def fit_all(prepared_dir, *fits):
    """Do runs one after the other; what each left, see ``Run``."""
    commands = []
    for fit in fits:
        fit.folder.mkdir()
        path = fit.folder / "fit.yaml"
        path.write_text(yaml.safe_dump(fit_config(fit.folder, prepared_dir, fit.processes, fit.strategy, **fit.values)))
        commands.append([fit.processes, ["--config", str(path), *fit.arguments]])
    plan = fits[0].folder / "fits.json"
    plan.write_text(json.dumps(commands))
    run_command([sys.executable, str(Path(__file__).with_name("forked_fits.py")), str(plan)])
    return [Run(fit.folder, fit.processes) for fit in fits]


def fit_config(folder, prepared_dir, processes, strategy, **values):
    """Values of ``tst-lightning fit``; ``data.batch_size`` counts rows of all processes here."""
    replicas = processes // 2 if strategy == "tensor_parallel" else processes
    callbacks = values.get("callbacks", [TST])
    saving = {
        "class_path": "callbacks.StepCheckpoint",
        "init_args": {"keep_all": True} | values.get("saving", {"every_n_steps": SWITCH}),
    }
    recording = {"class_path": "recorder.Recorder", "init_args": {"folder": str(folder / "recorded")}}
    config = {"class_path": f"transformers.{values.get('family', 'Llama')}Config"}
    config["init_args"] = LLAMA | values.get("config", {})
    data = {"data_dir": str(prepared_dir), "sequence_length": 16, "batch_size": ROWS, "num_workers": 0}
    data |= {"rows_per_group": 4, "validation_windows": 10} | values.get("data", {})
    data["batch_size"] //= replicas
    trainer = {"accelerator": "cpu", "devices": processes, "max_steps": STEPS, "max_epochs": -1}
    trainer |= {"strategy": STRATEGIES[strategy](processes) if processes > 1 else "auto", "gradient_clip_val": 1.0}
    trainer |= {"check_val_every_n_epoch": None, "val_check_interval": SWITCH, "default_root_dir": str(folder)}
    trainer |= {"callbacks": [saving, recording, *callbacks], "logger": False, "num_sanity_val_steps": 0}
    trainer |= {"enable_progress_bar": False, "enable_model_summary": False}
    # With the usual eps, AdamW makes steps of what is only rounding where a gradient is almost zero.
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003, "betas": [0.9, 0.95], "eps": 1e-5}}
    return {
        "model": {"config": config, "optimizer": optimizer} | values.get("model", {}),
        "data": data,
        "trainer": trainer | values.get("trainer", {}),
    }


def run_command(command, timeout_seconds=300, succeeds=True):
    """Run a command and whatever processes it starts; none of them outlives this."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MASTER_", "SLURM_"))}
    paths = [str(Path(__file__).parent), environment.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)
    try:
        output, errors = child.communicate(timeout=timeout_seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    assert (child.returncode == 0) == succeeds, (output + errors)[-4000:]
    return output + errors


class Run:
    """What a run left: by step and by process."""

    def __init__(self, folder, processes):
        self.folder = folder
        names = [folder / "recorded" / f"rank={rank}.json" for rank in range(processes)]
        self.ranks = [json.loads(name.read_text()) for name in names]

    def checkpoint(self, step):
        return self.folder / "checkpoints" / f"step={step}.ckpt"

    def content(self, step=STEPS):
        return torch.load(self.checkpoint(step), weights_only=True)

    def weights(self, step=STEPS):
        return self.content(step)["state_dict"]

    @property
    def losses(self):
        """Training loss of each micro-batch, in order, mean over the processes."""
        batches = zip(*(rank["batches"] for rank in self.ranks), strict=True)
        return [sum(batch["loss"] for batch in same) / len(same) for same in batches]

    @property
    def logged(self):
        """``train/loss`` after each micro-batch, which all processes agree on."""
        ranks = [[batch["logged"] for batch in rank["batches"]] for rank in self.ranks]
        assert all(rank == ranks[0] for rank in ranks)
        return ranks[0]

    @property
    def validation(self):
        """Validation loss by step, which all processes agree on."""
        assert all(rank["validation"] == self.ranks[0]["validation"] for rank in self.ranks)
        return self.ranks[0]["validation"]

    def read(self, what="spans"):
        """Of each micro-batch, in order, what each process read: its ``spans`` or ``rows``."""
        batches = list(zip(*(rank["batches"] for rank in self.ranks), strict=True))
        for same in batches:
            assert len({(batch["step"], batch["micro"]) for batch in same}) == 1
        return [[[*map(as_key, batch[what])] for batch in same] for same in batches]


def as_key(item):
    return tuple(item) if isinstance(item, list) else item


def moments(content):
    """The optimizer's state, in the order of its groups; their numbers may be others."""
    optimizer = content["optimizer_states"][0]
    states = [optimizer["state"][number] for group in optimizer["param_groups"] for number in group["params"]]
    return [state[name] for state in states for name in sorted(state) if name != "step"]


def assert_reads_what_one_does(run, one, rows_by=1):
    """No token is read twice, and all together are those of one process, micro-batch by micro-batch.

    Args:
        rows_by: processes that compute a row together, neighbours; these read the same.
    """
    for what in ("spans", "rows"):
        for batch, (alone,) in zip(run.read(what), one.read(what), strict=True):
            groups = [batch[start : start + rows_by] for start in range(0, len(batch), rows_by)]
            assert all(rank == group[0] for group in groups for rank in group)
            united = sorted(item for group in groups for item in group[0])
            assert united == sorted(alone)
    assert_no_token_twice(span for batch in run.read() for rank in batch[::rows_by] for span in rank)


def assert_replicas_are_alike(run):
    """Bit for bit, and there are some under DDP and tensor parallelism."""
    for rank in run.ranks:
        same = [other["replicated"] for other in run.ranks if other["shard"] == rank["shard"]]
        assert all(other == rank["replicated"] for other in same)
        assert rank["replicated"] or len(same) == 1


def assert_no_token_twice(spans):
    """No two of ``(shard, first token, tokens)`` overlap."""
    ordered = sorted(spans)
    assert len(ordered) > 1
    for (shard, first, tokens), (next_shard, following, _) in itertools.pairwise(ordered):
        assert shard != next_shard or first + tokens <= following


def assert_trains_what_one_does(run, one):
    """Losses, weights and moments of each step are those of one process but for rounding; what is logged, too.

    Moments because AdamW does not notice gradients that are all too large by the same factor.
    """
    assert_replicas_are_alike(run)
    torch.testing.assert_close(run.losses, one.losses, rtol=2e-5, atol=0)
    torch.testing.assert_close(run.logged, one.logged, rtol=2e-5, atol=0)
    assert run.validation.keys() == one.validation.keys() != set()
    for step, loss in one.validation.items():
        assert abs(run.validation[step] - loss) <= 2e-5 * loss
    for step in (SWITCH, STEPS):
        assert_same_weights(run, one, step)
        for value, expected in zip(moments(run.content(step)), moments(one.content(step)), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-7)


def assert_same_weights(run, one, step, atol=5e-6):
    weights, expected = run.weights(step), one.weights(step)
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=atol, msg=f"{name} at step {step}")
