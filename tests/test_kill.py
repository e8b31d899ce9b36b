"""SIGKILL at any moment, resume, and end with the bits of the uninterrupted run."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

STEPS, SWITCH = 60, 30


def write_config(folder, prepared_dir):
    """A run that takes some seconds, saving every third step."""
    sizes = {"vocab_size": 257, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "eos_token_id": 256}
    values = {
        "model": {"config": {"class_path": "transformers.LlamaConfig", "init_args": sizes}},
        "data": {"data_dir": str(prepared_dir), "sequence_length": 32, "batch_size": 8, "num_workers": 1},
        "trainer": {
            "accelerator": "cpu", "devices": 1, "max_steps": STEPS, "max_epochs": -1, "gradient_clip_val": 1.0,
            "check_val_every_n_epoch": None, "val_check_interval": 7, "num_sanity_val_steps": 0,
            "enable_progress_bar": False, "enable_model_summary": False, "accumulate_grad_batches": 2,
            "callbacks": [
                {"class_path": "callbacks.StepCheckpoint", "init_args": {"every_n_steps": 3}},
                {"class_path": "callbacks.Throughput", "init_args": {"every_n_seconds": 0.01}},
                {"class_path": "callbacks.SuperpositionCallback",
                 "init_args": {"bag_size": 4, "recovery_step": SWITCH}},
            ],
        },
    }  # fmt: skip
    path = folder / "fit.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start(config, run, *arguments):
    command = [sys.executable, "-m", "tst_lightning.cli", "fit", "--config", str(config)]
    command += ["--trainer.default_root_dir", str(run), *arguments]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def final_weights(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def config(prepared_source, tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("kill"), prepared_source)


@pytest.fixture(scope="module")
def uninterrupted(config, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    child = start(config, run)
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors.decode()
    return final_weights(run)


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [8, SWITCH, 47])
def test_a_killed_run_ends_with_the_same_weights(kill_at, config, uninterrupted, tmp_path):
    run = tmp_path / "run"
    child = start(config, run)
    while child.poll() is None:
        try:
            step = json.loads((run / "progress.json").read_text())["step"]
        except OSError:
            step = 0
        if step >= kill_at:
            os.killpg(child.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    resumed = start(config, run, "--ckpt_path", "last")
    _, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors.decode()
    assert all(torch.equal(tensor, uninterrupted[name]) for name, tensor in final_weights(run).items())
