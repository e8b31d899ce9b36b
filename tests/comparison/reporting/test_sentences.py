import math
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_runs import make_experiment, make_lengths_experiment, write_final, write_items, write_run

from tst_lightning.comparison.analysis.collect import collect
from tst_lightning.comparison.analysis.frontier import Overtaking, SpeedUp
from tst_lightning.comparison.analysis.item_tests import ItemTest
from tst_lightning.comparison.analysis.pair_summary import PairSummary
from tst_lightning.comparison.analysis.score_pairs import ScoreDifference
from tst_lightning.comparison.analysis.statistics import Crossing, PairedDifference
from tst_lightning.comparison.analysis.summary import ComparisonSummary, summarize_comparison
from tst_lightning.comparison.design.experiment import Experiment, run_folder
from tst_lightning.comparison.reporting.sentences import (
    chance_note,
    crossing_sentence,
    frontier_sentences,
    headline_scores,
    overtaking_sentence,
    pair_sentence,
    speed_up_sentence,
)
from tst_lightning.comparison.reporting.verdict import verdict


def summary_of(experiment: Experiment) -> ComparisonSummary:
    return summarize_comparison(experiment, collect(experiment))


def verdict_of(folder: Path, seeds: tuple[int, ...] = (1, 2, 3), **finals: tuple[float, ...]) -> str:
    """Of arms with these final losses, seed by seed; the first is the baseline."""
    experiment = make_experiment(folder, seeds, tuple(finals))
    for arm, losses in finals.items():
        for seed, loss in zip(seeds, losses, strict=False):
            if loss is not None:
                write_run(run_folder(folder, arm, seed), {50: 4.0, 100: loss}, 100)
    return verdict(summary_of(experiment)).text


def test_lower_and_higher(tmp_path: Path) -> None:
    # Differences -0.09, -0.10, -0.09: half of the interval is 4.303 * 0.00577 / sqrt(3) = 0.0143, t = -28.
    assert verdict_of(tmp_path / "lower", baseline=(1.5, 1.6, 1.7), tst=(1.41, 1.5, 1.61)) == (
        "tst lowers validation loss by 0.093 ± 0.014 nats per token against baseline at equal FLOPs and data "
        "(n = 3, p = 0.0013)."
    )
    assert verdict_of(tmp_path / "higher", baseline=(1.41, 1.5, 1.61), tst=(1.5, 1.6, 1.7)) == (
        "tst raises validation loss by 0.093 ± 0.014 nats per token against baseline at equal FLOPs and data "
        "(n = 3, p = 0.0013)."
    )


def test_not_shown(tmp_path: Path) -> None:
    # Differences -0.1 and 0.02: half of the interval is 12.706 * 0.0849 / sqrt(2) = 0.762.
    assert verdict_of(tmp_path, (1, 2), baseline=(1.5, 1.6), tst=(1.4, 1.62)) == (
        "A difference in validation loss between tst and baseline at equal FLOPs and data is not shown "
        "(-0.040 ± 0.762 nats per token, n = 2, p = 0.63)."
    )  # fmt: skip


def test_one_seed(tmp_path: Path) -> None:
    assert verdict_of(tmp_path / "a", (1,), baseline=(1.5,), tst=(1.53,)) == (
        "One seed, so no statement about significance: tst ended with a validation loss 0.030 nats per token higher "
        "than baseline at equal FLOPs and data."
    )
    assert "validation loss the same as baseline" in verdict_of(tmp_path / "b", (1,), baseline=(1.5,), tst=(1.5,))


def test_several_arms_are_held_to_holm(tmp_path: Path) -> None:
    base, weak, noise = (1.5, 1.6, 1.7, 1.65), (1.49, 1.595, 1.68, 1.638), (1.6, 1.5, 1.72, 1.65)
    alone = verdict_of(tmp_path / "alone", (1, 2, 3, 4), baseline=base, weak=weak)
    assert alone.startswith("weak lowers validation loss by 0.012 ± 0.010")
    assert alone.endswith("(n = 4, p = 0.033).")
    first, second = verdict_of(tmp_path / "two", (1, 2, 3, 4), baseline=base, weak=weak, noise=noise).split(". ")
    assert first.startswith(
        "A difference in validation loss between weak and baseline at equal FLOPs and data is not shown"
    )
    assert first.endswith("(-0.012 ± 0.010 nats per token, n = 4, p = 0.033, Holm = 0.065)")
    assert second.startswith("A difference in validation loss between noise and baseline")


def test_diverged_and_unpaired_runs(tmp_path: Path) -> None:
    text = verdict_of(tmp_path / "some", baseline=(1.5, 1.6, 1.7), tst=(1.41, math.nan, 1.61))
    assert text.endswith("(tst diverged with seed 2, left out).")
    assert "n = 2" in text
    assert verdict_of(tmp_path / "all", (1, 2), baseline=(1.5, 1.6), tst=(math.nan, math.inf)) == (
        "No verdict on tst against baseline: tst diverged with seed 1, 2."
    )
    assert verdict_of(tmp_path / "none", (1, 2), baseline=(1.5, None), tst=(None, 1.6)) == (
        "No verdict on tst against baseline: it has no finished run with the seed of a finished baseline run."
    )


def test_all_differences_equal(tmp_path: Path) -> None:
    text = verdict_of(tmp_path, (1, 2), baseline=(1.5, 1.5), tst=(1.25, 1.25))
    assert text == (
        "A difference in validation loss between tst and baseline at equal FLOPs and data is not shown "
        "(-0.250 nats per token, n = 2, no test, all differences are equal)."
    )


def difference(mean: float, p_value: float | None, n: int = 3, p_holm: float | None = None) -> PairedDifference:
    low, high = (None, None) if p_value is None else (mean - 0.006, mean + 0.006)
    return PairedDifference(n, mean, 0.1, low, high, p_value, dict.fromkeys(range(n), mean), p_holm)


@pytest.mark.parametrize(
    ("mean", "half", "shown"),
    [
        (-0.0412, 0.0061, "0.041 ± 0.006"),
        (-0.0298, 0.00049, "0.0298 ± 0.0005"),
        (-0.00002, 0.05, "0.000 ± 0.050"),
        (-0.00002, 0.0, "0.00002 ± 0.00000"),
        (-1.5, 2.5, "1.500 ± 2.500"),
        (-0.5, 1e-12, "0.5000000 ± 0.0000000"),
    ],
)
def test_decimals_show_the_mean_and_its_interval(tmp_path: Path, mean: float, half: float, shown: str) -> None:
    found = PairedDifference(3, mean, 0.1, mean - half, mean + half, 0.01, {1: mean}, 0.01)
    assert f"by {shown} nats per token" in sentence(pair(difference=found), tmp_path=tmp_path)


def pair(budget: str = "equal FLOPs", mean: float = -0.041, p_holm: float = 0.004, **changes) -> PairSummary:
    found = difference(mean, 0.002, 5, p_holm)
    return replace(PairSummary("tst", "baseline", budget, found, "", None, None, ()), **changes)


def sentence(*pairs: PairSummary, tmp_path: Path) -> str:
    arms = summary_of(make_experiment(tmp_path)).arms
    return pair_sentence(pairs[0], ComparisonSummary(arms, pairs, (), (), ()))


@pytest.mark.parametrize("budget", ["equal FLOPs", "equal data", "1.90 times the FLOPs", "equal FLOPs and data"])
def test_sentence_of_the_numbers_with_budget_and_correction(tmp_path: Path, budget: str) -> None:
    assert sentence(pair(budget), pair(), tmp_path=tmp_path) == (
        f"tst lowers validation loss by 0.041 ± 0.006 nats per token against baseline at {budget} "
        "(n = 5, p = 0.002, Holm = 0.004)."
    )
    assert "Holm" not in sentence(pair(budget), tmp_path=tmp_path)


def test_not_comparable(tmp_path: Path) -> None:
    found = pair(difference=None, not_compared="model.config.hidden_size: 128 against 64")
    expected = "tst cannot be compared with baseline (model.config.hidden_size: 128 against 64)."
    assert sentence(found, tmp_path=tmp_path) == crossing_sentence(found) == expected


def score(
    task: str, mean: float, items_p: float | None, seeds_p: float | None, n: int = 5, **changes
) -> ScoreDifference:
    over_items = (
        None if items_p is None else ItemTest(2000, None, mean, mean - 1, mean + 1, items_p, "x", p_holm=items_p)
    )
    low, high = (mean / 2, 2 * mean) if seeds_p is not None and seeds_p < 0.05 else (-1.0, 1.0)
    low, high = (None, None) if n == 1 else (low, high)
    over_seeds = PairedDifference(n, mean, 0.1, low, high, seeds_p, dict.fromkeys(range(n), mean), seeds_p)
    return replace(ScoreDifference(task, "acc", True, False, over_seeds, over_items), **changes)


def test_downstream_scores_in_the_sentence(tmp_path: Path) -> None:
    scores = (
        score("blimp", 0.012, 0.001, 0.03),
        score("arc_easy", -0.02, 0.003, 0.04),
        score("piqa", 0.01, 0.30, 0.01),
        score("boolq", 0.01, 0.01, 0.30),
        score("blimp_part", 0.2, 0.001, 0.001, in_group=True),
        score("lambada", -3.0, None, 0.02, higher_is_better=False, metric="perplexity"),
        score("winogrande", 0.3, 0.01, 0.01, note="not compared, 5 items against 6"),
    )
    assert sentence(pair(scores=scores), tmp_path=tmp_path).partition("; ")[2] == (
        "better on blimp (acc +0.012, p = 0.001 over 2,000 items, p = 0.03 over 5 seeds), "
        "lambada (perplexity -3, p = 0.02 over 5 seeds); "
        "worse on arc_easy (acc -0.02, p = 0.003 over 2,000 items, p = 0.04 over 5 seeds); "
        "no significant difference on piqa, boolq."
    )


def test_downstream_scores_of_one_seed(tmp_path: Path) -> None:
    scores = (
        score("blimp", 0.012, 0.001, None, 1),
        score("piqa", 0.02, None, None, 1),
        score("boolq", 0.01, 0.4, None, 1),
    )
    assert sentence(pair(scores=scores), tmp_path=tmp_path).partition("; ")[2] == (
        "better on blimp (acc +0.012, p = 0.001 over 2,000 items, one seed: of these models, not of the method); "
        "no significant difference on boolq; no test on piqa (one seed, no logs of items)."
    )


def test_scores_without_any_spread_are_no_finding(tmp_path: Path) -> None:
    found = score("piqa", 0.1, None, 1.0, 2)
    found = replace(found, over_seeds=replace(found.over_seeds, low=None, high=None))
    assert sentence(pair(scores=(found,)), tmp_path=tmp_path).endswith("; no test on piqa (all differences are equal).")
    equal = ItemTest(50, None, 0.1, None, None, 1.0, "no test", p_holm=1.0)
    found = replace(score("piqa", 0.1, None, None, 1), over_items=equal)
    assert sentence(pair(scores=(found,)), tmp_path=tmp_path).endswith("; no test on piqa (all differences are equal).")


def test_downstream_correction_is_named(tmp_path: Path) -> None:
    found = score("blimp", 0.012, 0.001, 0.01)
    found = replace(found, over_items=replace(found.over_items, p_holm=0.004))
    text = sentence(pair(scores=(found,)), tmp_path=tmp_path)
    assert "p = 0.001 over 2,000 items (Holm = 0.004), p = 0.01 over 5 seeds)" in text


def test_one_headline_a_task() -> None:
    scores = [
        score("word", 1.0, None, 0.5, metric="perplexity", higher_is_better=False),
        score("word", 1.0, None, 0.5),
        score("word", 1.0, None, 0.5, metric="acc_norm"),
        score("pages", 1.0, None, 0.5, metric="word_perplexity", higher_is_better=False),
        score("part", 1.0, None, 0.5, in_group=True),
    ]
    assert [(one.task, one.metric) for one in headline_scores(scores)] == [
        ("word", "acc"),
        ("pages", "word_perplexity"),
    ]


def test_scores_of_evaluated_runs_reach_the_sentence(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1,))
    for arm, right in {"baseline": 40, "tst": 90}.items():
        folder = run_folder(tmp_path, arm, 1)
        write_run(folder, {50: 2.0, 100: 1.5}, 100)
        write_items(folder / "evaluation" / "step=100", {"piqa": {"acc": [1.0] * right + [0.0] * (100 - right)}})
    assert "better on piqa (acc +0.5, p < 0.0001 over 100 items, one seed" in verdict(summary_of(experiment)).text


def test_speed_up_sentences() -> None:
    found = SpeedUp("tst", "", 1.412, 3000, "baseline", 1.32, 1.1, 1.58, 3, "")
    assert speed_up_sentence(found, "baseline") == (
        "For the loss of baseline after 3,000 steps (1.4120 nats per token), baseline needs 1.32 times the FLOPs of "
        "tst (95 % interval 1.10 to 1.58, n = 3)."
    )
    assert "0.90 to 1.58, n = 3, not told from 1)" in speed_up_sentence(replace(found, low=0.9), "baseline")
    assert "(n = 3, no spread over seeds, no interval)" in speed_up_sentence(replace(found, low=None, high=None), "b")
    assert "(one seed, no interval)" in speed_up_sentence(replace(found, low=None, high=None, n=1), "baseline")
    assert speed_up_sentence(replace(found, ratio=None, low=None, high=None, variant="bytes", note="outside"), "b") == (
        "No speed-up of tst (bytes) at the loss of baseline after 3,000 steps (1.4120 nats per token): outside."
    )


def test_overtaking_sentences() -> None:
    found = Overtaking("tst", "", 2345.6, 3.4e14, False, {1: 2000.0, 2: None, 3: 2500.0}, 2, 750, 6000)
    assert overtaking_sentence(found, "baseline") == (
        "On the mean of the seeds tst overtakes baseline at a run length of 2,346 steps, 3.4e+14 FLOPs, which is not "
        "shown (2 of 3 seeds agree; seeds overtake at 2,000 to 2,500 steps)."
    )
    all_agree = replace(found, by_seed={1: 2000.0, 3: 2500.0})
    assert overtaking_sentence(all_agree, "baseline") == (
        "tst overtakes baseline at a run length of 2,346 steps, 3.4e+14 FLOPs (2 of 2 seeds agree; seeds overtake at "
        "2,000 to 2,500 steps)."
    )
    assert "FLOPs (one seed)." in overtaking_sentence(replace(found, by_seed={1: 2000.0}, agree=1), "baseline")
    never = replace(found, steps=None, flops=None, agree=1)
    assert overtaking_sentence(never, "baseline").startswith(
        "On the mean of the seeds tst is not ahead of baseline for good within 750 to 6,000 steps, which is not shown "
        "(1 of 3 seeds agree; "
    )
    assert "below baseline at every run length from 750 to 6,000 steps" in overtaking_sentence(
        replace(never, from_start=True), "baseline"
    )


def test_verdict_has_the_speed_up_at_the_longest_run_alone(tmp_path: Path) -> None:
    experiment = make_lengths_experiment(tmp_path, (100, 200, 400), seeds=(1, 2))
    for name, arm in experiment.arms.items():
        for seed in experiment.seeds:
            write_final(experiment, name, seed, (20 + seed) * arm.steps**-0.3 * (0.9 if arm.method == "tst" else 1))
    summary = summary_of(experiment)
    assert len(frontier_sentences(summary)) == 1 + 6
    text = verdict(summary).text
    assert "tst ends below baseline at every run length from 100 to 400 steps (2 of 2 seeds agree)." in text
    assert text.count("times the FLOPs") == 1
    assert "For the loss of baseline after 400 steps" in text
    # 0.9 ** (-1 / 0.3)
    assert "baseline needs 1.42 times the FLOPs of tst" in text


def test_crossing_sentences() -> None:
    crosses = {"crosses_at_step": Crossing(2012.4, False), "crosses_at_flops": Crossing(4.94e13, False)}
    assert crossing_sentence(pair(**crosses)) == "tst passes below baseline for good at step 2,012, 4.94e+13 FLOPs."
    assert crossing_sentence(pair()) == "tst never passes below baseline for good."
    assert crossing_sentence(pair(crosses_at_step=Crossing(1, True))) == "tst is below baseline at every validation."
    assert "no finished pair" in crossing_sentence(pair(difference=None))
    assert crossing_sentence(pair(curves_not_compared="runs of different lengths")) == (
        "tst and baseline: runs of different lengths, curves not compared."
    )


def test_chance() -> None:
    assert chance_note({"piqa", "arc_easy", "wikitext"}) == "Accuracy of guessing: arc_easy 25%, piqa 50%."
    assert chance_note({"wikitext"}) == ""
