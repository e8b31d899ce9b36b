from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tst_lightning.comparison.arms import Overlay, plain_arms
from tst_lightning.comparison.experiment import Experiment, _value_text
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
        ({"arms": plain_arms({"baseline": Overlay(), "Baseline": Overlay()}, "baseline")}, "upper and lower case"),
        ({"seeds": ()}, "no seeds"),
        ({"seeds": (1, 1)}, "not unique"),
        ({"seeds": (-1,)}, "between 0 and"),
        ({"base": Overlay(["nowhere.yaml"])}, "base: there is no config file 'nowhere.yaml'"),
        ({"base": Overlay([], {"seed_everything": 3})}, "'seed_everything' cannot be overridden"),
        ({"base": Overlay([], {"trainer.default_root_dir": "x"})}, "cannot be overridden"),
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


def test_saved_experiment_can_be_moved(experiment: Experiment) -> None:
    experiment.save()
    experiment.output_dir.rename("elsewhere")
    assert Experiment.load("elsewhere") == replace(experiment, output_dir=Path("elsewhere"))


def test_folder_without_experiment(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no comparison"):
        Experiment.load(tmp_path)
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(UserError, match="not readable as an experiment"):
        Experiment.load(tmp_path)
