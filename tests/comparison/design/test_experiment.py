import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from plain_arms import plain_arms

from callbacks.branch_points import branch_point
from tst_lightning.comparison.design.arms import Arm, Overlay
from tst_lightning.comparison.design.experiment import Experiment, _value_text
from tst_lightning.comparison.design.scoring import EvaluationSpec
from tst_lightning.errors import UserError


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.chdir(tmp_path)
    for name in ("model", "data", "method"):
        Path(f"{name}.yaml").write_text(f"{name}: 1\n")
    return Experiment(
        name="e",
        output_dir=Path("results/e"),
        seeds=(1, 2),
        base=Overlay(["model.yaml", "data.yaml"], {"trainer.max_steps": 3500, "trainer.precision": "bf16-mixed"}),
        arms=plain_arms({"baseline": Overlay(), "tst": Overlay(["method.yaml"], {"trainer.max_steps": 7})}, "baseline"),
        baseline="baseline",
    )


def test_command_of_a_run(experiment: Experiment) -> None:
    experiment.validate()
    run = experiment.runs()[1]
    assert run.command == (
        "tst-lightning fit --config model.yaml --config data.yaml --config method.yaml"
        " --trainer.max_steps=7 --trainer.precision=bf16-mixed"
        " --seed_everything=1 --model.init_seed=1 --data.seed=1"
        " --trainer.default_root_dir=results/e/runs/tst/seed_1"
    )


def test_arms_of_a_seed_stand_together(experiment: Experiment) -> None:
    order = [(run.seed, run.arm) for run in experiment.runs()]
    assert order == [(1, "baseline"), (1, "tst"), (2, "baseline"), (2, "tst")]


@pytest.mark.parametrize(
    ("vary", "of_seed_1", "of_seed_2"),
    [("both", (1, 1, 1), (2, 2, 2)), ("initialisation", (1, 1, 1), (2, 2, 1)), ("data_order", (1, 1, 1), (1, 1, 2))],
)
def test_what_a_seed_changes(experiment: Experiment, vary: str, of_seed_1: tuple, of_seed_2: tuple) -> None:
    runs = {run.label: run.command for run in replace(experiment, vary=vary).runs()}
    for label, seeds in {"tst seed 1": of_seed_1, "tst seed 2": of_seed_2}.items():
        assert "--seed_everything={} --model.init_seed={} --data.seed={} ".format(*seeds) in runs[label]
        assert runs[label].endswith(f"runs/tst/seed_{label[-1]}")


@pytest.fixture
def branching(experiment: Experiment) -> Experiment:
    """A baseline of 60 steps from which one of 20 branches off, and one of 30."""
    overlay = {steps: Overlay([], {"trainer.max_steps": steps}) for steps in (60, 30, 20)}
    overlay[60].overrides["trainer.callbacks+"] = {"class_path": "Mine"}
    arms = [
        Arm("b-60", "b", overlay[60], steps=60),
        Arm("b-30", "b", overlay[30], steps=30, trunk="b-60", branch_step=27),
        Arm("b-20", "b", overlay[20], steps=20, trunk="b-60", branch_step=18),
    ]
    arms = {arm.name: arm for arm in arms}
    return replace(experiment, base=Overlay(["model.yaml"]), arms=arms, baseline="b", halving=None)


def test_commands_of_a_trunk_and_its_branches(branching: Experiment) -> None:
    trunk, _, branch = branching.runs()[3:]
    assert trunk.command == (
        'tst-lightning fit --config model.yaml --trainer.max_steps=60 \'--trainer.callbacks+={"class_path": "Mine"}\''
        ' \'--trainer.callbacks+={"class_path": "callbacks.BranchPoints", "init_args": {"steps": [18, 27]}}\''
        " --seed_everything=2 --model.init_seed=2 --data.seed=2 --trainer.default_root_dir=results/e/runs/b-60/seed_2"
    )
    assert branch.command == (
        "tst-lightning fit --config model.yaml --trainer.max_steps=20"
        " --seed_everything=2 --model.init_seed=2 --data.seed=2 --trainer.default_root_dir=results/e/runs/b-20/seed_2"
        " --ckpt_path=results/e/runs/b-60/seed_2/checkpoints/step=18.ckpt"
    )
    assert branch.starts_from == branch_point(trunk.folder, 18)
    assert (trunk.starts_from, trunk.steps, branch.steps) == (None, 60, 2)


@pytest.mark.parametrize(
    "value", [True, None, 3, 1e-5, 2.5, "bf16-mixed", "5", "true", "null", "a: b", "", "it's", [1, "x"], {"a": None}]
)
def test_override_values_survive_the_command_line(value: object) -> None:
    text = _value_text(value)
    read = yaml.safe_load(text)
    # YAML 1.1 takes 1e-05 for a string, which the parser of `fit` converts by the parameter's type.
    assert (float(read) if isinstance(value, float) else read) == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "base"}, "baseline 'base' is not an arm: name one of baseline, tst"),
        ({"arms": plain_arms({"baseline": Overlay()}, "baseline")}, "two or more"),
        ({"arms": plain_arms({"baseline": Overlay(), "../x": Overlay()}, "baseline")}, "'../x' becomes a folder name"),
        ({"arms": plain_arms({"baseline": Overlay(), "..": Overlay()}, "baseline")}, "'..' becomes a folder name"),
        ({"arms": plain_arms({"baseline": Overlay(), "Baseline": Overlay()}, "baseline")}, "only in case"),
        ({"seeds": ()}, "no seeds"),
        ({"seeds": (1, 1)}, "not unique"),
        ({"seeds": (-1,)}, "between 0 and"),
        ({"base": Overlay(["nowhere.yaml"])}, "base: there is no config file 'nowhere.yaml'"),
        ({"base": Overlay([], {"seed_everything": 3})}, "'seed_everything' cannot be overridden"),
        ({"base": Overlay([], {"trainer.default_root_dir": "x"})}, "cannot be overridden"),
        ({"evaluation": EvaluationSpec([])}, "evaluation: no tasks given"),
        (
            {"evaluation": EvaluationSpec(["piqa"], arms=["tst-*", "tst"])},
            "nothing is named like 'tst-*': there are baseline, tst",
        ),
        ({"halving": 0.5}, "two or more `lengths`"),
        ({"halving": 1.0}, "halving is 1.0"),
    ],
)
def test_bad_experiments_are_refused(experiment: Experiment, change: dict, message: str) -> None:
    with pytest.raises(UserError, match="experiment 'e'") as caught:
        replace(experiment, **change).validate()
    assert message in str(caught.value)


def test_all_problems_are_named_at_once(experiment: Experiment) -> None:
    with pytest.raises(UserError) as caught:
        replace(experiment, baseline="x", seeds=()).validate()
    assert "no seeds" in str(caught.value)
    assert "'x' is not an arm" in str(caught.value)


def test_config_that_is_not_yaml(experiment: Experiment) -> None:
    Path("model.yaml").write_text("a: [1\n")
    with pytest.raises(UserError, match=r"'model.yaml' is not readable as YAML"):
        experiment.runs()


def test_hash_is_of_values_not_of_layout(experiment: Experiment) -> None:
    before = experiment.runs()[0].config_hashes["model.yaml"]
    Path("model.yaml").write_text("# a remark\nmodel:   1\n")
    assert experiment.runs()[0].config_hashes["model.yaml"] == before
    Path("model.yaml").write_text("model: 2\n")
    assert experiment.runs()[0].config_hashes["model.yaml"] != before


def test_saved_experiment_can_be_moved(branching: Experiment) -> None:
    experiment = replace(branching, vary="data_order", halving=0.5, evaluation=EvaluationSpec(["piqa"], limit=3))
    experiment.save()
    experiment.output_dir.rename("elsewhere")
    assert Experiment.load("elsewhere") == replace(experiment, output_dir=Path("elsewhere"))


def test_folder_without_experiment(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no comparison"):
        Experiment.load(tmp_path)
    (tmp_path / "experiment.json").write_text('{"format_version": 2}')
    with pytest.raises(UserError, match="not readable as an experiment"):
        Experiment.load(tmp_path)


def test_an_experiment_of_another_format_says_what_to_do(experiment: Experiment) -> None:
    experiment.save()
    path = experiment.output_dir / "experiment.json"
    values = json.loads(path.read_text())
    del values["format_version"]
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"has format 1, and this version reads 2: give its .* compare` again"):
        Experiment.load(experiment.output_dir)


def test_arms_saved_without_a_length_have_that_of_their_steps(branching: Experiment) -> None:
    branching = replace(branching, arms={name: replace(arm, length=7) for name, arm in branching.arms.items()})
    branching.save()
    path = branching.output_dir / "experiment.json"
    assert [arm.nominal_length for arm in Experiment.load(path.parent).arms.values()] == [7, 7, 7]
    values = json.loads(path.read_text())
    for arm in values["arms"].values():
        del arm["length"]
    path.write_text(json.dumps(values))
    assert [arm.nominal_length for arm in Experiment.load(path.parent).arms.values()] == [60, 30, 20]
