import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_runs import make_experiment, make_lengths_experiment, write_final, write_items, write_run

from tst_lightning.comparison.analysis.collect import collect
from tst_lightning.comparison.analysis.summary import summarize_comparison
from tst_lightning.comparison.design.experiment import Experiment, run_folder
from tst_lightning.comparison.reporting.report_values import report_json


def values_of(experiment: Experiment) -> dict:
    results = collect(experiment)
    text = report_json(experiment, summarize_comparison(experiment, results), results)
    assert "NaN" not in text
    assert "Infinity" not in text
    return json.loads(text)


def test_what_has_become_of_every_run(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1, 2, 3))
    write_run(run_folder(tmp_path, "baseline", 1), {50: 2.0, 100: 1.5}, 100)
    write_run(run_folder(tmp_path, "baseline", 2), {50: 2.0}, 100, finished=False)
    write_run(run_folder(tmp_path, "tst", 1), {50: 2.0, 100: math.nan}, 100)
    write_run(run_folder(tmp_path, "tst", 2), {50: 2.0, 100: 1.5}, 100)
    (run_folder(tmp_path, "tst", 2) / "finished.json").write_bytes(b"\x00\xff")
    assert values_of(experiment)["statuses"] == {
        "baseline": {"1": "finished", "2": "unfinished", "3": "missing"},
        "tst": {"1": "diverged", "2": "unreadable: finished.json is not readable as JSON", "3": "missing"},
    }


def test_arms_dropped_by_halving_say_so(tmp_path: Path) -> None:
    experiment = make_lengths_experiment(tmp_path, (100, 200), seeds=(1,))
    decision = {"steps": 100, "dropped_arms": ["tst-200"], "dropped_references": []}
    (tmp_path / "halving.json").write_text(json.dumps({"decisions": [decision]}))
    assert values_of(experiment)["statuses"]["tst-200"]["1"].startswith(
        "dropped: not run: dropped by successive halving"
    )


def test_tests_over_items_without_the_items(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1,))
    for arm, right in {"baseline": 40, "tst": 90}.items():
        folder = run_folder(tmp_path, arm, 1)
        write_run(folder, {50: 2.0, 100: 1.5}, 100)
        write_items(folder / "evaluation" / "step=100", {"piqa": {"acc": [1.0] * right + [0.0] * (100 - right)}})
    values = values_of(experiment)
    (pair,) = values["pairs"]
    assert pair["sentence"].endswith("of these models, not of the method).")
    (score,) = pair["scores"]
    test = score["over_items"]
    assert (test["test"], test["items"], test["gained"], test["lost"]) == ("McNemar exact", 100, 50, 0)
    assert test["p_holm"] == test["p_value"] == pytest.approx(2 * 0.5**50)
    assert score["is_shown"]
    run = next(run for run in values["runs"] if run["arm"] == "tst")
    assert run["folder"] == "runs/tst/seed_1"
    (file,) = run["results_files"]
    assert file["path"].startswith("runs/tst/seed_1/evaluation/step=100/results_")
    assert file["tasks"] == ["piqa"]
    assert "doc_hash" not in json.dumps(values)


def test_frontiers_and_what_follows(tmp_path: Path) -> None:
    experiment = make_lengths_experiment(tmp_path, (100, 200), branch=("baseline",), seeds=(1, 2))
    for name, arm in experiment.arms.items():
        for seed in experiment.seeds:
            write_final(experiment, name, seed, (2 + seed) * arm.steps**-0.1 * (0.95 if arm.method == "tst" else 1))
    values = values_of(experiment)
    assert [frontier["kind"] for frontier in values["frontiers"]] == ["branches of one trunk", "one run per length"]
    assert values["frontiers"][0]["points"][0]["steps"] == 100
    assert len(values["speed_ups"]) == 4
    assert values["overtakings"][0]["from_start"]
    assert values["arms"]["baseline-100"]["costs"]["wall_seconds"] is None
    assert values["pairs"][0]["budget"] == "equal FLOPs and data"
    assert values["experiment"]["arms"]["baseline-100"]["trunk"] == "baseline-200"


def test_the_verdict_is_that_of_an_experiment_that_was_moved(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path / "old", (1,))
    for arm in experiment.arms:
        write_run(run_folder(experiment.output_dir, arm, 1), {50: 2.0, 100: 1.5 + len(arm)}, 100)
    before = values_of(experiment)
    (tmp_path / "old").rename(tmp_path / "new")
    after = values_of(replace(experiment, output_dir=tmp_path / "new"))
    assert after["verdict"] == before["verdict"]
    assert [run["folder"] for run in after["runs"]] == [run["folder"] for run in before["runs"]]
