"""tst_lightning.plan.flags: what is proposed is taken by the project's own parser, and trains."""

import shlex
from pathlib import Path

import pytest
from runs import tiny_llama

from tst_lightning import cli
from tst_lightning.comparison.design.configured import SUPERPOSITION, callback_options
from tst_lightning.plan.flags import batch_flags, excluding, superposition_flags
from tst_lightning.plan.formats import WIDTH, pasted
from tst_lightning.run.lightning_cli import parse_fit

CONFIGS = Path(__file__).parents[2] / "configs"
BASE = ["model/llama_250k", "data/demo", "trainer/cpu"]


def words(names):
    return [word for name in names for word in ("--config", str(CONFIGS / f"{name}.yaml"))]


@pytest.mark.parametrize("method", [[], ["method/tst"], ["method/multi_stage"]])
def test_the_parser_takes_them(method):
    arguments = words(BASE + method)
    flags = superposition_flags(parse_fit(arguments), 7, 0.2)
    again = parse_fit([*arguments, *shlex.split(" ".join(flags))])
    options = callback_options(again, SUPERPOSITION)
    given = {name: options[name] for name in ("bag_size", "step_ratio", "bag_sizes", "step_shares", "recovery_step")}
    assert given == {"bag_size": 7, "step_ratio": 0.2, "bag_sizes": None, "step_shares": None, "recovery_step": None}
    assert superposition_flags(again, 7, 0.2) == ()


def configured(**options):
    callback = {
        "class_path": "callbacks.SuperpositionCallback",
        "init_args": {"bag_size": 4, "step_ratio": 0.3} | options,
    }
    return {"trainer": {"callbacks": [{"class_path": "callbacks.Throughput"}, callback]}}


def test_another_method_has_to_go_first():
    assert superposition_flags(configured(), 4, 0.3) == ()
    assert superposition_flags(configured(weights="power_law"), 6, 0.3) is not None
    for options in ({"superpose_inputs": False}, {"tokens_per_step": "constant"}, {"weights": [0.5, 0.2, 0.2, 0.1]}):
        assert superposition_flags(configured(**options), 6, 0.3) is None
    behind = configured()
    behind["trainer"]["callbacks"].reverse()
    assert superposition_flags(behind, 6, 0.3) is None


@pytest.mark.parametrize("name", ["LengthCurriculum", "NgramTargets"])
@pytest.mark.parametrize("others", [[], configured()["trainer"]["callbacks"]])
def test_callbacks_that_superposition_does_not_go_with(name, others):
    config = {"trainer": {"callbacks": [{"class_path": f"callbacks.{name}"}, *others]}}
    assert superposition_flags(config, 4, 0.3) is None
    assert excluding(config) == [name]
    assert excluding(configured()) == []


@pytest.mark.parametrize(("interval", "flag"), [(500, " 2000"), (3, " 4"), (0.25, None), (None, None)])
def test_validation_stays_at_its_steps(interval, flag):
    trainer = {"accumulate_grad_batches": 2, "val_check_interval": interval * 2 if flag else interval}
    config = {"data": {"batch_size": 8}, "trainer": trainer}
    flags = batch_flags(config, 4, 4)
    assert flags[:2] == ("--data.batch_size 4", "--trainer.accumulate_grad_batches 4")
    assert flags[2:] == (() if flag is None else (f"--trainer.val_check_interval {interval * 4}",))


@pytest.mark.parametrize(
    ("limit", "given", "added"),
    [(10, None, True), (0.5, None, True), (10, 16, False), (1.0, None, False), (None, None, False), (0, None, False)],
)
def test_validation_stays_on_its_windows(limit, given, added):
    """A limit counts batches, whose size is by default that of training."""
    config = {
        "data": {"batch_size": 8, "validation_batch_size": given},
        "trainer": {"accumulate_grad_batches": 2, "limit_val_batches": limit},
    }
    flags = batch_flags(config, 4, 4)
    assert flags[2:] == (("--data.validation_batch_size 8",) if added else ())


def test_pasted_lines_are_one_command():
    flags = [f"--trainer.callbacks.option_{number}={number}" for number in range(9)]
    lines = pasted(flags, "    ")
    assert max(map(len, lines)) <= WIDTH
    assert shlex.split("\n".join(lines).replace("\\\n", " ")) == flags


@pytest.mark.slow
def test_a_run_with_them_trains_with_superposition(prepared_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = words(BASE)
    arguments += [
        f"--model.config.init_args.{name}={getattr(tiny_llama(), name)}" for name in ("vocab_size", "hidden_size")
    ]
    arguments += ["--data.data_dir", str(prepared_dir), "--data.sequence_length=16", "--data.batch_size=4",
                  "--trainer.max_steps=3", "--trainer.precision=32-true", "--trainer.default_root_dir=run"]  # fmt: skip
    config = parse_fit(arguments)
    flags = (*superposition_flags(config, 3, 0.4), *batch_flags(config, 2, 2))
    assert cli.main(["fit", *arguments, *shlex.split(" ".join(flags))]) == 0
    resolved = Path("run/config.yaml").read_text()
    assert "bag_size: 3" in resolved
    assert "accumulate_grad_batches: 2" in resolved
