import io
import json
import os
from pathlib import Path

import pytest

from tst_lightning.comparison.display import Display, duration, run_line, total_line
from tst_lightning.comparison.forecast import Tracker, forecast_seconds


def write_progress(folder: Path, written: float, **values: object) -> None:
    path = folder / "progress.json"
    path.write_text(json.dumps({"max_steps": 1000, "train_seconds": 0.0, **values}))
    os.utime(path, (written, written))


def test_time_left_follows_the_pace_of_this_attempt(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, started_time=100.0)
    assert tracker.remaining_seconds is None
    write_progress(tmp_path, 110.0, step=400, train_seconds=800.0)
    tracker.refresh()
    assert tracker.remaining_seconds == pytest.approx(600 * 2.0)  # one sample: the mean over all attempts
    assert tracker.whole_seconds == pytest.approx(2000.0)
    write_progress(tmp_path, 130.0, step=440)
    tracker.refresh()
    assert tracker.remaining_seconds == pytest.approx(560 * 0.5)
    write_progress(tmp_path, 140.0, step=1000)
    tracker.refresh()
    assert tracker.remaining_seconds == 0


def test_the_slow_first_steps_are_no_pace(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, started_time=100.0)
    write_progress(tmp_path, 110.0, step=1, train_seconds=8.0)
    tracker.refresh()
    assert tracker.remaining_seconds is None


def test_old_pace_is_forgotten(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, started_time=0.0)
    for written, step in [(10, 0), (20, 100), (1000, 200), (1010, 300)]:
        write_progress(tmp_path, written, step=step)
        tracker.refresh()
    assert tracker.remaining_seconds == pytest.approx(700 * 0.1)


def test_progress_of_an_earlier_attempt_does_not_count(tmp_path: Path) -> None:
    write_progress(tmp_path, 99.0, step=400)
    tracker = Tracker(tmp_path, started_time=100.0)
    tracker.refresh()
    assert tracker.values == {}
    (tmp_path / "progress.json").write_text("{")
    tracker.refresh()
    assert tracker.values == {}


def test_forecast_plays_the_queue_forward() -> None:
    # Two slots free at 10 and 30; three more runs of 100: 10-110, 30-130, 110-210.
    assert forecast_seconds([10.0, 30.0], waiting=3, slots=2, run_seconds=[50.0, 150.0]) == 210.0
    assert forecast_seconds([10.0, 30.0], waiting=0, slots=2, run_seconds=[]) == 30.0
    assert forecast_seconds([10.0], waiting=1, slots=2, run_seconds=[100.0]) == 100.0
    assert forecast_seconds([10.0, None], waiting=0, slots=2, run_seconds=[]) == 10.0
    assert forecast_seconds([None], waiting=0, slots=1, run_seconds=[]) is None
    assert forecast_seconds([5.0], waiting=1, slots=1, run_seconds=[]) is None
    assert forecast_seconds([], waiting=0, slots=2, run_seconds=[]) == 0.0


def test_lines(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, started_time=0.0)
    assert run_line("tst seed 1", 15, tracker, 12.0) == "  tst seed 1       starting, 12 s so far"
    write_progress(
        tmp_path, 1.0, step=500, train_seconds=250.0, phase="superposition", positions_per_second=18250.0, val_loss=1.5
    )
    tracker.refresh()
    line = run_line("tst seed 1", 10, tracker, 12.0)
    for part in ("step 500/1,000", "superposition", "18.2k positions/s", "val loss 1.5000", "4 min 10 s left"):
        assert part in line
    write_progress(tmp_path, 2.0, step=1000)
    tracker.refresh()
    assert "trained, evaluating" in run_line("tst seed 1", 10, tracker, 12.0)
    assert total_line(1, 4, 2, None) == "1 of 4 runs finished, 2 waiting; no forecast yet"
    assert "about 1 h 05 min (at " in total_line(1, 4, 2, 3900.0)


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
