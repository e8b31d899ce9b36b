import json
import math
from pathlib import Path

import pytest
from synthetic_runs import (
    make_experiment,
    make_lengths_experiment,
    validation_points,
    write_events,
    write_final,
    write_run,
)

from tst_lightning.comparison.analysis.collect import (
    collect,
    read_curve,
    read_run,
    read_scalars,
)
from tst_lightning.comparison.analysis.summary import summarize_comparison
from tst_lightning.comparison.design.experiment import run_folder

JUNK = (b"", b"{", b"\x00\xff\xfe\x80" * 50, b"[1, 2]", b"null", b'"text"')


def test_curve_holds_what_was_spent_at_each_validation(tmp_path: Path) -> None:
    write_events(tmp_path, validation_points({100: 3.0, 200: 2.0}, bag_size=4, switch=150))
    curve = read_curve(tmp_path)
    assert curve.steps == [100, 200]
    assert curve.val_loss == [3.0, 2.0]
    assert curve.positions == [409_600, 819_200]
    assert curve.data_tokens == [4 * 409_600, 819_200 + 3 * 150 * 4096]
    assert curve.seconds == [20.0, 40.0]
    assert curve.flops == pytest.approx([409_600 * 6e6, 819_200 * 6e6], rel=1e-6)


def test_a_resumed_attempt_replaces_what_it_repeats(tmp_path: Path) -> None:
    write_events(tmp_path, validation_points({100: 3.0, 200: 2.5, 300: 9.0, 400: 9.0}), start_time=2000.0)
    write_events(tmp_path, [("hp_metric", 0, -1.0), *validation_points({300: 2.0})], start_time=10_000.0)
    curve = read_curve(tmp_path)
    # Step 400 belongs to the attempt that was cut off, and the second has not come there yet.
    assert (curve.steps, curve.val_loss) == ([100, 200, 300], [3.0, 2.5, 2.0])


def test_within_an_attempt_the_last_value_of_a_step_wins(tmp_path: Path) -> None:
    write_events(tmp_path, [("val/loss", 100, 3.0), ("val/loss", 100, 2.0)])
    assert read_scalars(tmp_path, ["val/loss", "other"]) == {"val/loss": {100: 2.0}, "other": {}}


def test_more_events_than_tensorboard_shows_are_all_read(tmp_path: Path) -> None:
    write_events(tmp_path, [("val/loss", step, 1.0) for step in range(15_000)])
    assert len(read_scalars(tmp_path, ["val/loss"])["val/loss"]) == 15_000


def test_a_cut_off_event_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    write_events(tmp_path, validation_points({100: 3.0, 200: 2.0}))
    (path,) = tmp_path.glob("events*")
    path.write_bytes(path.read_bytes()[:-7])
    assert read_curve(tmp_path).val_loss == [3.0, 2.0]


def test_status_of_runs(tmp_path: Path) -> None:
    assert read_run("a", 1, tmp_path / "none").status == "missing"
    write_run(tmp_path / "half", {50: 2.0}, max_steps=100, finished=False)
    half = read_run("a", 1, tmp_path / "half")
    assert (half.status, half.final_loss, half.curve.val_loss) == ("unfinished", None, [2.0])
    write_run(tmp_path / "whole", {50: 2.0, 100: 1.5}, max_steps=100)
    whole = read_run("a", 1, tmp_path / "whole")
    assert (whole.status, whole.final_loss) == ("finished", 1.5)
    assert whole.progress["flops"] == 100 * 4096 * 6_000_000
    assert whole.config.startswith("trainer:")


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize(
    "name",
    ["finished.json", "progress.json", "config.yaml", "command.txt", "events", "evaluation/step=100/results_x.json"],
)
def test_a_half_written_file_makes_no_error_and_is_no_result(tmp_path: Path, name: str, junk: bytes) -> None:
    experiment = make_experiment(tmp_path, (1, 2))
    for seed in experiment.seeds:
        for arm in experiment.arms:
            write_run(run_folder(tmp_path, arm, seed), {50: 2.0, 100: 1.5}, 100, accuracy=0.3)
    folder = run_folder(tmp_path, "tst", 2)
    path = next(folder.glob("events*")) if name == "events" else folder / name
    path.write_bytes(junk)
    runs = collect(experiment)
    statuses = {(run.arm, run.seed): run.status for run in runs}
    unreadable = name in ("finished.json", "events")
    assert statuses.pop(("tst", 2)) == ("unreadable" if unreadable else "finished")
    assert set(statuses.values()) == {"finished"}
    summary = summarize_comparison(experiment, runs)
    assert list(summary.arms["tst"].final_by_seed) == ([1] if unreadable else [1, 2])
    if unreadable:
        assert next(run for run in runs if (run.arm, run.seed) == ("tst", 2)).note


def test_values_of_the_wrong_kind_are_not_counted_with(tmp_path: Path) -> None:
    write_run(tmp_path, {100: 1.5}, 100)
    progress = json.loads((tmp_path / "progress.json").read_text())
    (tmp_path / "progress.json").write_text(json.dumps(progress | {"flops": "many", "positions": [1], "phase": "x"}))
    run = read_run("a", 1, tmp_path)
    assert (run.progress["phase"], run.progress["data_tokens"]) == ("x", progress["data_tokens"])
    assert not {"flops", "positions"} & run.progress.keys()


def test_a_run_that_has_begun_without_validation_is_unfinished(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text("")
    assert read_run("a", 1, tmp_path).status == "unfinished"


@pytest.mark.parametrize("last", [math.nan, math.inf])
def test_diverged_is_what_ends_without_a_number(tmp_path: Path, last: float) -> None:
    write_run(tmp_path / "whole", {50: 2.0, 100: last}, 100)
    write_run(tmp_path / "half", {50: 2.0, 60: last}, 100, finished=False)
    write_run(tmp_path / "healed", {50: last, 100: 2.0}, 100)
    assert read_run("a", 1, tmp_path / "whole").diverged
    assert read_run("a", 1, tmp_path / "half").diverged
    assert not read_run("a", 1, tmp_path / "healed").diverged
    assert not read_run("a", 1, tmp_path / "nothing").diverged


def test_a_branch_has_its_trunks_curve_up_to_the_branch(tmp_path: Path) -> None:
    experiment = make_lengths_experiment(tmp_path, (100, 1000), branch=("baseline",), seeds=(1, 2))
    write_run(run_folder(tmp_path, "baseline-1000", 1), {50: 3.0, 80: 2.9, 95: 2.8, 500: 2.0, 1000: 1.0}, 1000)
    for seed in (1, 2):
        write_run(run_folder(tmp_path, "baseline-100", seed), {96: 2.7, 100: 2.6}, 100)
    runs = {(run.arm, run.seed): run for run in collect(experiment)}
    curve = runs["baseline-100", 1].curve
    # It branches off at step 90; the trunk's validation at step 95 is not its own.
    assert (curve.steps, curve.val_loss) == ([50, 80, 96, 100], pytest.approx([3.0, 2.9, 2.7, 2.6]))
    assert curve.positions == [4096.0 * step for step in curve.steps]
    assert runs["baseline-100", 2].curve.steps == [96, 100]
    assert (runs["baseline-1000", 2].status, runs["baseline-1000", 2].curve.steps) == ("missing", [])
    assert runs["baseline-100", 1].final_loss == pytest.approx(2.6)


def test_arms_that_halving_has_dropped(tmp_path: Path) -> None:
    experiment = make_lengths_experiment(tmp_path, (100, 200), seeds=(1,))
    decision = {"steps": 100, "dropped_arms": ["tst-200", "tst-100"], "dropped_references": []}
    (tmp_path / "halving.json").write_text(json.dumps({"decisions": [decision]}))
    write_final(experiment, "tst-100", 1, 2.0)
    runs = {run.arm: run for run in collect(experiment)}
    assert {arm: run.status for arm, run in runs.items()} == {
        "baseline-200": "missing", "baseline-100": "missing", "tst-200": "dropped", "tst-100": "finished",
    }  # fmt: skip
    assert "successive halving after 100 steps" in runs["tst-200"].note
    (tmp_path / "halving.json").write_text('{"decisions": [{"steps": 1}]}')
    assert {run.status for run in collect(experiment)} == {"missing", "finished"}


def test_a_finished_run_whose_last_events_are_lost_is_in_no_mean(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1, 2))
    for arm in experiment.arms:
        for seed in experiment.seeds:
            last = 3200 if (arm, seed) == ("tst", 2) else 4000
            write_run(run_folder(tmp_path, arm, seed), {1600: 2.0, last: 1.5}, 4000)
    runs = {(run.arm, run.seed): run for run in collect(experiment)}
    lost = runs.pop(("tst", 2))
    assert (lost.status, lost.note) == ("unreadable", "last validation at 3,200 of 4,000")
    assert {run.status for run in runs.values()} == {"finished"}
    assert list(summarize_comparison(experiment, [*runs.values(), lost]).arms["tst"].final_by_seed) == [1]
