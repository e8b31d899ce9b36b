import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import FAKE, labels, make_runs, run_all, starts

from tst_lightning.comparison.design.arms import Arm, Overlay
from tst_lightning.comparison.design.experiment import Experiment, Run
from tst_lightning.comparison.design.halving import Halving
from tst_lightning.comparison.design.scoring import EvaluationSpec
from tst_lightning.comparison.running.folder import check_identity
from tst_lightning.comparison.running.runner import Outcome, Runner, failure_message
from tst_lightning.errors import UserError


def make_branch(folder: Path, trunk: str, branch: str = "needs", seeds: tuple[int, ...] = (1,)) -> list[Run]:
    """Per seed a branch, then another run, then the trunk: the order in which nobody should have to wait."""
    runs = []
    for seed in seeds:
        short, other, long = make_runs(folder, (seed,), short=branch, other="ok", long=trunk)
        start = long.folder / "checkpoints" / "step=5.ckpt"
        arguments = (*short.arguments, f"--ckpt_path={start}")
        runs += [replace(short, arguments=arguments, starts_from=start, steps=2), other, long]
    return runs


def test_a_branch_waits_for_its_checkpoint_and_lets_others_pass(tmp_path: Path) -> None:
    runs = make_branch(tmp_path, "trunk")
    outcome, shown = run_all(runs)
    assert outcome == Outcome([], [])
    assert [run.label for run in sorted(runs, key=lambda run: starts(run)[0]["time"])] == [
        *("other seed 1", "long seed 1", "short seed 1")
    ]
    assert f"short seed 1: started from {runs[0].starts_from}" in shown


def test_a_branch_starts_while_its_trunk_still_trains(tmp_path: Path) -> None:
    branch, _, trunk = make_branch(tmp_path, "trunk")
    # This trunk ends only once a second run is at work: without the branch beside it, it fails.
    outcome, _ = run_all([branch, trunk], max_arms_at_once=2)
    assert outcome == Outcome([], [])
    assert starts(branch)[0]["arguments"] == list(branch.arguments)


def test_an_interrupted_branch_resumes_from_its_own_checkpoint(tmp_path: Path) -> None:
    branch, _, trunk = make_branch(tmp_path, "ok", "once")
    branch.starts_from.parent.mkdir(parents=True)
    branch.starts_from.touch()
    outcome, _ = run_all([branch, trunk])
    assert labels(outcome.failures) == ["short seed 1"]
    branch.starts_from.unlink()  # no longer needed
    own = branch.folder / "checkpoints" / "last.ckpt"
    own.rename(own.with_name(".last.ckpt.replaced"))  # as a sharded one that was killed while it was replaced
    check_identity([branch, trunk])
    outcome, _ = run_all([branch, trunk])
    assert outcome == Outcome([], [])
    assert starts(branch)[1]["arguments"] == [*branch.arguments[:-1], f"--ckpt_path={own}"]
    assert json.loads((branch.folder / "finished.json").read_text())["command"] == branch.command


def test_a_branch_of_a_failed_trunk_is_reported_as_not_started(tmp_path: Path) -> None:
    runs = make_branch(tmp_path, "fail", seeds=(1, 2))
    outcome, shown = run_all(runs)
    assert sorted(labels(outcome.failures)) == ["long seed 1", "long seed 2", "short seed 1", "short seed 2"]
    reason = "short seed 1: not started: its trunk long seed 1 failed"
    assert reason in shown
    assert reason in failure_message(outcome.failures)
    assert not runs[0].folder.exists()


def test_a_trunk_that_leaves_no_checkpoint(tmp_path: Path) -> None:
    branch, _, trunk = runs = make_branch(tmp_path, "ok")
    outcome, _ = run_all(runs)
    message = failure_message(outcome.failures)
    assert labels(outcome.failures) == ["short seed 1"]
    assert f"goes on from '{branch.starts_from}', which is not there although long seed 1 has finished" in message
    # Known beforehand the next time: nothing is begun.
    with pytest.raises(
        UserError, match=f"short seed 1: not started: .*delete '{trunk.folder}' to train that run again"
    ):
        Runner(runs, 1, 1, FAKE)
    with pytest.raises(UserError, match="not part of this comparison: select that run too"):
        Runner([branch], 1, 1, FAKE)


def test_halving_trains_only_the_best_at_the_next_length(tmp_path: Path) -> None:
    methods = {"base": 2.0, "good": 1.5, "bad": 1.9, "broken": None}
    arms = [
        Arm(f"{method}-{steps}", method, Overlay([], {"fake": "fail" if loss is None else f"loss:{loss}"}),
            steps=steps, references=() if method == "base" else (f"base-{steps}",))
        for steps in (10, 20)
        for method, loss in methods.items()
    ]  # fmt: skip
    arms = {arm.name: arm for arm in arms}
    runs = Experiment("e", tmp_path, (1, 2), Overlay(), arms, "base").runs()
    outcome, shown = run_all(runs, 2, arms=arms, halving=Halving(tmp_path, arms, "base", 0.3))
    assert "after 10 steps good go on, dropped: bad, broken" in shown
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        *("bad-10", "base-10", "base-20", "broken-10", "good-10", "good-20")
    ]
    assert labels(outcome.failures) == ["broken-10 seed 1", "broken-10 seed 2"]
    assert outcome.left == []
    _, shown = run_all(runs, 2, arms=arms, halving=Halving(tmp_path, arms, "base", 0.3))
    assert "after 10 steps" not in shown
    assert not (tmp_path / "runs" / "bad-20").exists()


def test_trained_runs_are_evaluated_at_once_and_only_once(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, a="loss:1.0", b="loss:2.0")
    run_all(runs[:1])  # trained by an earlier call
    spec = EvaluationSpec(["piqa"], arms=["a", "b"])
    outcome, shown = run_all(runs, evaluation=spec)
    assert outcome == Outcome([], [])
    assert "evaluation of a seed 1: finished" in shown
    for run in runs:
        (line,) = (run.folder / "evaluation_trace.jsonl").read_text().splitlines()
        assert json.loads(line)["arguments"][3:5] == ["--tasks", "piqa"]
        assert json.loads(line)["threads"] == "3"
        assert (run.folder / "evaluation" / "compare-1" / "step=10" / "results_1.json").exists()
        assert "tst-lightning evaluate --ckpt_path" in (run.folder / "evaluation.log").read_text()
    outcome, shown = run_all(runs, evaluation=spec)
    assert "2 of 2 runs are finished already" in shown
    run_all(runs, evaluation=EvaluationSpec(["piqa"], limit=5, arms=["b"]))
    assert [len((run.folder / "evaluation_trace.jsonl").read_text().splitlines()) for run in runs] == [1, 2]


def test_an_added_task_is_evaluated_beside_what_is_there(tmp_path: Path) -> None:
    (run, _) = runs = make_runs(tmp_path, a="loss:1.0", b="loss:2.0")
    from_training = run.folder / "evaluation" / "step=10" / "results_0.json"
    from_training.parent.mkdir(parents=True)
    from_training.write_text("scores of the training's own evaluation")
    for tasks in (["piqa"], ["piqa", "arc_easy"]):
        run_all(runs, evaluation=EvaluationSpec(tasks, arms=["a"]))
    traced = [json.loads(line) for line in (run.folder / "evaluation_trace.jsonl").read_text().splitlines()]
    assert [one["arguments"][4] for one in traced] == ["piqa", "arc_easy"]
    assert from_training.read_text() == "scores of the training's own evaluation"
    results = sorted((run.folder / "evaluation").glob("compare-*/step=10/results_1.json"))
    assert [list(json.loads(path.read_text())["results"]) for path in results] == [["piqa"], ["arc_easy"]]


def with_branch_points(run: Run, *steps: int) -> Run:
    callback = json.dumps({"class_path": "callbacks.BranchPoints", "init_args": {"steps": list(steps)}})
    return replace(run, arguments=(run.arguments[0], f"--trainer.callbacks+={callback}", *run.arguments[1:]))


def test_a_finished_trunk_stays_when_a_length_is_added(tmp_path: Path) -> None:
    branch, _, trunk = make_branch(tmp_path, "ok", "ok")
    run_all([with_branch_points(trunk, 5)])
    check_identity([with_branch_points(trunk, 2, 5)])
    check_identity([trunk])
    with pytest.raises(UserError, match="this length was added after that"):
        Runner([branch, with_branch_points(trunk, 2, 5)], 1, 1, FAKE)


def test_a_finished_whole_run_stands_where_a_longer_trunk_is_added(tmp_path: Path) -> None:
    branch, _, trunk = make_branch(tmp_path, "ok", "ok")
    whole = replace(branch, arguments=branch.arguments[:-1], starts_from=None)
    run_all([with_branch_points(whole, 1)])
    check_identity([branch])
    outcome, _ = run_all([branch, trunk])
    assert outcome == Outcome([], [])
    assert len(starts(branch)) == 1


def test_a_branch_does_not_stand_for_a_whole_run(tmp_path: Path) -> None:
    branch, _, trunk = make_branch(tmp_path, "trunk")
    run_all([branch, trunk], max_arms_at_once=2)
    with pytest.raises(UserError, match="its command has --ckpt_path"):
        check_identity([replace(branch, arguments=branch.arguments[:-1], starts_from=None)])


def test_an_evaluation_comes_before_the_next_run(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, a="loss:1.0", b="loss:2.0")
    run_all(runs, evaluation=EvaluationSpec(["piqa"], arms=["a"]))
    evaluated = json.loads((runs[0].folder / "evaluation_trace.jsonl").read_text())["time"]
    assert starts(runs[0])[0]["time"] < evaluated < starts(runs[1])[0]["time"]
    assert not (runs[1].folder / "evaluation").exists()


def test_a_failed_evaluation_is_reported_and_leaves_the_run_finished(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, a="loss:1.0", b="loss:2.0")
    outcome, _ = run_all(runs, evaluation=EvaluationSpec(["broken"], arms=["a"]))
    assert "evaluation of a seed 1 failed; the end of" in failure_message(outcome.failures)
    assert "no such task" in failure_message(outcome.failures)
    assert all((run.folder / "finished.json").exists() for run in runs)
    assert not (runs[0].folder / "evaluation.json").exists()
    outcome, _ = run_all(runs, evaluation=EvaluationSpec(["piqa"], arms=["a"]))
    assert outcome == Outcome([], [])
    assert [len(starts(run)) for run in runs] == [1, 1]
