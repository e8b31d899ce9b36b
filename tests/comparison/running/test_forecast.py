import io
import json
import math
import os
from pathlib import Path
from random import Random

import pytest

from tst_lightning.comparison.running.display import Display, duration, evaluation_line, run_line, total_line
from tst_lightning.comparison.running.forecast import Estimates, Measured, Task, Tracker, measured_earlier, play


def write_progress(folder: Path, written: float, **values: object) -> None:
    path = folder / "progress.json"
    path.write_text(json.dumps({"max_steps": 1000, "train_seconds": 0.0, **values}))
    os.utime(path, (written, written))


def test_pace_follows_this_attempt_without_its_slow_first_steps(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, started_time=100.0)
    assert (tracker.seconds_per_step, tracker.startup_seconds) == (None, None)
    write_progress(tmp_path, 110.0, step=400, train_seconds=800.0)
    tracker.refresh()
    assert (tracker.seconds_per_step, tracker.startup_seconds) == (None, 10.0)
    write_progress(tmp_path, 150.0, step=401)
    tracker.refresh()
    assert tracker.seconds_per_step is None
    write_progress(tmp_path, 170.0, step=441)
    tracker.refresh()
    assert tracker.seconds_per_step == pytest.approx(0.5)
    assert tracker.measured(wall_seconds=75.0) == {
        "seconds_per_step": pytest.approx(60 / 41),
        "overhead_seconds": pytest.approx(10 + 5),  # start-up, and what came after the last step
    }


def test_old_pace_is_forgotten(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, started_time=0.0)
    for written, step in [(5, 0), (10, 0), (20, 100), (1000, 200), (1010, 300)]:
        write_progress(tmp_path, written, step=step)
        tracker.refresh()
    assert tracker.seconds_per_step == pytest.approx(0.1)


def test_progress_of_an_earlier_attempt_does_not_count(tmp_path: Path) -> None:
    write_progress(tmp_path, 99.0, step=400)
    tracker = Tracker(tmp_path, started_time=100.0)
    tracker.refresh()
    assert tracker.values == {}
    (tmp_path / "progress.json").write_text("{")
    tracker.refresh()
    assert tracker.values == {}
    assert tracker.measured(10.0) == {}


def write_finished(folder: Path, progress: dict, **finished: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(json.dumps(progress))
    (folder / "finished.json").write_text(json.dumps(finished))
    return folder


def test_what_a_finished_run_tells(tmp_path: Path) -> None:
    progress = {"step": 1000, "max_steps": 1000, "train_seconds": 500.0}
    new = write_finished(tmp_path / "new", progress, wall_seconds=700.0, seconds_per_step=0.6, overhead_seconds=50.0)
    assert measured_earlier(new, None) == Measured(0.6, 50.0, 1000, 700.0)
    old = write_finished(tmp_path / "old", progress, wall_seconds=620.0)
    assert measured_earlier(old, 1000) == Measured(0.5, 120.0, 1000, 620.0)
    # A branch trained 100 steps of its own; its clock and its step count began in the trunk.
    branch = write_finished(tmp_path / "branch", progress, wall_seconds=70.0)
    assert measured_earlier(branch, 100) == Measured(0.5, pytest.approx(20.0), 100, 70.0)
    assert measured_earlier(tmp_path / "nothing", None) == Measured()


def test_estimates_weigh_steps_and_look_at_the_same_method_first(tmp_path: Path) -> None:
    kinds = {"bytes-base-10": ("bytes", "base"), "bytes-base-90": ("bytes", "base"), "bytes-tst-10": ("bytes", "tst"),
             "bytes-new-90": ("bytes", "new"), "bpe-base-90": ("bpe", "base")}  # fmt: skip
    estimates = Estimates(kinds)
    assert estimates.run_seconds("bytes-base-90", 90) is None
    estimates.learn("bytes-base-10", tmp_path / "1", Measured(2.0, 5.0, finished=False))
    estimates.learn("bytes-base-10", tmp_path / "1", Measured(2.0, 6.0, 10))  # the same run, finished
    estimates.learn("bytes-tst-10", tmp_path / "2", Measured(4.0, 1.0, 10, finished=False))
    assert estimates.run_seconds("bytes-base-90", 90) == 90 * 2.0 + 6.0
    assert estimates.run_seconds("bytes-tst-10", 10) == 10 * 4.0 + 6.0  # overhead of the finished one
    assert estimates.run_seconds("bytes-new-90", 90) == 90 * 3.0 + 6.0  # the mean of its variant
    estimates.learn("bpe-base-90", tmp_path / "3", Measured(9.0, 20.0, 90))
    assert estimates.run_seconds("bytes-new-90", 90) == 90 * 3.0 + 6.0
    assert estimates.run_seconds("stranger", 10) == pytest.approx(10 * 5.0 + 13.0)  # the mean of all
    assert estimates.run_seconds("bytes-tst-10", None) == 10 * 4.0 + 6.0  # steps of the arm's other runs
    assert estimates.evaluation_seconds("bytes-tst-10") == 0.0
    estimates.learn_evaluation("bytes-base-10", tmp_path / "1", 30.0)
    estimates.learn_evaluation("bpe-base-90", tmp_path / "3", 50.0)
    assert estimates.evaluation_seconds("bytes-tst-10") == 30.0
    assert estimates.evaluation_seconds("stranger") == 40.0


def test_runs_that_report_no_steps_take_the_mean(tmp_path: Path) -> None:
    estimates = Estimates({})
    estimates.learn("a", tmp_path / "1", Measured(whole_seconds=10.0))
    estimates.learn("b", tmp_path / "2", Measured(whole_seconds=30.0))
    assert estimates.run_seconds("a", None) == 10.0
    assert estimates.run_seconds("c", 100) == 20.0


def test_the_queue_is_played_forward() -> None:
    # Two slots free at 10 and 30: a 10-110, b 30-80, c 80-280.
    tasks = [Task("a", 100.0), Task("b", 50.0), Task("c", 200.0)]
    forecast = play([10.0, 30.0], tasks, 2)
    assert (forecast.ends, forecast.last) == ({"a": 110.0, "b": 80.0, "c": 280.0}, 280.0)
    assert play([10.0, 30.0], tasks, 2, until=100.0).ends == {}  # the first one ends too late: so ends the starting
    assert play([10.0, 30.0], tasks, 2, until=110.0).ends == {"a": 110.0, "b": 80.0}
    assert play([10.0], [], 2).last == 10.0
    assert play([], [], 2).last == 0.0
    # A branch waits for its trunk's checkpoint and lets others pass; one whose trunk never comes stays.
    tasks = [Task("trunk", 100.0), Task("branch", 10.0, "trunk", 60.0), Task("c", 30.0), Task("lost", 1.0, "nobody")]
    assert play([], tasks, 2).ends == {"trunk": 100.0, "c": 30.0, "branch": 70.0}


def brute_force(running: list[int], tasks: list[Task], slots: int, until: float) -> dict[str, float]:
    """The queue, second by second."""
    ends, starts = {}, {}
    busy = list(running)  # seconds left of each slot
    closed = False
    for now in range(2000):
        busy = [left for left in busy if left > 0]
        while len(busy) < slots and not closed:
            able = [
                task
                for task in tasks
                if task.name not in starts
                and (
                    now >= task.ready_seconds
                    if task.after is None
                    else task.after in starts and now >= starts[task.after] + task.ready_seconds
                )
            ]
            if not able:
                break
            if now + able[0].seconds > until:
                closed = True
                break
            starts[able[0].name] = now
            ends[able[0].name] = now + able[0].seconds
            busy.append(able[0].seconds)
        busy = [left - 1 for left in busy]
    return ends


def test_the_queue_played_forward_agrees_with_brute_force() -> None:
    random = Random(1)
    branches = overfull = 0
    for _ in range(300):
        slots = random.randint(1, 4)
        running = [random.randint(1, 40) for _ in range(random.randint(0, slots))]
        tasks = []
        for number in range(random.randint(0, 9)):
            trunk = random.choice(tasks).name if tasks and random.random() < 0.3 else None
            ready = random.randint(1, 30) if trunk or random.random() < 0.2 else 0
            tasks.append(Task(str(number), random.choice([1, 3, 16, 50]), trunk, ready))
        random.shuffle(tasks)
        until = random.choice([math.inf, random.randint(1, 150)])
        expected = brute_force(running, tasks, slots, until)
        forecast = play(running, tasks, slots, until)
        assert forecast.ends == expected
        assert forecast.last == max([*running, *expected.values()], default=0)
        branches += sum(task.after in expected for task in tasks if task.name in expected)
        overfull += len(expected) < len(tasks)
    assert branches > 100
    assert 50 < overfull < 200


def test_lines() -> None:
    assert run_line("tst seed 1", 15, {}, 12.0, None) == "  tst seed 1       starting, 12 s so far"
    values = {
        "step": 500,
        "max_steps": 1000,
        "phase": "superposition",
        "positions_per_second": 18250.0,
        "val_loss": 1.5,
    }
    line = run_line("tst seed 1", 10, values, 12.0, 250.0)
    for part in ("step 500/1,000", "superposition", "18.2k positions/s", "val loss 1.5000", "4 min 10 s left"):
        assert part in line
    assert "trained, ending" in run_line("tst seed 1", 10, values | {"step": 1000}, 12.0, 3.0)
    assert evaluation_line("tst seed 1", 12, 70.0) == "  tst seed 1    evaluating, 1 min 10 s so far"
    assert total_line(1, 4, 2, None) == "1 of 4 runs finished, 2 waiting; no forecast yet"
    assert "about 1 h 05 min (at " in total_line(1, 4, 2, 3900.0)
    assert total_line(1, 4, 2, 3900.0, 60.0).endswith("; 1 min 00 s of the budget left")
    assert total_line(1, 4, 2, 3900.0, -60.0).endswith("; the budget is used up")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"), (3599.6, "1 h 00 min"), (7530, "2 h 06 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_terminal_the_first_forecast_comes_at_once_and_then_seldom() -> None:
    stream = io.StringIO()
    display = Display(stream)
    display.show(["starting"], forecast_known=False)
    display.show(["again"], forecast_known=False)
    display.show(["forecast"], forecast_known=True)
    display.show(["forecast again"], forecast_known=True)
    assert stream.getvalue() == "starting\nforecast\n"


def test_in_a_terminal_lines_are_overwritten() -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True
    display = Display(stream)
    display.show(["one", "two"], forecast_known=True)
    display.note("stays")
    assert stream.getvalue() == "one\ntwo\n\x1b[2F\x1b[Jstays\n"
    display.line_typed()
    display.note("nothing to take away")
    assert stream.getvalue().endswith("Jstays\nnothing to take away\n")


def test_a_line_typed_below_the_live_ones_goes_with_them() -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True
    display = Display(stream)
    display.show(["one", "two"], forecast_known=True)
    display.line_typed()
    display.note("answered")
    assert stream.getvalue() == "one\ntwo\n\x1b[3F\x1b[Janswered\n"
