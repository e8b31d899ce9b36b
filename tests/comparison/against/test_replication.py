"""Whether an effect of one results folder replicates in another."""

import random

import pytest
from scipy import stats
from two_reports import BASE, NOISE, against, evaluation, other_rate, shifted, welch_by_hand, write_report_json

from tst_lightning.comparison.against.sentences import cautions, labels, loss_sentence


@pytest.mark.parametrize(
    ("gain_here", "noise_here", "gain_there", "noise_there", "outcome"),
    [
        (0.03, 1, 0.032, 1, "replicates"),
        (0.03, 1, -0.03, 1, "contradicts"),
        (0.03, 1, 0.03, 50, "here alone"),
        (0.03, 50, 0.03, 1, "there alone"),
        (0.0001, 1, 0.0, 1, "not shown"),
    ],
)
def test_whether_an_effect_replicates(tmp_path, gain_here, noise_here, gain_there, noise_there, outcome) -> None:
    ours, theirs = shifted(gain_here, noise_here), shifted(gain_there, noise_there)
    here = write_report_json(tmp_path / "here", {"baseline": BASE, "tst": ours})
    there = write_report_json(tmp_path / "there", {"baseline": BASE, "tst": theirs}, 2, config=other_rate())
    (effect,) = against(here, there).effects
    assert effect.outcome == outcome
    differences = [[arm[seed] - BASE[seed] for seed in BASE] for arm in (ours, theirs)]
    expected = welch_by_hand(*differences)
    found = effect.difference
    assert (found.mean, found.low, found.high, found.p_value) == pytest.approx(expected)
    paired = stats.ttest_rel([ours[seed] for seed in BASE], [BASE[seed] for seed in BASE])
    assert effect.here.p_value == pytest.approx(paired.pvalue)


def test_losses_of_one_seed_in_two_folders_are_not_paired(tmp_path) -> None:
    """By pairs the difference would be shown beyond doubt; the runs are independent, and it is not."""
    theirs = {seed: loss + 0.01 + 0.1 * NOISE[seed] for seed, loss in BASE.items()}
    here = write_report_json(tmp_path / "here", {"baseline": BASE})
    there = write_report_json(tmp_path / "there", {"baseline": theirs}, config=other_rate())
    (arm,) = against(here, there).arms
    assert stats.ttest_rel(list(BASE.values()), list(theirs.values())).pvalue < 1e-3
    assert arm.difference.p_value == pytest.approx(welch_by_hand(list(BASE.values()), list(theirs.values()))[3])
    assert not arm.difference.is_shown
    assert "not shown to end at different losses" in loss_sentence(arm, ("here", "there"))


def test_p_values_are_corrected_for_the_number_of_arms(tmp_path) -> None:
    rng = random.Random(0)
    folders = []
    for place, name in enumerate(("here", "there")):
        arms = {arm: {seed: rng.gauss(1.5 + 0.03 * place, 0.02) for seed in range(4)} for arm in ("a", "b", "c")}
        folders.append(write_report_json(tmp_path / name, arms, config=other_rate() if place else None))
    found = against(*folders)
    for tests in ([arm.difference for arm in found.arms], [effect.difference for effect in found.effects],
                  [effect.here for effect in found.effects]):  # fmt: skip
        ascending = sorted(tests, key=lambda test: test.p_value)
        expected = 0.0
        for rank, test in enumerate(ascending):
            expected = max(expected, min(1.0, (len(tests) - rank) * test.p_value))
            assert test.p_holm == pytest.approx(expected)


def test_says_that_effects_on_the_same_baseline_runs_are_not_independent(tmp_path) -> None:
    here = write_report_json(tmp_path / "here", {"baseline": BASE, "tst": shifted(0.03)})
    changed = {"tst": {"learning_rate": 0.02}}
    there = write_report_json(tmp_path / "there", {"baseline": BASE, "tst": shifted(0.02)}, config=changed)
    found = against(here, there)
    assert found.effects[0].outcome == "replicates"
    assert cautions(found, labels(found))[1].startswith(
        "Both folders hold tst against the same runs of baseline: whatever chance did to those is in both effects"
    )


def test_scores_are_compared_where_they_mean_the_same(tmp_path) -> None:
    ours = {"baseline": {1: 0.60, 2: 0.61, 3: 0.62}, "tst": {1: 0.7, 2: 0.71, 3: 0.7}}
    theirs = {"baseline": {1: 0.55, 2: 0.56, 3: 0.57}, "tst": {1: 0.7, 2: 0.71, 3: 0.73}}
    arms = {"baseline": BASE, "tst": BASE}

    def score_of(name: str, options: dict, items: int = 400):
        config = other_rate(callbacks=(evaluation(**options),))
        there = write_report_json(tmp_path / name, arms, accuracy=theirs, config=config, items=items)
        return against(here, there).arms[0].scores[0]

    here = write_report_json(
        tmp_path / "here", arms, accuracy=ours, config={"": {"callbacks": (evaluation(limit=None),)}}
    )
    same = score_of("same", {"limit": None, "tasks": ["piqa", "arc_easy"]})
    expected = welch_by_hand(list(ours["baseline"].values()), list(theirs["baseline"].values()))
    found = same.difference
    assert (found.mean, found.low, found.high, found.p_value) == pytest.approx(expected)
    assert found.p_holm == pytest.approx(2 * expected[3])
    limited = score_of("limited", {"limit": 50})
    assert (limited.not_compared, limited.difference) == ("DownstreamEvaluation.limit: None against 50", None)
    assert score_of("fewer", {"limit": None}, items=50).not_compared == "items of piqa: 400 against 50"
