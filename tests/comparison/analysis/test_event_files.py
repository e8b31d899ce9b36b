import time
from pathlib import Path

import pytest
from synthetic_runs import validation_points, write_events
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from tst_lightning.comparison.analysis.event_files import scalar_events


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("events*")
    return path


def test_values_are_those_that_tensorboard_reads(tmp_path: Path) -> None:
    write_events(tmp_path, [("other", 1, 5.0), *validation_points({100: 3.0, 200: float("nan"), 300: float("inf")})])
    reference = EventAccumulator(str(only_file(tmp_path)), size_guidance={SCALARS: 0})
    reference.Reload()
    tags = {"val/loss", "progress/flops", "absent"}
    found = list(scalar_events(only_file(tmp_path), tags))
    for tag in ("val/loss", "progress/flops"):
        expected = [(point.step, point.value, point.wall_time) for point in reference.Scalars(tag)]
        ours = [(step, value, wall_time) for name, step, value, wall_time in found if name == tag]
        assert repr(ours) == repr(expected)
    assert {name for name, *_ in found} == {"val/loss", "progress/flops"}


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_file_that_is_cut_off_is_read_up_to_there(tmp_path: Path, cut: int) -> None:
    write_events(tmp_path, [("val/loss", step, step / 10) for step in (1, 2, 3)])
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    found = [step for _, step, _, _ in scalar_events(path, {"val/loss"})]
    assert found == [1, 2, 3][: len(found)]
    assert len(found) >= 1


@pytest.mark.parametrize("junk", [b"", b"\x00", b"\xff" * 500, bytes(range(256)) * 40, b"\x00" * 5000])
def test_junk_holds_nothing(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "events.out.tfevents.1.x"
    path.write_bytes(junk)
    assert list(scalar_events(path, {"val/loss"})) == []
    assert list(scalar_events(tmp_path / "absent", {"val/loss"})) == []
    # After whole records, junk ends the file.
    write_events(tmp_path / "run", [("val/loss", 1, 2.0)])
    run = only_file(tmp_path / "run")
    run.write_bytes(run.read_bytes() + junk)
    assert [value for _, _, value, _ in scalar_events(run, {"val/loss"})] == [2.0]


def test_a_long_run_is_read_quickly(tmp_path: Path) -> None:
    points = [
        (tag, step, 1.0) for step in range(4000) for tag in ("train/loss", "train/rate", "progress/flops", "epoch")
    ]
    write_events(tmp_path, [*points, ("val/loss", 4000, 1.0)])
    started = time.process_time()
    assert len(list(scalar_events(only_file(tmp_path), {"val/loss"}))) == 1
    assert time.process_time() - started < 0.5
