import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from synthetic_runs import (
    FLOPS_PER_POSITION,
    POSITIONS_PER_STEP,
    make_experiment,
    make_lengths_experiment,
    write_final,
    write_items,
    write_run,
)

from tst_lightning.comparison.analysis.collect import collect
from tst_lightning.comparison.analysis.item_tests import ItemTest
from tst_lightning.comparison.analysis.pair_summary import budget
from tst_lightning.comparison.analysis.score_pairs import ScoreDifference
from tst_lightning.comparison.analysis.statistics import PairedDifference
from tst_lightning.comparison.analysis.summary import ComparisonSummary, summarize_comparison
from tst_lightning.comparison.design.experiment import Experiment, run_folder


def summary_of(experiment: Experiment) -> ComparisonSummary:
    return summarize_comparison(experiment, collect(experiment))


def write_ends(experiment: Experiment, **finals: tuple[float, ...]) -> None:
    """Short finished runs of each arm with these final losses, seed by seed."""
    for arm, losses in finals.items():
        for seed, loss in zip(experiment.seeds, losses, strict=False):
            write_run(run_folder(experiment.output_dir, arm, seed), {50: 4.0, 100: loss}, 100)


def test_pairs_are_corrected_together(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1, 2, 3, 4), ("baseline", "a", "b", "c"))
    base = np.array([1.50, 1.60, 1.70, 1.65])
    offsets = {"a": [0.10, 0.11, 0.10, 0.12], "b": [-0.01, -0.005, -0.02, -0.012], "c": [0.1, -0.1, 0.02, 0.0]}
    write_ends(experiment, baseline=tuple(base), **{arm: tuple(base + offset) for arm, offset in offsets.items()})
    pairs = {pair.arm: pair for pair in summary_of(experiment).pairs}
    p_values = {arm: stats.ttest_1samp(offset, 0).pvalue for arm, offset in offsets.items()}
    order = sorted(p_values, key=p_values.get)
    assert order == ["a", "b", "c"]
    for arm in order:
        assert pairs[arm].difference.p_value == pytest.approx(p_values[arm], rel=1e-3)
    assert pairs["a"].difference.p_holm == pytest.approx(3 * p_values["a"], rel=1e-3)
    assert pairs["b"].difference.p_holm == pytest.approx(2 * p_values["b"], rel=1e-3)
    assert pairs["a"].difference.is_shown
    # Alone it would be: 0.05 lies between p and 2 p.
    assert p_values["b"] < 0.05 < 2 * p_values["b"]
    assert not pairs["b"].difference.is_shown


def test_diverged_runs_are_named_and_in_no_mean(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1, 2, 3))
    write_ends(experiment, baseline=(1.5, 1.6, 1.7), tst=(1.4, math.nan, 1.5))
    summary = summary_of(experiment)
    arm, (pair,) = summary.arms["tst"], summary.pairs
    assert (arm.diverged, summary.arms["baseline"].diverged) == ((2,), ())
    assert arm.final_by_seed == pytest.approx({1: 1.4, 3: 1.5})
    assert (arm.final.n, arm.final.mean) == (2, pytest.approx(1.45))
    assert (len(arm.finished), len(arm.averaged)) == (3, 2)
    assert pair.difference.by_seed == pytest.approx({1: -0.1, 3: -0.2})
    assert np.isfinite(arm.mean_curve("flops")[1]).all()
    assert arm.bits_per_byte.n == 2
    write_ends(experiment, tst=(math.inf, math.nan, math.inf))
    summary = summary_of(experiment)
    assert (summary.arms["tst"].final, summary.pairs[0].difference, summary.arms["tst"].diverged) == (
        None,
        None,
        (1, 2, 3),
    )
    assert summary.pairs[0].crosses_at_step is None


def test_budgets() -> None:
    reference = {"flops": 1000.0, "data_tokens": 500.0}
    assert budget({"flops": 1004.0, "data_tokens": 900.0}, reference) == "equal FLOPs"
    assert budget({"flops": 1900.0, "data_tokens": 498.0}, reference) == "equal data"
    assert budget({"flops": 999.0, "data_tokens": 501.0}, reference) == "equal FLOPs and data"
    assert budget({"flops": 1900.0, "data_tokens": 900.0}, reference) == "1.90 times the FLOPs"
    assert budget({"flops": None, "data_tokens": 900.0}, reference) == "unknown budget"


def test_budget_and_crossing_of_measured_runs(tmp_path: Path) -> None:
    experiment = make_lengths_experiment(tmp_path, (100, 190), seeds=(1,))
    arms = dict(experiment.arms)
    arms["tst-100"] = replace(arms["tst-100"], references=("baseline-100", "baseline-190"))
    experiment = replace(experiment, arms=arms)
    write_run(run_folder(tmp_path, "baseline-100", 1), {50: 3.0, 100: 2.0}, 100)
    write_run(run_folder(tmp_path, "baseline-190", 1), {50: 3.0, 190: 1.8}, 190)
    write_run(run_folder(tmp_path, "tst-100", 1), {50: 3.5, 100: 1.9}, 100, bag_size=4, switch=30)
    pairs = {(pair.arm, pair.reference): pair for pair in summary_of(experiment).pairs}
    same, more = pairs["tst-100", "baseline-100"], pairs["tst-100", "baseline-190"]
    assert (same.budget, more.budget) == ("equal FLOPs", "equal data")
    assert same.crosses_at_step.x == pytest.approx(50 + 50 * 0.5 / 0.6)
    assert same.crosses_at_flops.x == pytest.approx(same.crosses_at_step.x * POSITIONS_PER_STEP * FLOPS_PER_POSITION)
    # A finished run is not set against one on its way.
    assert (more.crosses_at_step, more.crosses_at_flops) == (None, None)
    assert more.difference.mean == pytest.approx(0.1)
    assert (same.curves_not_compared, more.curves_not_compared) == ("", "runs of different lengths")


def test_what_is_not_comparable_is_not_compared(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1, 2), ("baseline", "other_text", "other_shape"))
    for arm in experiment.arms:
        for seed in experiment.seeds:
            data = {"data_dir": "data/b" if arm == "other_text" else "data/a"}
            folder = run_folder(tmp_path, arm, seed)
            write_run(folder, {50: 2.0, 100: 1.5}, 100, accuracy=0.3 + seed / 100, data=data)
            if arm == "other_shape":
                (folder / "config.yaml").write_text("model: {config: {hidden_size: 128}}\n")
            elif arm == "baseline":
                text = (folder / "config.yaml").read_text()
                (folder / "config.yaml").write_text(text + "model: {config: {hidden_size: 64}}\n")
    pairs = {pair.arm: pair for pair in summary_of(experiment).pairs}
    assert pairs["other_text"].not_compared == "data.data_dir: data/b against data/a"
    assert pairs["other_shape"].not_compared == "model.config.hidden_size: 128 against 64"
    for pair in pairs.values():
        assert (pair.difference, pair.crosses_at_step) == (None, None)
    # Questions are the same whatever was validated on; another model is another model.
    assert pairs["other_text"].scores
    assert pairs["other_shape"].scores == ()


def test_branches_cost_what_a_run_alone_costs(tmp_path: Path) -> None:
    experiment = make_lengths_experiment(tmp_path, (100, 1000), branch=("baseline",), seeds=(1,))
    for arm in experiment.arms:
        write_final(experiment, arm, 1, 2.0)
    costs = summary_of(experiment).arms["baseline-100"].costs
    assert costs["flops"] == 100 * POSITIONS_PER_STEP * FLOPS_PER_POSITION
    assert costs["train_seconds"] == pytest.approx(20.0)
    assert costs["wall_seconds"] is None
    assert summary_of(experiment).arms["tst-100"].costs["wall_seconds"] is not None


def test_of_each_length_the_baseline_comes_first(tmp_path: Path) -> None:
    experiment = make_lengths_experiment(tmp_path, (100, 200), ("baseline", "tst"))
    arms = dict(reversed(experiment.arms.items()))
    names = list(summary_of(replace(experiment, arms=arms)).arms)
    assert names == ["baseline-100", "tst-100", "baseline-200", "tst-200"]


def answers(seed: int, share: float, items: int = 400) -> list[float]:
    return (np.random.default_rng(seed).random(items) < share).astype(float).tolist()


def evaluated(folder: Path, seeds: tuple[int, ...], shares: dict[str, float], **sizes: int) -> ComparisonSummary:
    """Runs with logs of items: arm -> share of right answers. All models answer with the same luck."""
    experiment = make_experiment(folder, seeds, tuple(shares))
    for arm, share in shares.items():
        for seed in seeds:
            run = run_folder(folder, arm, seed)
            write_run(run, {50: 2.0, 100: 1.5}, 100)
            write_items(run / "evaluation" / "step=100", {"t": {"acc": answers(seed, share, sizes.get(arm, 400))}})
    return summary_of(experiment)


def test_scores_of_one_seed_are_tested_over_items_and_corrected(tmp_path: Path) -> None:
    summary = evaluated(tmp_path, (1,), {"baseline": 0.5, "better": 0.56, "same": 0.505})
    scores = {pair.arm: pair.scores[0] for pair in summary.pairs}
    better, same = scores["better"], scores["same"]
    assert (better.over_items.test, better.over_seeds.n, better.over_seeds.p_value) == ("McNemar exact", 1, None)
    assert better.over_items.p_holm == pytest.approx(2 * better.over_items.p_value)
    assert (better.is_shown, same.is_shown) == (True, False)


def test_scores_of_items_that_differ_are_not_compared(tmp_path: Path) -> None:
    (pair,) = evaluated(tmp_path, (1, 2), {"baseline": 0.5, "part": 0.9}, part=100).pairs
    (score,) = pair.scores
    assert score.note == "not compared, 100 items against 400"
    assert (score.over_seeds, score.over_items, score.is_shown) == (None, None, False)


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("config", {"precision": "bf16"}, "not compared, precision of the evaluation is bf16 against 32"),
        ("config", {"max_length": 9}, "not compared, max_length of the evaluation is 9 against 256"),
        ("versions", {"t": 2}, "not compared, version of t of the evaluation is 2 against 1"),
        ("versions", {"other": 2}, ""),
        ("config", {"device": "cuda"}, ""),
    ],
)
def test_scores_of_other_evaluations_are_not_compared(tmp_path: Path, key: str, values: dict, expected: str) -> None:
    evaluated(tmp_path, (1,), {"baseline": 0.5, "tst": 0.9})
    for arm in ("baseline", "tst"):
        path = next(run_folder(tmp_path, arm, 1).rglob("results_*"))
        results = json.loads(path.read_text())
        results |= {"config": {"precision": "32", "max_length": 256}, "versions": {"t": 1, "other": 1}}
        if arm == "tst":
            results[key] |= values
        path.write_text(json.dumps(results))
    assert summary_of(Experiment.load(tmp_path)).pairs[0].scores[0].note == expected


def test_scores_from_before_the_end_are_in_no_mean(tmp_path: Path) -> None:
    evaluated(tmp_path, (1,), {"baseline": 0.5, "early": 0.9})
    folder = run_folder(tmp_path, "early", 1) / "evaluation"
    (folder / "step=100").rename(folder / "step=50")
    summary = summary_of(Experiment.load(tmp_path))
    assert (summary.arms["early"].scores, summary.pairs[0].scores) == ((), ())
    assert summary.arms["baseline"].scores


def test_settings_of_all_seeds_are_compared(tmp_path: Path) -> None:
    evaluated(tmp_path, (1, 2), {"baseline": 0.5, "tst": 0.9})
    for arm in ("baseline", "tst"):
        for seed in (1, 2):
            path = next(run_folder(tmp_path, arm, seed).rglob("results_*"))
            precision = "bf16" if (arm, seed) == ("tst", 2) else "32"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"config": {"precision": precision}}))
    (score,) = summary_of(Experiment.load(tmp_path)).pairs[0].scores
    assert score.note == "not compared, precision of the evaluation is 32 or bf16 against 32"


def test_items_are_tested_from_the_folder_of_the_tasks_results(tmp_path: Path) -> None:
    """Two evaluations of every run: of `t` while training, of `u` by `compare`."""
    summary = evaluated(tmp_path, (1,), {"baseline": 0.5, "tst": 0.6})
    before = summary.pairs[0].scores[0]
    for arm, share in {"baseline": 0.3, "tst": 0.7}.items():
        folder = run_folder(tmp_path, arm, 1) / "evaluation" / "compare" / "step=100"
        write_items(folder, {"u": {"acc": answers(5, share, 60)}})
    scores = {score.task: score for score in summary_of(Experiment.load(tmp_path)).pairs[0].scores}
    assert scores["t"].over_items == before.over_items
    assert (scores["u"].over_items.items, scores["u"].over_items.test) == (60, "McNemar exact")


def test_a_seed_on_its_way_does_not_cut_the_mean_curve(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1, 2, 3))
    for seed in (1, 2):
        write_run(run_folder(tmp_path, "tst", seed), {50: 2.0, 100: 1.0 + seed}, 100)
    write_run(run_folder(tmp_path, "tst", 3), {50: 2.0}, 100, finished=False)
    arm = summary_of(experiment).arms["tst"]
    _, losses = arm.mean_curve("flops")
    assert losses.tolist() == pytest.approx([2.0, 2.5])
    assert [run.seed for run in arm.drawn] == [1, 2]
    only = replace(arm, runs=arm.runs[2:])
    assert [run.seed for run in only.drawn] == [3]
    assert only.mean_curve("flops")[1].tolist() == [2.0]


def test_a_seed_without_logs_leaves_the_test_over_seeds(tmp_path: Path) -> None:
    evaluated(tmp_path, (1, 2, 3), {"baseline": 0.5, "better": 0.7})
    for path in run_folder(tmp_path, "better", 2).rglob("samples_*"):
        path.unlink()
    (pair,) = summary_of(Experiment.load(tmp_path)).pairs
    assert (pair.scores[0].over_seeds.n, pair.scores[0].over_items) == (3, None)


def test_scores_of_other_seeds_are_not_paired(tmp_path: Path) -> None:
    evaluated(tmp_path, (1, 2), {"baseline": 0.5, "tst": 0.7})
    for arm, seed in (("baseline", 1), ("tst", 2)):
        next(run_folder(tmp_path, arm, seed).rglob("results_*")).unlink()
    (score,) = summary_of(Experiment.load(tmp_path)).pairs[0].scores
    assert (score.over_seeds, score.over_items, score.note, score.is_shown) == (None, None, "", False)


def test_a_diverged_model_has_no_score(tmp_path: Path) -> None:
    evaluated(tmp_path, (1, 2), {"baseline": 0.5, "tst": 0.7})
    folder = run_folder(tmp_path, "tst", 2)
    next(folder.glob("events*")).unlink()
    write_run(folder, {50: 2.0, 100: math.nan}, 100)
    summary = summary_of(Experiment.load(tmp_path))
    assert list(summary.arms["tst"].scores[0].by_seed) == [1]
    assert list(summary.pairs[0].scores[0].over_seeds.by_seed) == [1]
    assert summary.pairs[0].scores[0].over_items.test == "McNemar exact"


def test_a_score_that_is_not_finite_is_in_no_mean(tmp_path: Path) -> None:
    evaluated(tmp_path, (1, 2), {"baseline": 0.5, "tst": 0.7})
    path = next(run_folder(tmp_path, "tst", 2).rglob("results_*"))
    values = json.loads(path.read_text())
    values["results"]["t"]["acc,none"] = math.inf
    path.write_text(json.dumps(values))
    summary = summary_of(Experiment.load(tmp_path))
    assert (summary.arms["tst"].scores[0].over_seeds.n, summary.pairs[0].scores[0].over_seeds.n) == (1, 1)


def difference(mean: float, p_value: float | None, n: int = 3) -> PairedDifference:
    half = None if p_value is None else abs(mean) * (0.5 if p_value < 0.05 else 2)
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return PairedDifference(n, mean, 0.1, low, high, p_value, dict.fromkeys(range(n), mean), p_value)


@pytest.mark.parametrize(
    ("seeds", "items", "shown"),
    [
        (difference(0.1, 0.01), (0.1, 0.01), True),
        (difference(0.1, 0.20), (0.1, 0.01), False),
        (difference(0.1, 0.01), (0.1, 0.20), False),
        (difference(0.1, 0.01), (-0.1, 0.01), False),
        (difference(0.1, 0.01), None, True),
        (difference(0.1, 0.20), None, False),
        (difference(0.1, None, 1), (0.1, 0.01), True),
        (difference(0.1, None, 1), (0.1, 0.20), False),
        (difference(0.1, None, 1), None, False),
    ],
)
def test_a_score_is_shown_by_items_and_seeds_together(seeds, items, shown: bool) -> None:
    over_items = items and ItemTest(100, None, items[0], 0.0, 0.2, items[1] / 2, "test", p_holm=items[1])
    assert ScoreDifference("t", "acc", True, False, seeds, over_items).is_shown is shown
    assert not ScoreDifference("t", "acc", True, False, None, None).is_shown
