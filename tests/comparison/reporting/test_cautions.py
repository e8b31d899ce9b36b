import math
from dataclasses import replace
from pathlib import Path

from synthetic_runs import make_experiment, make_lengths_experiment, write_final, write_items, write_run

from tst_lightning.comparison.analysis.collect import collect
from tst_lightning.comparison.analysis.summary import summarize_comparison
from tst_lightning.comparison.design.experiment import Experiment, run_folder
from tst_lightning.comparison.design.scoring import EvaluationSpec
from tst_lightning.comparison.reporting.cautions import cautions


def notes_of(experiment: Experiment) -> str:
    return "\n".join(cautions(experiment, summarize_comparison(experiment, collect(experiment))))


def test_runs_that_are_not_there(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1, 2, 3))
    for seed in (1, 2):
        write_run(run_folder(tmp_path, "baseline", seed), {50: 2.0, 100: 1.5}, 100)
    write_run(run_folder(tmp_path, "tst", 1), {100: 1.5, 180: 1.2}, 180)
    write_run(run_folder(tmp_path, "tst", 2), {100: 1.5}, 200, finished=False)
    run_folder(tmp_path, "tst", 3).mkdir()
    (run_folder(tmp_path, "tst", 3) / "finished.json").write_text("{")
    notes = notes_of(experiment)
    assert "not started and are left out of all tables: baseline seed 3." in notes
    assert "not finished and are left out of all tables: tst seed 2." in notes
    unreadable = "finished but not readable and are left out of all tables: "
    assert f"{unreadable}tst seed 3 (finished.json is not readable as JSON)." in notes
    assert "tst spent 1.80 times the FLOPs of baseline" in notes
    assert "Compared on one seed so far, hence without interval: tst." in notes


def test_diverged_runs(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1, 2))
    for arm, last in (("baseline", 1.5), ("tst", math.nan)):
        write_run(run_folder(tmp_path, arm, 1), {50: 2.0, 100: last}, 100)
    assert "have diverged (their last validation loss is not a finite number)" in notes_of(experiment)
    assert "left out of all means: tst seed 1." in notes_of(experiment)


def test_statistics_are_named(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path / "three", (1, 2, 3), ("baseline", "a", "b"))
    for arm in experiment.arms:
        for seed in experiment.seeds:
            write_run(run_folder(experiment.output_dir, arm, seed), {50: 2.0, 100: 1.5 + len(arm) / seed}, 100)
    notes = notes_of(experiment)
    assert "p values of the 2 comparisons of losses are corrected together (Holm)" in notes
    assert "±" in notes
    assert "All seeds share" not in notes
    assert "All seeds share the initial weights" in notes_of(replace(experiment, vary="data_order"))
    assert "All seeds share the order of the data" in notes_of(replace(experiment, vary="initialisation"))
    one = make_experiment(tmp_path / "one", (1,))
    assert notes_of(one).count("One seed: numbers have no intervals") == 1


def test_branches_and_dropped_arms(tmp_path: Path) -> None:
    experiment = make_lengths_experiment(tmp_path, (100, 200), branch=("baseline",), seeds=(1, 2))
    for arm in ("baseline-100", "baseline-200"):
        write_final(experiment, arm, 1, 2.0)
    text = '{"decisions": [{"steps": 100, "dropped_arms": ["tst-200"], "dropped_references": []}]}'
    (tmp_path / "halving.json").write_text(text)
    notes = notes_of(experiment)
    assert "trained from where their own decay begins: baseline-100." in notes
    assert "Left out by halving: tst-200 (not run: dropped by successive halving after 100 steps)." in notes
    assert "tst-200 seed" not in notes
    assert "trained from" not in notes_of(make_lengths_experiment(tmp_path / "plain", (100, 200)))


def test_scores_that_are_not_compared(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1,))
    for arm, items in {"baseline": 40, "tst": 30}.items():
        folder = run_folder(tmp_path, arm, 1)
        write_run(folder, {50: 2.0, 100: 1.5}, 100)
        write_items(folder / "evaluation" / "step=100", {"piqa": {"acc": [1.0] * items}})
    assert "piqa: not compared, 30 items against 40 (tst against baseline)." in notes_of(experiment)


def test_runs_without_scores(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1, 2))
    for arm in experiment.arms:
        for seed in experiment.seeds:
            accuracy = 0.3 if (arm, seed) == ("tst", 1) else None
            write_run(run_folder(tmp_path, arm, seed), {50: 2.0, 100: 1.5}, 100, accuracy=accuracy)
    assert "Without downstream scores so far: tst seed 2." in notes_of(experiment)
    experiment = replace(experiment, evaluation=EvaluationSpec(["piqa"], arms=["base*"]))
    assert "so far: baseline seed 1, baseline seed 2, tst seed 2." in notes_of(experiment)


def test_scores_of_unfinished_models_are_named(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1, 2))
    for arm in experiment.arms:
        for seed in experiment.seeds:
            write_run(run_folder(tmp_path, arm, seed), {50: 2.0, 100: 1.5}, 100, accuracy=0.3)
    folder = run_folder(tmp_path, "tst", 2) / "evaluation"
    (folder / "step=100").rename(folder / "step=50")
    notes = notes_of(experiment)
    assert "Evaluated before the end of training, and in no score: tst seed 2 (step 50 of 100)." in notes
    assert "Without downstream scores" not in notes


def test_runs_that_the_experiment_no_longer_has(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_run(run_folder(tmp_path, "tst", seed), {50: 2.0, 100: 1.5}, 100)
    write_run(run_folder(tmp_path, "old", 1), {50: 2.0, 100: 1.5}, 100)
    text = "On disk but not in the experiment, and left out: old seed 1, tst seed 3."
    assert text in notes_of(make_experiment(tmp_path, (1, 2)))
    assert "On disk" not in notes_of(make_experiment(tmp_path, (1, 2, 3), ("tst", "old")))


def test_pairs_that_read_the_text_in_another_order(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1,), ("baseline", "same", "other"))
    for arm in experiment.arms:
        data = {"rows_per_group": 8 if arm == "other" else 4, "packing": "stream"}
        write_run(run_folder(tmp_path, arm, 1), {50: 2.0, 100: 1.5}, 100, data=data)
    notes = [note for note in notes_of(experiment).splitlines() if "same order" in note]
    assert notes == [
        "These do not read the text in the same order (data.rows_per_group: 8 against 4), so a seed's runs have less "
        "in common: other against baseline."
    ]


def test_long_lists_are_counted(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, tuple(range(40)))
    (line,) = (line for line in notes_of(experiment).splitlines() if "not started" in line)
    assert line.endswith(" and 56 more.")
    assert line.count(" seed ") == 24
