import json
import os
import sys
from pathlib import Path

import pytest
from jsonargparse import auto_cli

from tst_lightning import lightning_cli
from tst_lightning.comparison.arms import Overlay, plain_arms
from tst_lightning.comparison.command import compare, run_experiment
from tst_lightning.comparison.experiment import Experiment
from tst_lightning.comparison.lock import exclusive
from tst_lightning.errors import UserError

FAKE = (sys.executable, str(Path(__file__).with_name("fake_program.py")))


def trained(folder: Path, **losses: float) -> Experiment:
    arms = {arm: Overlay([], {"fake": f"train:{loss}"}) for arm, loss in losses.items()}
    return Experiment("e", folder, (1,), Overlay(), plain_arms(arms, next(iter(arms))), next(iter(arms)))


def arguments(folder: Path, **changes: object) -> dict:
    return {"name": "e", "output_dir": str(folder), "seeds": [1], "baseline": "a",
            "arms": {"a": Overlay(), "b": Overlay()}, **changes}  # fmt: skip


def test_from_nothing_to_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "prepare.yaml"
    config.write_text("fine: true\n")
    experiment = trained(tmp_path / "out", base=1.5, tst=1.25)
    run_experiment(experiment, experiment.runs(), 2, 1, [str(config)], FAKE)
    shown = capsys.readouterr()
    assert "tst ended 0.250 nats per token ahead of base" in shown.out
    assert "tst seed 1: started" in shown.err
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [run["status"] for run in values["runs"]] == ["finished", "finished"]
    assert set(values["runs"][0]["finished"]["versions"]) >= {"python", "torch", "lightning", "lm-eval", "litdata"}


def test_failed_runs_are_reported_after_the_report(tmp_path: Path) -> None:
    experiment = trained(tmp_path, base=1.5, tst=1.25)
    experiment.arms["tst"].overlay.overrides["fake"] = "fail"
    with pytest.raises(UserError, match="tst seed 1 failed") as caught:
        run_experiment(experiment, experiment.runs(), 1, 1, (), FAKE)
    assert "the disk is on fire" in str(caught.value)
    assert "No verdict on tst" in (tmp_path / "report.md").read_text()


def test_a_failed_preparation_stops_before_any_run(tmp_path: Path) -> None:
    config = tmp_path / "prepare.yaml"
    config.write_text("fine: false\n")
    experiment = trained(tmp_path / "out", a=1.0, b=1.0)
    with pytest.raises(UserError, match="failed with exit code 5"):
        run_experiment(experiment, experiment.runs(), 1, 1, [str(config)], FAKE)
    assert not (tmp_path / "out" / "runs").exists()


def test_two_comparisons_in_one_folder(tmp_path: Path) -> None:
    experiment = trained(tmp_path, a=1.0, b=1.0)
    with exclusive(tmp_path), pytest.raises(UserError, match="another comparison is at work"):
        run_experiment(experiment, experiment.runs(), 1, 1, (), FAKE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jobs": 0}, "jobs is 0"),
        ({"threads_per_job": 0}, "threads_per_job is 0"),
        ({"prepare": ["nowhere.yaml"]}, "no prepare config 'nowhere.yaml'"),
        ({"base": Overlay(["nowhere.yaml"])}, "no config file 'nowhere.yaml'"),
        ({"baseline": "c"}, "'c' is not an arm"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(**arguments(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_overrides_from_a_file_stay_what_the_file_says(tmp_path: Path) -> None:
    config = tmp_path / "experiment.yaml"
    config.write_text("base: {overrides: {x: [{class_path: calendar.Calendar}], y: true, z: 3, d.e: 1.5, s: a b}}")
    seen = []

    def take(base: Overlay) -> None:
        seen.append(base)

    auto_cli(take, args=["--config", str(config)], as_positional=False)
    assert seen[0].overrides == {"x": [{"class_path": "calendar.Calendar"}], "y": True, "z": 3, "d.e": 1.5, "s": "a b"}


def test_a_command_that_fit_does_not_understand_names_its_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def parse_fit(arguments: list[str]) -> None:
        asked.append(arguments)
        if "--b.c=1" in arguments:
            raise UserError("unknown key b.c")

    monkeypatch.setattr(lightning_cli, "parse_fit", parse_fit)
    with pytest.raises(UserError, match=r"arm 'b': unknown key b\.c"):
        compare(**arguments(tmp_path / "out", seeds=[1, 2], arms={"a": Overlay(), "b": Overlay([], {"b.c": 1})}))
    assert len(asked) == 2  # once per arm, not per seed
    assert asked[0][0] == "--seed_everything=1"
    assert not (tmp_path / "out").exists()


def test_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    experiment = trained(tmp_path / "file" / "out", a=1.0, b=1.0)
    with pytest.raises(UserError, match="cannot be written"):
        run_experiment(experiment, experiment.runs(), 1, 1, (), FAKE)
    assert os.listdir(tmp_path) == ["file"]
