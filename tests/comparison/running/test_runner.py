import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import FAKE, labels, make_runs, run_all, starts
from plain_arms import plain_arms

from tst_lightning.comparison.design.arms import Overlay
from tst_lightning.comparison.design.experiment import Experiment, Run
from tst_lightning.comparison.running import budget
from tst_lightning.comparison.running.budget import Budget
from tst_lightning.comparison.running.folder import check_identity, log_tail
from tst_lightning.comparison.running.runner import Outcome, failure_message, left_message
from tst_lightning.errors import UserError

PARENT = """
import sys
from pathlib import Path
from tst_lightning.comparison.command import run_experiment
from tst_lightning.comparison.design.arms import Arm, Overlay
from tst_lightning.comparison.design.experiment import Experiment
experiment = Experiment("e", Path(sys.argv[1]), (1,), Overlay([], {"fake": "sleep"}),
                        {name: Arm(name, name, Overlay()) for name in "ab"}, "a")
run_experiment(experiment, experiment.runs(), 2, 1, program=sys.argv[2:])
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_runs_get_their_arguments_and_leave_what_belongs_to_them(tmp_path: Path) -> None:
    (run, _) = runs = make_runs(tmp_path, a="ok", b="ok")
    outcome, _ = run_all(runs)
    assert outcome == Outcome([], [])
    (start,) = starts(run)
    assert start["arguments"] == list(run.arguments)
    assert start["threads"] == "3"
    assert (run.folder / "command.txt").read_text() == run.command + "\n"
    assert "hello from the run" in (run.folder / "log.txt").read_text()
    finished = json.loads((run.folder / "finished.json").read_text())
    assert finished["command"] == run.command
    assert (finished["exit_code"], finished["attempts"], finished["threads"]) == (0, 1, 3)
    assert finished["versions"]["torch"] != "not installed"
    assert finished["wall_seconds"] > 0


def test_finished_runs_are_skipped(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, a="ok", b="ok")
    run_all(runs)
    outcome, shown = run_all(runs)
    assert outcome == Outcome([], [])
    assert "2 of 2 runs are finished already" in shown
    assert [len(starts(run)) for run in runs] == [1, 1]


def test_an_interrupted_run_resumes_and_its_times_add_up(tmp_path: Path) -> None:
    (run, _) = runs = make_runs(tmp_path, a="once", b="ok")
    outcome, _ = run_all(runs)
    assert labels(outcome.failures) == [run.label]
    first = json.loads((run.folder / "attempts.json").read_text())["attempts"][0]["wall_seconds"]
    outcome, shown = run_all(runs)
    assert outcome == Outcome([], [])
    assert "a seed 1: resumed from its last checkpoint" in shown
    assert starts(run)[1]["arguments"] == [*run.arguments, f"--ckpt_path={run.folder}/checkpoints/last.ckpt"]
    finished = json.loads((run.folder / "finished.json").read_text())
    assert finished["attempts"] == 2
    assert finished["wall_seconds"] > first > 0
    assert finished["command"] == run.command


def test_a_failed_run_does_not_stop_the_others_and_its_log_is_quoted(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, (1, 2), bad="fail", good="ok")
    outcome, shown = run_all(runs)
    assert labels(outcome.failures) == ["bad seed 1", "bad seed 2"]
    assert "failed with exit code 3" in shown
    assert [(run.folder / "finished.json").exists() for run in runs] == [False, True, False, True]
    message = failure_message(outcome.failures)
    assert f"bad seed 1 failed; the end of {runs[0].folder}/log.txt:\n" in message
    assert "    the disk is on fire" in message
    assert "give the same command again" in message


def test_log_tail_shows_what_a_progress_bar_showed_last(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(b"old\n" * 50 + b"10 %\r50 %\r100 %\n\nend\xff\r\n")
    assert log_tail(tmp_path / "log.txt", 3) == "old\n100 %\nend�"
    assert log_tail(tmp_path / "nowhere") == "(no log)"


def test_runs_side_by_side(tmp_path: Path) -> None:
    outcome, _ = run_all(make_runs(tmp_path, a="meet", b="meet"), max_arms_at_once=2)
    assert outcome == Outcome([], [])


def test_one_at_a_time_runs_one_after_the_other_seed_by_seed(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, (5, 3), a="ok", b="ok")
    run_all(runs)
    begun = sorted(runs, key=lambda run: starts(run)[0]["time"])
    assert [run.label for run in begun] == ["a seed 5", "b seed 5", "a seed 3", "b seed 3"]


def finished_with(run: Run, **values: float) -> None:
    """A run that was trained before."""
    run.folder.mkdir(parents=True)
    (run.folder / "finished.json").write_text(json.dumps(values))


def test_the_budget_starts_only_what_ends_within_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "terminal_lines", lambda: None)
    runs = make_runs(tmp_path, a="ok", b="ok", c="ok", d="ok", e="ok")
    runs = [replace(run, steps=steps) for run, steps in zip(runs, (10, 10, 10, 900, 10), strict=True)]
    finished_with(runs[0], seconds_per_step=10.0, overhead_seconds=20.0)  # so 120 s for 10 steps
    outcome, shown = run_all(runs, budget=Budget(0.1))
    assert outcome.failures == []
    # The long one, 9,020 s, does not fit into 360 s; the short one after it has less priority and does not overtake.
    assert [run.label for run in outcome.left] == ["d seed 1", "e seed 1"]
    assert "the budget of 6 min 00 s is enough for the first" in shown
    assert "only these are run" in shown
    message = left_message(outcome.left, "tst-lightning compare --config e.yaml")
    assert "2 runs were left out:\n    d seed 1\n    e seed 1\n" in message
    assert message.endswith("  tst-lightning compare --config e.yaml")


@pytest.mark.parametrize(
    ("answer", "mode", "left"), [("a", "ok", []), ("y", "ok", ["c seed 1"]), ("n", "sleep", ["b seed 1", "c seed 1"])]
)
def test_the_user_decides_what_becomes_of_a_tight_budget(
    tmp_path: Path, answer: str, mode: str, left: list[str]
) -> None:
    runs = make_runs(tmp_path, a="ok", b=mode, c="ok")
    runs = [replace(run, steps=steps) for run, steps in zip(runs, (10, 10, 900), strict=True)]
    finished_with(runs[0], seconds_per_step=10.0, overhead_seconds=20.0)
    answers = [answer]
    outcome, shown = run_all(runs, budget=Budget(0.1, lambda: answers.pop()))
    assert "is enough for the first 1: run these? [y = these / a = all / n = stop]" in shown
    assert answers == []  # asked once: a second time would have raised
    assert [run.label for run in outcome.left] == left
    assert outcome.failures == []


@pytest.mark.parametrize(("answers", "left"), [(["a"], 0), ([None, "a"], 0), ([None, "n"], 1)])
def test_where_nothing_fits_the_user_is_waited_for(tmp_path: Path, answers: list[str | None], left: int) -> None:
    runs = [replace(run, steps=900) for run in make_runs(tmp_path, a="ok", b="ok")]
    finished_with(runs[0], seconds_per_step=10.0, overhead_seconds=20.0)
    asked = iter(answers)
    outcome, shown = run_all(runs, budget=Budget(0.1, lambda: next(asked)))
    assert "is enough for none: run all? [a = all / n = stop]" in shown
    assert len(outcome.left) == left
    assert list(asked) == []


def test_where_nothing_fits_and_nobody_is_there_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "terminal_lines", lambda: None)
    runs = [replace(run, steps=900) for run in make_runs(tmp_path, a="ok", b="ok")]
    finished_with(runs[0], seconds_per_step=10.0, overhead_seconds=20.0)
    outcome, shown = run_all(runs, budget=Budget(0.1))
    assert "is enough for none: nothing is started" in shown
    assert outcome == Outcome([], [runs[1]])


def test_an_evaluation_that_is_left_is_named_as_such(tmp_path: Path) -> None:
    (run, other) = make_runs(tmp_path, a="ok", b="ok")
    finished_with(run)
    assert "2 runs were left out:\n    evaluation of a seed 1\n    b seed 1\n" in left_message([run, other], "again")


def test_without_a_measure_the_budget_lets_the_first_runs_begin(tmp_path: Path) -> None:
    outcome, _ = run_all(make_runs(tmp_path, a="ok"), budget=Budget(1))
    assert outcome == Outcome([], [])


def test_folder_of_another_command_is_refused_and_left_alone(tmp_path: Path) -> None:
    run_all(make_runs(tmp_path, a="ok", b="ok"))
    changed = make_runs(tmp_path, a="ok", b="meet")
    with pytest.raises(UserError) as caught:
        check_identity(changed)
    message = str(caught.value)
    assert "runs/b/seed_1' belongs to another run" in message
    assert "its command has --fake=ok, this experiment does not" in message
    assert "this experiment has --fake=meet, its command does not" in message
    assert "runs/a" not in message
    assert (changed[1].folder / "finished.json").exists()
    (changed[1].folder / "run.json").unlink()
    with pytest.raises(UserError, match="--fake=meet"):
        check_identity(changed)


@pytest.mark.parametrize(
    ("swapped", "accepted"),
    [
        (("--trainer.max_steps=3", "--trainer.val_check_interval=2"), True),
        (("--a=1", "--a=2"), False),
        (("--a.init_args.b=1", '--a={"class_path": "x"}'), False),
        (("--a.init_args.b=1", "--a.class_path=x"), False),
        (("--a.b=1", '--a+={"x": 1}'), False),
        (("--config", "--a=1"), False),
    ],
)
def test_the_order_of_options_counts_where_it_means_something(
    tmp_path: Path, swapped: tuple[str, str], accepted: bool
) -> None:
    run = make_runs(tmp_path, a="ok", b="ok")[0]
    run_all([replace(run, arguments=(*run.arguments, *swapped))])
    now = replace(run, arguments=(*run.arguments, *reversed(swapped)))
    if accepted:
        check_identity([now])
    else:
        with pytest.raises(UserError, match="the same options stand in another order"):
            check_identity([now])


def test_folder_of_a_changed_config_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("a: 1\n")

    def runs() -> list[Run]:
        base = Overlay([str(config)], {"fake": "ok"})
        return Experiment("e", tmp_path, (1,), base, plain_arms({"a": Overlay(), "b": Overlay()}, "a"), "a").runs()

    run_all(runs())
    check_identity(runs())
    config.write_text("a: 1\ntrainer: {callbacks: [{class_path: callbacks.LossGuard}]}\n")
    with pytest.raises(UserError, match="says something else"):
        check_identity(runs())
    config.write_text("a: 2\n")
    with pytest.raises(UserError, match=r"c.yaml says something else than when it was begun"):
        check_identity(runs())


def test_a_run_goes_on_although_its_config_has_a_guard_more(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    guard = "{class_path: callbacks.LossGuard}"
    config.write_text("trainer: {callbacks: [{class_path: callbacks.Throughput}]}\n")

    def runs() -> list[Run]:
        arms = plain_arms({"a": Overlay([], {"fake": "once"}), "b": Overlay([], {"fake": "ok"})}, "a")
        return Experiment("e", tmp_path, (1,), Overlay([str(config)]), arms, "a").runs()

    run_all(runs())
    config.write_text(f"trainer: {{callbacks: [{{class_path: callbacks.Throughput}}, {guard}]}}\n")
    check_identity(runs())
    outcome, shown = run_all(runs())
    assert outcome == Outcome([], [])
    assert "a seed 1: resumed from its last checkpoint" in shown
    check_identity(runs())
    config.write_text(f"trainer: {{max_steps: 3, callbacks: [{{class_path: callbacks.Throughput}}, {guard}]}}\n")
    with pytest.raises(UserError, match="says something else"):
        check_identity(runs())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_children_and_says_how_to_go_on(tmp_path: Path, number: int, code: int) -> None:
    parent, pids = start_parent(tmp_path)
    parent.send_signal(number)
    _, shown = parent.communicate(timeout=90)
    assert parent.returncode == code
    assert "waiting up to 2 min 00 s for 2 runs to save and end; a second signal" in shown
    assert "give the same command again" in shown
    assert not any(is_alive(pid) for pid in pids)
    assert not list(tmp_path.glob("runs/*/*/finished.json"))


def test_a_second_signal_does_not_wait_for_children_that_take_their_time(tmp_path: Path) -> None:
    ignore = "import runpy, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); sys.argv.pop(0); "
    program = (FAKE[0], "-c", ignore + "runpy.run_path(sys.argv[0], run_name='__main__')", FAKE[1])
    parent, pids = start_parent(tmp_path, program)
    try:
        parent.send_signal(signal.SIGINT)
        assert any(line.startswith("waiting up to") for line in parent.stderr)
        assert all(is_alive(pid) for pid in pids)
        parent.send_signal(signal.SIGINT)
        # Less than the children sleep and than the runner's patience.
        parent.communicate(timeout=30)
    finally:
        parent.kill()
    assert parent.returncode == 130
    assert not any(is_alive(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends the children of a killed parent on Linux only")
def test_children_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    parent, pids = start_parent(tmp_path)
    parent.kill()
    parent.communicate(timeout=90)
    wait_for(lambda: not any(is_alive(pid) for pid in pids))


def start_parent(folder: Path, program: tuple[str, ...] = FAKE) -> tuple[subprocess.Popen, list[int]]:
    """A comparison of two sleeping runs in a process of its own; returns it and its children's ids."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), *program],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: len(list(folder.glob("runs/*/*/ready"))) == 2 or parent.poll() is not None)
    assert parent.poll() is None, parent.communicate()
    pids = [json.loads(path.read_text())["pid"] for path in folder.glob("runs/*/*/trace.jsonl")]
    assert os.getpid() not in pids
    assert len(pids) == 2
    return parent, pids
