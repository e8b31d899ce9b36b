"""tst_lightning.plan.checking: what `fit` would refuse is a problem of the plan, in the same words."""

import copy
import re
import shutil

import pytest
from test_plan_run import configured

from tst_lightning.plan.checking import check
from tst_lightning.plan.model_size import module_of
from tst_lightning.plan.prepared import Prepared, prepared
from tst_lightning.plan.run import fit_plan


def checked(data_dir, memory_bytes=10, callbacks=(), model=None, trainer=None, **data):
    config = configured(trainer, callbacks, data_dir=str(data_dir), num_workers=0, validation_windows=8, **data)
    config = copy.deepcopy(config)
    config["model"]["config"]["init_args"] |= model or {}
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


def test_what_is_not_known_is_told(prepared_dir, tmp_path):
    found = checked(prepared_dir, memory_bytes=None, trainer={"default_root_dir": str(tmp_path)})
    assert found.passed
    assert found.unchecked == ("the memory: a step of this model cannot be rehearsed",)
    plan = fit_plan(configured({"default_root_dir": str(tmp_path)}))
    away = Prepared(("s3://texts",), None, 1, "'s3://texts' is in object storage, which is not asked", is_remote=True)
    found = check(plan, away, module_of(plan.config), 10, 20)
    assert found.passed
    assert found.unchecked == ("the text: 's3://texts' is in object storage, which is not asked",)
