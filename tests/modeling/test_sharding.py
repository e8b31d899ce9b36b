"""Fully sharded training by two processes on the CPU, against one process with the whole model."""

import subprocess
import sys

import pytest
import torch
import yaml
from runs import tiny_data, tiny_module, tiny_trainer

from tst_lightning.errors import UserError

SWITCH, STEPS = 3, 6
SHARDED = {
    "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
    "init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": False},
}


def fit(folder, prepared_dir, devices, superposition, *arguments, **model):
    """A run of ``tst-lightning fit`` with 4 rows a step, validating and saving every third step.

    That is also right before the switch, when validation has left weights gathered.
    """
    sizes = {"vocab_size": 257, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "eos_token_id": 256}
    callbacks = [{"class_path": "callbacks.StepCheckpoint", "init_args": {"every_n_steps": 3, "keep_all": True}}]
    callbacks += [{"class_path": "callbacks.SuperpositionCallback", "init_args": superposition}]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0, "logger": False}
    values = {
        "model": {"config": {"class_path": "transformers.LlamaConfig", "init_args": sizes}, **model},
        "data": {"data_dir": str(prepared_dir), "sequence_length": 16, "batch_size": 4 // devices, "num_workers": 0,
                 "rows_per_group": 4, "validation_windows": 8},
        "trainer": {"accelerator": "cpu", "devices": devices, "strategy": SHARDED if devices > 1 else "auto",
                    "max_steps": STEPS, "max_epochs": -1, "gradient_clip_val": 1.0, "check_val_every_n_epoch": None,
                    "val_check_interval": 3, "default_root_dir": str(folder), "callbacks": callbacks, **quiet},
    }  # fmt: skip
    folder.mkdir()
    (folder / "fit.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "tst_lightning.cli", "fit", "--config", str(folder / "fit.yaml"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    return {
        step: torch.load(checkpoint(folder, step), weights_only=True)
        for step in (SWITCH, STEPS)
        if checkpoint(folder, step).exists()
    }


def checkpoint(folder, step):
    return folder / "checkpoints" / f"step={step}.ckpt"


def moments(content):
    """First and second moments, in the order of the optimizer's groups; their numbers may be others."""
    optimizer = content["optimizer_states"][0]
    numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
    return [optimizer["state"][number][name] for number in numbers for name in ("exp_avg", "exp_avg_sq")]


@pytest.mark.slow
def test_two_sharded_processes_train_what_one_does(prepared_dir, tmp_path):
    """The same weights and optimizer state but for rounding; resumed at the switch, the same bits again."""
    superposition = {"bag_size": 4, "recovery_step": SWITCH, "on_switch": "restart"}
    superposition["reinitialize"] = "embedding_and_head"
    one = fit(tmp_path / "one", prepared_dir, 1, superposition)
    two = fit(tmp_path / "two", prepared_dir, 2, superposition)
    at_switch = f"--ckpt_path={checkpoint(tmp_path / 'two', SWITCH)}"
    resumed = fit(tmp_path / "resumed", prepared_dir, 2, superposition, at_switch)
    for step in (SWITCH, STEPS):
        assert one[step]["state_dict"].keys() == two[step]["state_dict"].keys()
        for name, value in one[step]["state_dict"].items():
            torch.testing.assert_close(two[step]["state_dict"][name], value, rtol=0, atol=2e-5, msg=name)
        for value, sharded in zip(moments(one[step]), moments(two[step]), strict=True):
            torch.testing.assert_close(sharded, value, rtol=1e-3, atol=1e-7)
    for name, value in two[STEPS]["state_dict"].items():
        assert torch.equal(resumed[STEPS]["state_dict"][name], value), name


@pytest.mark.slow
def test_heads_of_multi_token_prediction_are_sharded_too(prepared_dir, tmp_path):
    superposition = {"bag_size": 4, "recovery_step": SWITCH}
    one = fit(tmp_path / "one", prepared_dir, 1, superposition, multi_token={"heads": 2})
    two = fit(tmp_path / "two", prepared_dir, 2, superposition, multi_token={"heads": 2})
    at_switch = f"--ckpt_path={checkpoint(tmp_path / 'two', SWITCH)}"
    resumed = fit(tmp_path / "resumed", prepared_dir, 2, superposition, at_switch, multi_token={"heads": 2})
    assert one[STEPS]["state_dict"].keys() == two[STEPS]["state_dict"].keys()
    assert sum(not name.startswith("model.") for name in one[STEPS]["state_dict"]) == 2 * 3
    for name, value in one[STEPS]["state_dict"].items():
        torch.testing.assert_close(two[STEPS]["state_dict"][name], value, rtol=0, atol=2e-5, msg=name)
        assert torch.equal(resumed[STEPS]["state_dict"][name], two[STEPS]["state_dict"][name]), name


def test_fsdp_1_is_refused(prepared_dir, tmp_path):
    """Asked of the module itself, because Lightning has no such strategy without a GPU."""
    from lightning.pytorch.strategies import FSDPStrategy

    module = tiny_module()
    trainer = tiny_trainer(tmp_path, STEPS)
    trainer.datamodule = tiny_data(prepared_dir)
    trainer.strategy._lightning_module = module
    module.trainer = trainer
    trainer._accelerator_connector.strategy = FSDPStrategy()
    with pytest.raises(UserError, match=r"FSDPStrategy is not supported.*ModelParallelStrategy"):
        module.setup("fit")


def test_downstream_tasks_on_sharded_weights_are_refused():
    """Its forward passes go past the module's, which is what gathers the weights."""
    from types import SimpleNamespace

    from lightning.pytorch.strategies import ModelParallelStrategy

    from callbacks import DownstreamEvaluation

    trainer = SimpleNamespace(strategy=ModelParallelStrategy())
    with pytest.raises(UserError, match=r"weights are sharded.*tst-lightning evaluate"):
        DownstreamEvaluation(tasks=["heldout_last_word"]).setup(trainer, tiny_module(), "fit")
