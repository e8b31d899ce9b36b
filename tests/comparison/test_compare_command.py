import copy
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from jsonargparse import auto_cli
from plain_arms import plain_arms

from tst_lightning.cli import main
from tst_lightning.comparison import command
from tst_lightning.comparison.command import compare, run_experiment
from tst_lightning.comparison.design.arms import ArmSpec, Overlay
from tst_lightning.comparison.design.experiment import Experiment
from tst_lightning.comparison.running.folder import check_identity, claim_ahead, is_finished, take_over
from tst_lightning.comparison.running.lock import exclusive
from tst_lightning.errors import UserError
from tst_lightning.run import lightning_cli

FAKE = (sys.executable, str(Path(__file__).with_name("fake_program.py")))


def trained(folder: Path, **losses: float) -> Experiment:
    arms = {arm: Overlay([], {"fake": f"train:{loss}"}) for arm, loss in losses.items()}
    return Experiment("e", folder, (1,), Overlay(), plain_arms(arms, next(iter(arms))), next(iter(arms)))


def arguments(folder: Path, **changes: object) -> dict:
    return {"name": "e", "output_dir": str(folder), "seeds": [1], "baseline": "a",
            "arms": {"a": ArmSpec(), "b": ArmSpec()}, **changes}  # fmt: skip


def test_from_nothing_to_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "prepare.yaml"
    config.write_text("fine: true\n")
    experiment = trained(tmp_path / "out", base=1.5, tst=1.25)
    run_experiment(experiment, experiment.runs(), 2, 1, [str(config)], FAKE)
    shown = capsys.readouterr()
    assert "tst ended with a validation loss 0.250 nats per token lower than base" in shown.out
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


def test_an_arm_that_was_changed_is_refused_although_it_is_not_selected(tmp_path: Path) -> None:
    experiment = trained(tmp_path, a=1.5, b=1.25)
    run_experiment(experiment, experiment.runs(), 1, 1, (), FAKE)
    before = (tmp_path / "experiment.json").read_text()
    changed = trained(tmp_path, a=1.5, b=1.0)
    with pytest.raises(UserError, match="b/seed_1' belongs to another run"):
        run_experiment(changed, changed.runs()[:1], 1, 1, (), FAKE)
    assert (tmp_path / "experiment.json").read_text() == before


def test_commands_are_there_before_any_run_for_others_to_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = trained(tmp_path, a=1.5, b=1.25)
    a, b = experiment.runs()
    with pytest.raises(UserError, match="a seed 1 failed"):
        run_experiment(experiment, [a, b], 1, 1, (), (sys.executable, "-c", "raise SystemExit(1)"))
    assert "the commands of 2 runs that have not begun are in" in capsys.readouterr().err
    for run in (a, b):
        for path in run.folder.iterdir():
            if path.name not in ("command.txt", "run.json"):
                path.unlink()
    # Nothing has begun, so the experiment may still change.
    changed = trained(tmp_path, a=1.5, b=1.0)
    check_identity(changed.runs())
    assert claim_ahead(changed.runs()) == 2
    assert (b.folder / "command.txt").read_text() == changed.runs()[1].command + "\n"
    assert not take_over(changed.runs())


def test_a_run_that_something_else_has_trained_counts(tmp_path: Path) -> None:
    run = trained(tmp_path, a=1.5, b=1.25).runs()[0]
    claim_ahead([run])
    (run.folder / "progress.json").write_text('{"step": 10, "done": false}')
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "last.ckpt").touch()
    assert not take_over([run])
    (run.folder / "progress.json").write_text('{"step": 20, "done": true}')
    (run.folder / "config.yaml").write_text("callbacks: [class_path: callbacks.DownstreamEvaluation]")
    assert not take_over([run])  # it still evaluates
    (run.folder / "evaluation" / "step=20").mkdir(parents=True)
    assert take_over([run]) == [run]
    assert is_finished(run.folder)
    assert not take_over([run])


def test_two_comparisons_in_one_folder(tmp_path: Path) -> None:
    experiment = trained(tmp_path, a=1.0, b=1.0)
    with exclusive(tmp_path), pytest.raises(UserError, match="another comparison is at work"):
        run_experiment(experiment, experiment.runs(), 1, 1, (), FAKE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_arms_at_once": 0}, "max_arms_at_once is 0"),
        ({"threads_per_arm": 0}, "threads_per_arm is 0"),
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


CONFIG = {
    "trainer": {"max_steps": 20, "accumulate_grad_batches": 1, "val_check_interval": 5, "precision": "32-true"},
    "data": {"data_dir": "x", "batch_size": 1, "sequence_length": 8},
    "model": {"config": None, "pretrained": "m", "learning_rate_schedule": {"decay_ratio": 0.1}},
}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Commands that were ``parsed``, by a stand-in, and what would be ``started``."""
    seen = SimpleNamespace(parsed=[], started=[])

    def parse_fit(arguments: list[str]) -> dict:
        options = dict(argument[2:].split("=", 1) for argument in arguments)
        if "b.c" in options:
            raise UserError("unknown key b.c")
        config = copy.deepcopy(CONFIG)
        config["trainer"]["max_steps"] = int(options.get("trainer.max_steps", 20))
        config["trainer"]["precision"] = options.get("trainer.precision", "32-true")
        seen.parsed.append(arguments)
        return config

    def run_experiment(experiment: Experiment, runs: list, *arguments: object, **options: object) -> None:
        labels, steps = [run.label for run in runs], [run.steps for run in runs]
        seen.started.append((experiment, labels, steps, arguments, options))

    monkeypatch.setattr(lightning_cli, "parse_fit", parse_fit)
    monkeypatch.setattr(command, "run_experiment", run_experiment)
    return seen


def test_a_command_that_fit_does_not_understand_names_its_arm(tmp_path: Path, seen: SimpleNamespace) -> None:
    with pytest.raises(UserError, match=r"arm 'b': unknown key b\.c\n  its command: tst-lightning fit --b\.c=1"):
        compare(**arguments(tmp_path / "out", arms={"a": ArmSpec(), "b": ArmSpec([], {"b.c": 1})}))
    assert not seen.started


def test_each_arm_is_parsed_once_and_tells_how_long_it_is(tmp_path: Path, seen: SimpleNamespace) -> None:
    compare(**arguments(tmp_path / "out", seeds=[1, 2], budget_hours=2.5, max_arms_at_once=2, threads_per_arm=3))
    assert [command[0] for command in seen.parsed] == ["--seed_everything=1"] * 2
    ((experiment, labels, steps, positional, options),) = seen.started
    assert labels == ["a seed 1", "b seed 1", "a seed 2", "b seed 2"]
    assert steps == [20] * 4
    assert (positional, options) == ((2, 3, []), {"budget_hours": 2.5})
    assert experiment.pairs() == [("b", "a")]


@pytest.mark.parametrize(("devices", "threads"), [(1, 8), (4, 2), (32, 1)])
def test_cores_are_shared_among_runs_and_their_devices(
    tmp_path: Path, seen: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, devices: int, threads: int
) -> None:
    monkeypatch.setattr("tst_lightning.cores.available_cores", lambda: 16)
    monkeypatch.setitem(CONFIG["trainer"], "devices", devices)
    compare(**arguments(tmp_path / "out", max_arms_at_once=2))
    assert seen.started[0][3] == (2, threads, [])


def test_runs_on_a_gpu_do_not_share_it(tmp_path: Path, seen: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIG["trainer"], "accelerator", "gpu")
    with pytest.raises(UserError, match=r"'a' trains on a GPU.*set max_arms_at_once to 1"):
        compare(**arguments(tmp_path / "out", max_arms_at_once=2))
    compare(**arguments(tmp_path / "out"))
    assert len(seen.started) == 1


def test_a_part_is_run_of_an_experiment_that_stays_whole(tmp_path: Path, seen: SimpleNamespace) -> None:
    arms = {"a": ArmSpec(), "b{n}": ArmSpec([], {"n": "{n}"}, grid={"n": [1, 2]})}
    options = {"lengths": [10, 20], "branch": ["a"], "vary": "data_order"}
    compare(**arguments(tmp_path / "out", arms=arms, only="b1-*, b2-10", **options))
    experiment, labels, steps, *_ = seen.started[0]
    assert labels == ["a-20 seed 1", "a-10 seed 1", "b1-10 seed 1", "b2-10 seed 1", "b1-20 seed 1"]
    assert steps == [20, 1, 10, 10, 20]
    assert list(experiment.arms) == ["a-20", "a-10", "b1-10", "b2-10", "b1-20", "b2-20"]
    assert experiment.vary == "data_order"
    # The trunk's checkpoint is not there yet.
    assert not any("ckpt_path" in argument for command in seen.parsed for argument in command)
    with pytest.raises(UserError, match="nothing is named like 'c'"):
        compare(**arguments(tmp_path / "out", arms=arms, only=["c"]))


def test_a_part_without_what_its_references_are_compared_with(tmp_path: Path, seen: SimpleNamespace) -> None:
    arms = {"a": ArmSpec(), "b": ArmSpec(), "c": ArmSpec(compare_with=["b"]), "d": ArmSpec(compare_with=["c"])}
    compare(**arguments(tmp_path / "out", arms=arms, only="d"))
    assert seen.started[0][1] == ["a seed 1", "c seed 1", "d seed 1"]


@pytest.mark.parametrize("words", [["--only", "b", "c"], ["--only", "b,c"], ["--only", "b, c"], ["--only=[b, c]"]])
def test_only_on_the_command_line(tmp_path: Path, seen: SimpleNamespace, words: list[str]) -> None:
    config = tmp_path / "e.yaml"
    config.write_text("{name: e, output_dir: out, seeds: [1], baseline: a, arms: {a: {}, b: {}, c: {}, d: {}}}")
    assert main(["compare", "--config", str(config), *words, "--vary", "data_order"]) == 0
    (experiment, labels, *_), *_ = seen.started
    assert labels == ["a seed 1", "b seed 1", "c seed 1"]
    assert experiment.vary == "data_order"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"trainer.precision": "bf16-mixed"}, "'b' cannot be compared with 'a': trainer.precision: bf16-mixed against"),
        ({"trainer.max_steps": 22}, "arm 'b' has 22 batches and validates every 5"),
        ({"trainer.max_steps": 0}, "arm 'b': trainer.max_steps is 0"),
    ],
)
def test_arms_that_are_no_comparison_are_not_run(
    tmp_path: Path, seen: SimpleNamespace, overrides: dict, message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        compare(**arguments(tmp_path / "out", arms={"a": ArmSpec(), "b": ArmSpec([], overrides)}))
    assert not seen.started


def test_all_problems_of_a_file_come_together(tmp_path: Path) -> None:
    arms = {"a": ArmSpec(), "b{n}": ArmSpec()}
    with pytest.raises(UserError, match="experiment 'e'") as caught:
        compare(**arguments(tmp_path / "out", seeds=[], arms=arms, lengths=[0], base=Overlay(["nowhere.yaml"])))
    for problem in ("no seeds", "'{n}' has no values", "lengths [0]", "no config file 'nowhere.yaml'"):
        assert problem in str(caught.value)


def test_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    experiment = trained(tmp_path / "file" / "out", a=1.0, b=1.0)
    with pytest.raises(UserError, match="cannot be written"):
        run_experiment(experiment, experiment.runs(), 1, 1, (), FAKE)
    assert os.listdir(tmp_path) == ["file"]
