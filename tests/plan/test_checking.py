"""tst_lightning.plan.checking: what `fit` would refuse is a problem of the plan, in the same words."""

import copy
import re
import shutil

import pytest
from runs import tiny_data, tiny_module, tiny_trainer
from test_plan_run import MODEL, configured, parallel

from tst_lightning.errors import UserError
from tst_lightning.plan.checking import check
from tst_lightning.plan.model_size import module_of
from tst_lightning.plan.prepared import Prepared, prepared
from tst_lightning.plan.run import fit_plan
from tst_lightning.run.resumable import require_own_folder


def checked(data_dir, memory_bytes=10, callbacks=(), model=None, trainer=None, module=None, ckpt_path=None, **data):
    config = configured(trainer, callbacks, data_dir=str(data_dir), num_workers=0, validation_windows=8, **data)
    config = copy.deepcopy(config) | {"ckpt_path": ckpt_path}
    config["model"]["config"]["init_args"] |= model or {}
    config["model"] |= module or {}
    plan = fit_plan(config)
    return check(plan, prepared(plan), module_of(config), memory_bytes, 20)


def test_nothing_keeps_this_from_running(prepared_dir, tmp_path):
    found = checked(prepared_dir, trainer={"default_root_dir": str(tmp_path)})
    assert (found.passed, found.problems, found.unchecked) == (True, (), ())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"trainer": {"max_steps": 100_000}}, "100,000 steps need .* or prepare more text"),
        ({"memory_bytes": 21}, "the memory of a device is"),
        ({"callbacks": [("StepCheckpoint", {"every_n_steps": 0})]}, "every_n_steps is 0"),
        ({"callbacks": [("Throughput", {"every_n_seconds": -1})]}, "every_n_seconds=-1"),
        ({"model": {"vocab_size": 100}}, "the data's vocabulary has"),
        ({"model": {"max_position_embeddings": 8}}, "sequence_length=16 is longer than the model's 8"),
        ({"streams": 3}, "streams"),
    ],
)
def test_each_of_these_does(changes, problem, prepared_dir, tmp_path):
    changes = {"trainer": {}} | changes
    changes["trainer"] = {"default_root_dir": str(tmp_path)} | changes["trainer"]
    found = checked(prepared_dir, **changes)
    assert not found.passed
    assert len(found.problems) == 1
    assert re.search(problem, found.problems[0])


def test_text_that_is_not_there(prepared_dir, tmp_path):
    trainer = {"default_root_dir": str(tmp_path / "run")}
    assert "is not prepared yet: run `tst-lightning prepare`" in checked(tmp_path / "none", trainer=trainer).problems[0]
    other = tmp_path / "copy"
    shutil.copytree(prepared_dir, other)
    next((other / "train").glob("*.bin")).unlink()
    assert "shards" in checked(other, trainer=trainer).problems[0]


def test_a_folder_of_another_run(prepared_dir, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    found = checked(prepared_dir, trainer={"default_root_dir": str(tmp_path)})
    assert "holds the checkpoints of another run" in found.problems[0]


def test_a_checkpoint_that_a_killed_run_was_replacing(prepared_dir, tmp_path):
    """fit puts it back, and refuses the folder: so does the plan, which leaves it as it is."""
    replaced = tmp_path / "checkpoints" / ".last.ckpt.replaced"
    replaced.parent.mkdir()
    replaced.touch()
    with pytest.raises(UserError) as of_fit:
        require_own_folder(tmp_path, None)
    found = checked(prepared_dir, trainer={"default_root_dir": str(tmp_path)})
    assert found.problems == (str(of_fit.value),)
    assert "holds the checkpoints of another run" in found.problems[0]
    assert replaced.exists()
    require_own_folder(tmp_path, str(tmp_path / "checkpoints" / "last.ckpt"))


def test_options_of_the_module_that_do_not_go_together(prepared_dir, tmp_path):
    folder = {"default_root_dir": str(tmp_path)}
    found = checked(prepared_dir, trainer=folder | {"strategy": parallel(1, 1)}, module={"compilation": "lazy"})
    assert "compilation=lazy is not supported with ModelParallelStrategy" in found.problems[0]
    openai = {"class_path": "transformers.OpenAIGPTConfig", "init_args": {"vocab_size": 257, "n_positions": 64}}
    found = checked(prepared_dir, trainer=folder, module={"config": openai, "activation_checkpointing": True})
    assert "cannot recompute the layers of OpenAIGPTLMHeadModel" in found.problems[0]
    qwen = {"class_path": "transformers.LlamaConfig", "init_args": MODEL["init_args"] | {"num_attention_heads": 1}}
    trainer = folder | {"devices": 2, "strategy": parallel(1, 2)}
    assert "tensor_parallel_size" in checked(prepared_dir, trainer=trainer, module={"config": qwen}).problems[0]


@pytest.fixture(scope="module")
def checkpoint(prepared_source, tmp_path_factory):
    """Of step 4 of 4."""
    folder = tmp_path_factory.mktemp("run")
    tiny_trainer(folder, 4, save_every=4).fit(tiny_module(), tiny_data(prepared_source))
    return folder / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"seed": 5}, r"another order of the data.*seed: 0 in the checkpoint, now 5"),
        ({"trainer": {"max_steps": 3}}, "is of step 4, after trainer.max_steps=3"),
        ({"model": {"hidden_size": 32}}, "is of a model with .*hidden_size=16"),
        ({"callbacks": [("SuperpositionCallback", {"bag_size": 4, "recovery_step": 5})]}, "was trained with"),
    ],
)
def test_a_checkpoint_is_compared_as_fit_does(changes, problem, checkpoint, prepared_dir):
    changes = {"trainer": {}} | changes
    changes["trainer"] = {"default_root_dir": str(checkpoint.parents[1])} | changes["trainer"]
    found = checked(prepared_dir, ckpt_path=str(checkpoint), **changes)
    assert len(found.problems) == (problem is not None)
    assert problem is None or re.search(problem, found.problems[0])
    assert found.unchecked == ("the checkpoint: fit compares its checksums and its optimizer",)


def test_names_of_lightnings_are_not_looked_for(prepared_dir, tmp_path):
    found = checked(prepared_dir, ckpt_path="best", trainer={"default_root_dir": str(tmp_path)})
    assert found.passed
    assert found.unchecked == ("the checkpoint: 'best' is a name that fit looks up",)


def test_what_is_not_known_is_told(prepared_dir, tmp_path):
    found = checked(prepared_dir, memory_bytes=None, trainer={"default_root_dir": str(tmp_path)})
    assert found.passed
    assert found.unchecked == ("the memory: a step of this model cannot be rehearsed",)
    plan = fit_plan(configured({"default_root_dir": str(tmp_path)}))
    away = Prepared(("s3://texts",), None, 1, "'s3://texts' is in object storage, which is not asked", is_remote=True)
    found = check(plan, away, module_of(plan.config), 10, 20)
    assert found.passed
    assert found.unchecked == ("the text: 's3://texts' is in object storage, which is not asked",)
