import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tst_lightning.comparison.design.arms import Arm, Overlay
from tst_lightning.comparison.design.experiment import Run, run_folder
from tst_lightning.comparison.design.scoring import EvaluationSpec, finish_evaluation
from tst_lightning.comparison.running.forecast import Tracker
from tst_lightning.comparison.running.outlook import Outlook
from tst_lightning.comparison.running.waiting import Waiting
from tst_lightning.comparison.running.work import Evaluation, Training

STARTED = 1000.0


class TrainingAtWork(Training):
    """One that reports what a test writes, without a process."""

    def __init__(self, run: Run, elapsed_seconds: float, *samples: tuple[float, int], max_steps: int = 6000) -> None:
        self.run = run
        self.child = SimpleNamespace(elapsed_seconds=elapsed_seconds)
        self.tracker = Tracker(run.folder, STARTED)
        run.folder.mkdir(parents=True, exist_ok=True)
        for seconds, step in samples:
            (run.folder / "progress.json").write_text(json.dumps({"step": step, "max_steps": max_steps}))
            os.utime(run.folder / "progress.json", (STARTED + seconds, STARTED + seconds))
            self.tracker.refresh()


class EvaluationAtWork(Evaluation):
    def __init__(self, run: Run, elapsed_seconds: float) -> None:
        self.run = run
        self.child = SimpleNamespace(elapsed_seconds=elapsed_seconds)


def make_run(folder: Path, arm: str, steps: int, start: Path | None = None) -> Run:
    return Run(arm, 1, run_folder(folder, arm, 1), ("fit",), {}, start, steps)


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """A branch that trains its last 75 of 750 steps, a whole run, and the trunk."""
    trunk = make_run(tmp_path, "base-6000", 6000)
    branch = make_run(tmp_path, "base-750", 75, trunk.folder / "checkpoints" / "step=675.ckpt")
    return [branch, make_run(tmp_path, "tst-3000", 3000), trunk]


ARMS = {
    name: Arm(name, name.split("-")[0], Overlay(), steps=int(name.split("-")[1]))
    for name in ("base-750", "base-6000", "tst-3000", "tst-750")
}


def ends(outlook: Outlook, working: list, until: float = float("inf")) -> dict[str, float]:
    found = outlook.forecast(working, until).ends
    return {Path(folder).parent.name: end for folder, end in found.items()}


def finish(run: Run, **values: float) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "finished.json").write_text(json.dumps(values))


def test_nothing_is_known_before_the_first_steps(runs: list[Run]) -> None:
    outlook = Outlook(Waiting(runs), runs, ARMS, 2)
    assert outlook.forecast([]) is None
    trunk = TrainingAtWork(runs[2], 5.0)
    outlook.watch(trunk)
    assert outlook.forecast([trunk]) is None


def test_a_branch_is_ready_when_its_waiting_trunk_has_come_so_far(tmp_path: Path, runs: list[Run]) -> None:
    earlier = make_run(tmp_path, "tst-750", 750)
    finish(earlier, seconds_per_step=0.1, overhead_seconds=20.0)
    waiting = Waiting([earlier, *runs])
    # Three slots: all but the branch start now; that starts at 20 + 675 * 0.1 and takes 75 * 0.1 + 20.
    assert ends(Outlook(waiting, [earlier, *runs], ARMS, 3), []) == pytest.approx(
        {"tst-3000": 320.0, "base-6000": 620.0, "base-750": 87.5 + 27.5}
    )
    # Two slots: the first to become free is that of the run of 3,000 steps.
    assert ends(Outlook(waiting, [earlier, *runs], ARMS, 2), []) == pytest.approx(
        {"tst-3000": 320.0, "base-6000": 620.0, "base-750": 320.0 + 27.5}
    )


def test_runs_at_work_tell_about_the_others(runs: list[Run]) -> None:
    _, other, trunk = runs
    waiting = Waiting(runs)
    waiting.runs.remove(trunk)
    # Start-up took 10 s, the first 5 steps 5 s; since then 0.5 s a step, so that 5,795 steps are left after 205.
    work = TrainingAtWork(trunk, 120.0, (10.0, 0), (15.0, 5), (115.0, 205))
    outlook = Outlook(waiting, runs, ARMS, 2)
    outlook.watch(work)
    assert outlook.remaining_seconds(work) == pytest.approx(5795 * 0.5)
    assert outlook.seconds(other) == pytest.approx(3000 * 0.5 + 10)
    # The trunk's 675 steps are 470 away; the second slot is taken by the other run, which can start now.
    expected = {"tst-3000": 1510.0, "base-750": 1510.0 + 75 * 0.5 + 10}
    assert ends(outlook, [work]) == pytest.approx(expected)
    assert outlook.forecast([work]).last == pytest.approx(5795 * 0.5)
    assert ends(outlook, [work], until=1500.0) == {}
    # Without the other run it waits for the checkpoint.
    waiting.runs.remove(other)
    assert ends(outlook, [work]) == pytest.approx({"base-750": 470 * 0.5 + 75 * 0.5 + 10})


def test_a_run_that_starts_up_is_judged_by_others(tmp_path: Path, runs: list[Run]) -> None:
    finish(runs[2], seconds_per_step=0.1, overhead_seconds=20.0)
    (runs[2].folder / "checkpoints").mkdir()
    runs[0].starts_from.touch()
    outlook = Outlook(Waiting(runs), runs, ARMS, 2)
    assert outlook.remaining_seconds(TrainingAtWork(runs[1], 7.0)) == pytest.approx(3000 * 0.1 + 20 - 7)
    # Trained, but not ended: of the 20 s beside the steps, 4 went into the start.
    ending = TrainingAtWork(runs[1], 300.0, (4.0, 0), (300.0, 3000), max_steps=3000)
    assert outlook.remaining_seconds(ending) == pytest.approx(16.0)


def test_evaluations_count(tmp_path: Path, runs: list[Run]) -> None:
    spec = EvaluationSpec(["piqa"])
    _, other, trunk = runs
    finish(trunk, seconds_per_step=0.1, overhead_seconds=20.0)
    (trunk.folder / "checkpoints").mkdir()
    runs[0].starts_from.touch()
    waiting = Waiting(runs, spec)
    assert trunk in waiting.runs  # trained, but not evaluated
    assert Outlook(waiting, runs, ARMS, 1).seconds(other) == pytest.approx(320.0)  # no evaluation is measured yet
    finish_evaluation(trunk.folder, spec.arguments(trunk.folder), 40.0)
    waiting = Waiting(runs, spec)
    assert trunk not in waiting.runs
    outlook = Outlook(waiting, runs, ARMS, 1)
    assert outlook.seconds(other) == pytest.approx(360.0)
    assert outlook.remaining_seconds(EvaluationAtWork(other, 15.0)) == pytest.approx(25.0)
    finish(other)
    assert outlook.seconds(other) == pytest.approx(40.0)
