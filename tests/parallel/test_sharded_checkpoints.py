"""Sharded checkpoints of two processes: what is in them, how they are gone on from, and what a kill leaves.

Lightning's own reading of a folder into one dict is the reference, and a run that saves one file.
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest
import torch
import yaml
from lightning.fabric.utilities.load import _load_distributed_checkpoint
from parallel_runs import STEPS, SWITCH, Fit, fit_all, fit_config, fsdp2, run_command, tst
from torch.utils._pytree import tree_flatten_with_path
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from tst_lightning.modeling.building import new_model
from tst_lightning.modeling.checkpoint import load_model, read_checkpoint
from tst_lightning.modeling.export import export
from tst_lightning.modeling.sharded_checkpoint import is_sharded_checkpoint, read_layout
from tst_lightning.run.lightning_cli import require_checkpoint

MODEL = {"multi_token": {"heads": 1}}
ANEW = tst(on_switch="restart", reinitialize="embedding_and_head")
TIED = {"tie_word_embeddings": True}


def sharded(folder, *arguments, processes=2, distributed=True, **values):
    """A sharded run of one process or two, which saves folders."""
    trainer = values.pop("trainer", {}) | {"strategy": fsdp2(processes, distributed_checkpoint=distributed)}
    values = {"model": MODEL, "callbacks": [ANEW]} | values | {"trainer": trainer}
    return Fit(folder, processes, "fsdp2", arguments, values)


def content(path):
    """Every tensor of a sharded checkpoint, weights and optimizer state, by its place."""
    assert is_sharded_checkpoint(path)
    leaves, _ = tree_flatten_with_path(_load_distributed_checkpoint(path))
    return {str(place): value for place, value in leaves if isinstance(value, torch.Tensor)}


def assert_same_bits(path, other):
    values, expected = content(path), content(other)
    assert values.keys() == expected.keys()
    assert sum("exp_avg_sq" in place for place in values) > 10
    assert all(torch.equal(value, expected[place]) for place, value in values.items())


@pytest.mark.slow
def test_a_folder_holds_the_run_and_is_gone_on_from_by_any_number(prepared_dir, tmp_path):
    """Over the switch, with embedding and head anew; exported weights are those of the run that saves one file."""
    folder = tmp_path / "folder"
    at_switch = f"--ckpt_path={folder}/checkpoints/step={SWITCH}.ckpt"
    one_file, run, resumed, alone = fit_all(
        prepared_dir,
        sharded(tmp_path / "file", distributed=False, config=TIED),
        sharded(folder, config=TIED),
        sharded(tmp_path / "resumed", at_switch, config=TIED),
        sharded(tmp_path / "alone", at_switch, processes=1, config=TIED),
    )
    for step in (SWITCH, STEPS):
        weights = _load_distributed_checkpoint(run.checkpoint(step))["state_dict"]
        assert weights.keys() == one_file.weights(step).keys()
        assert all(torch.equal(weights[name], value) for name, value in one_file.weights(step).items())
    assert_same_bits(resumed.checkpoint(STEPS), run.checkpoint(STEPS))
    for place, value in content(alone.checkpoint(STEPS)).items():
        torch.testing.assert_close(value, content(run.checkpoint(STEPS))[place], rtol=1e-3, atol=2e-5, msg=place)

    last = folder / "checkpoints" / "last.ckpt"
    assert sorted(path.name for path in last.parent.iterdir()) == [
        "last.ckpt",
        f"step={SWITCH}.ckpt",
        f"step={STEPS}.ckpt",
    ]
    export(str(last), str(tmp_path / "out"))
    export(str(one_file.folder / "checkpoints" / "last.ckpt"), str(tmp_path / "expected"))
    models = [load_model(last)[0]]
    models += [AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("out", "expected")]
    for model in models:
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        for name, value in models[-1].state_dict().items():
            assert torch.equal(model.state_dict()[name], value)


@pytest.mark.slow
def test_processes_that_share_a_mixture_start_from_the_weights_of_one(prepared_dir, tmp_path):
    """Each process draws a layer at a time; documents are looked at for leaks through the shards."""
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "pad_token_id": 3}
    still = {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}}
    isolated = {"isolate_documents": True, "packing": "best_fit"}
    (run,) = fit_all(
        prepared_dir,
        sharded(tmp_path / "run", family="Qwen3Moe", config=sizes, model=still, callbacks=[], data=isolated),
    )
    weights = _load_distributed_checkpoint(run.checkpoint(STEPS))["state_dict"]
    config = fit_config(tmp_path, prepared_dir, 2, "fsdp2", config=sizes)["model"]["config"]["init_args"]
    expected = new_model(Qwen3MoeConfig(**config), 0).state_dict()
    assert weights.keys() == {f"model.{name}" for name in expected}
    for name, value in expected.items():
        assert torch.equal(weights[f"model.{name}"], value), name


@pytest.mark.slow
def test_killed_while_it_saves_a_run_goes_on_from_the_last_whole_checkpoint(prepared_dir, tmp_path):
    saving = {"every_n_steps": 1, "keep_all": False}
    (whole,) = fit_all(prepared_dir, sharded(tmp_path / "whole", saving=saving))
    fit, run = tmp_path / "whole" / "fit.yaml", tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "tst_lightning.cli",
        "fit",
        "--config",
        str(fit),
        "--trainer.default_root_dir",
        str(run),
    ]
    environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__), "OMP_NUM_THREADS": "1"}
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen(command, env=environment, start_new_session=True, **output)
    last = run / "checkpoints" / "last.ckpt"
    aside = last.with_name(".last.ckpt.unfinished")
    try:
        deadline = time.monotonic() + 300
        while not (last.exists() and aside.exists()):
            assert child.poll() is None
            assert time.monotonic() < deadline
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    require_checkpoint(str(last))
    shutil.copytree(last, aside, dirs_exist_ok=True)
    (aside / "__7_0.distcp").write_text("of a run with more processes")
    run_command([*command, "--ckpt_path", "last"])
    assert_same_bits(last, whole.folder / "checkpoints" / "last.ckpt")
    names = [".metadata", "SHA256SUMS", "__0_0.distcp", "__1_0.distcp", "meta.pt"]
    assert sorted(path.name for path in last.iterdir()) == names
    subprocess.run(["sha256sum", "--check", "--strict", "--status", "SHA256SUMS"], cwd=last, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["__0_0.distcp", "__1_0.distcp", ".metadata"])
def test_a_flipped_byte_ends_both_processes_before_they_train(prepared_dir, tmp_path, name):
    """In the part of either, of which each compares about its own; and in the table of contents."""
    (run,) = fit_all(prepared_dir, sharded(tmp_path / "run", saving={"every_n_steps": SWITCH}))
    path = run.checkpoint(SWITCH)
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2 if name == ".metadata" else middle_of_longest(path, name)] ^= 1
    (path / name).write_bytes(content)
    said = refused(prepared_dir, sharded(tmp_path / "again"), f"--ckpt_path={path}")
    messages = re.findall(r"UserError: (the checkpoint .* is damaged \(.*)", said)
    assert len(messages) >= 2, said[-4000:]  # one that comes of another error is in its traceback too
    assert len(set(messages)) == 1
    assert name in messages[0]
    assert not (tmp_path / "again" / "checkpoints").exists()


def middle_of_longest(path, name):
    """Where a byte of the longest tensor in a file of shards lies."""
    parts = [part for part in read_layout(path).storage_data.values() if part.relative_path == name]
    longest = max(parts, key=lambda part: part.length)
    content = (path / name).read_bytes()[longest.offset :][: longest.length]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        tensor = max((archive.read(record) for record in archive.infolist()), key=len)
    return longest.offset + content.index(tensor) + len(tensor) // 2


def refused(prepared_dir, fit, *arguments):
    """What two processes say that start a run which is refused."""
    fit.folder.mkdir(exist_ok=True)
    path, fits = fit.folder / "fit.yaml", fit.folder / "fits.json"
    path.write_text(yaml.safe_dump(fit_config(fit.folder, prepared_dir, 2, "fsdp2", **fit.values)))
    fits.write_text(json.dumps([[2, ["--config", str(path), *arguments]]]))
    program = os.path.join(os.path.dirname(__file__), "forked_fits.py")
    return run_command([sys.executable, program, str(fits)], succeeds=False)


@pytest.mark.slow
def test_processes_that_share_a_model_of_files_start_from_its_weights(prepared_dir, tmp_path):
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "pad_token_id": 3}
    config = fit_config(tmp_path, prepared_dir, 2, "fsdp2", config=sizes)["model"]["config"]["init_args"]
    expected = new_model(Qwen3MoeConfig(**config), 5)
    expected.save_pretrained(tmp_path / "model")
    start = {"config": None, "pretrained": str(tmp_path / "model")}
    still = {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}}
    (run,) = fit_all(prepared_dir, sharded(tmp_path / "run", model=start | still, callbacks=[]))
    weights = _load_distributed_checkpoint(run.checkpoint(STEPS))["state_dict"]
    assert weights.keys() == {f"model.{name}" for name in expected.state_dict()}
    for name, value in expected.state_dict().items():
        assert torch.equal(weights[f"model.{name}"], value), name


FAILURES = {"meta": 2, "rename": 3, "shard": 5}
"""What fails, and in which step; the shard is the second process'."""


def failing(*whats):
    steps = {what: FAILURES[what] for what in whats}
    return {"class_path": "faulty_callbacks.FailingSave", "init_args": {"steps": steps}}


@pytest.mark.slow
def test_a_save_that_fails_in_one_process_stops_no_other(prepared_dir, tmp_path):
    """The run goes on and ends as one without failures, and each failed step lacks its checkpoint."""
    saving = {"every_n_steps": 1, "on_save_error": "continue"}
    branches = {"class_path": "callbacks.BranchPoints", "init_args": {"steps": [2, 4], "on_save_error": "continue"}}
    callbacks = [ANEW, failing(*FAILURES)]
    fits = [
        sharded(tmp_path / "whole", saving=saving),
        sharded(tmp_path / "run", saving=saving, callbacks=callbacks),
        sharded(tmp_path / "branches", saving={"every_n_steps": 100}, callbacks=[*callbacks, branches]),
    ]
    whole, run, _ = fit_all(prepared_dir, *fits)
    for folder, steps in {"whole": range(1, 7), "run": (1, 4, 6), "branches": (4,)}.items():
        names = sorted(path.name for path in (tmp_path / folder / "checkpoints").iterdir())
        assert names == ["last.ckpt", *(f"step={step}.ckpt" for step in steps)]
    assert_same_bits(run.checkpoint(STEPS), whole.checkpoint(STEPS))


@pytest.mark.slow
@pytest.mark.parametrize("what", FAILURES)
def test_a_save_that_fails_in_one_process_ends_all(prepared_dir, tmp_path, what):
    saving = {"every_n_steps": 1, "keep_all": False}
    said = refused(prepared_dir, sharded(tmp_path, saving=saving, callbacks=[ANEW, failing(what)]))
    step = FAILURES[what]
    refusal = rf"UserError: the checkpoint of step {step} cannot be written to .*last\.ckpt', saved before, is intact"
    assert len(re.findall(refusal, said)) == 2, said[-4000:]
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert [entry.name for entry in last.parent.iterdir()] == ["last.ckpt"]
    assert read_checkpoint(last)["global_step"] == step - 1


@pytest.mark.slow
def test_a_model_that_mixes_documents_is_refused_through_its_shards(prepared_dir, tmp_path):
    sizes = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
    isolated = {"isolate_documents": True, "packing": "best_fit"}
    fit = sharded(tmp_path, family="GptOss", config=sizes, callbacks=[], data=isolated, model={})
    said = refused(prepared_dir, fit)
    assert "in GptOssForCausalLM a document sees those before it" in said
