import json
from pathlib import Path

import pytest
from synthetic_runs import validation_points, write_events, write_run, write_scores

from tst_lightning.comparison.collect import read_curve, read_run, read_scalars, read_scores


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


def test_scores_come_from_the_last_evaluated_step_and_its_newest_file(tmp_path: Path) -> None:
    write_scores(tmp_path / "step=900", 0.5)
    write_scores(tmp_path / "step=1000", 0.3)
    newer = {"results": {"t": {"alias": "t", "acc,none": 0.75, "acc_stderr,none": "N/A", "acc,strict": 0.5}}}
    (tmp_path / "step=1000" / "results_2026-02-01T00-00-00.000000.json").write_text(json.dumps(newer))
    step, scores = read_scores(tmp_path)
    assert step == 1000
    assert [(score.metric, score.value, score.stderr) for score in scores] == [
        ("acc", 0.75, None),
        ("acc (strict)", 0.5, None),
    ]


def test_scores_know_groups_items_and_direction(tmp_path: Path) -> None:
    write_scores(tmp_path / "step=10", 0.3)
    _, scores = read_scores(tmp_path)
    by_key = {(score.task, score.metric): score for score in scores}
    choice = by_key["heldout_continuation", "acc"]
    assert (choice.value, choice.stderr, choice.items, choice.in_group) == (0.3, 0.02, 400, False)
    assert not by_key["heldout_last_word", "perplexity"].higher_is_better
    assert by_key["heldout_last_word", "acc"].higher_is_better
    assert [score.task for score in scores if score.in_group] == ["blimp_a", "blimp_b"]
    assert read_scores(tmp_path / "nowhere") == (None, ())
