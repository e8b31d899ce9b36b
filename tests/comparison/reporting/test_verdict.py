from dataclasses import replace

from figure_material import make_arm, make_material, make_pair

from tst_lightning.comparison.analysis.summary import ComparisonSummary
from tst_lightning.comparison.reporting.verdict import grid_sentence, verdict

BASE = {1: 1.5, 2: 1.6, 3: 1.7}


def summary_of(*pairs: tuple[str, str, dict[int, float], float | None], diverged: tuple[str, ...] = ()):
    """Of (arm, budget, final losses minus the baseline's, Holm's p value)."""
    arms, found = [make_arm("baseline", BASE)], []
    for name, budget, differences, p_holm in pairs:
        losses = {seed: BASE[seed] + difference for seed, difference in differences.items()}
        arms.append(make_arm(name, losses, diverged=(9,) if name in diverged else ()))
        found.append(replace(make_pair(arms[-1], arms[0], p_holm=p_holm), budget=budget))
    return make_material(arms, found).summary


def spread(mean: float) -> dict[int, float]:
    return {1: mean - 0.01, 2: mean, 3: mean + 0.01}


EQUAL = (
    ("a", "equal FLOPs", spread(-0.04), 0.004),
    ("b", "equal FLOPs", spread(-0.05), 0.01),
    ("c", "equal FLOPs", spread(0.03), 0.02),
    ("d", "equal FLOPs", spread(-0.02), 0.30),
)


def test_counts_and_best_of_one_budget() -> None:
    # Half of the interval: 4.303 * 0.01 / sqrt(3) = 0.0248.
    assert grid_sentence(summary_of(*EQUAL)) == (
        "Comparisons of validation loss: 4, p values after Holm's correction; at equal FLOPs: 2 shown better than the "
        "reference, 1 shown worse, 1 not shown; largest gain at equal FLOPs: b against baseline (-0.050 ± 0.025 nats "
        "per token)."
    )
    assert "smallest loss at equal FLOPs: c against" in grid_sentence(summary_of(EQUAL[2]))
    assert "largest gain, not shown at equal FLOPs: d against" in grid_sentence(summary_of(EQUAL[3]))


def test_budgets_are_counted_apart_and_the_best_is_at_equal_flops_and_whole() -> None:
    """The longest baseline gains most, for 1.8 times the FLOPs; a diverged arm and one with one seed gain more."""
    text = grid_sentence(
        summary_of(
            *EQUAL,
            ("baseline_36k", "1.80 times the FLOPs", spread(-0.5), 0.001),
            ("e", "1.30 times the FLOPs", spread(-0.4), 0.2),
            ("f", "equal FLOPs and data", spread(-0.3), 0.001),
            ("g", "equal FLOPs", {1: -0.2}, None),
            ("h", "equal data", spread(-0.2), 0.001),
            ("i", "equal FLOPs", dict.fromkeys(BASE, -0.25), 1.0),
            diverged=("f",),
        )
    )
    assert text == (
        "Comparisons of validation loss: 10, p values after Holm's correction; at equal FLOPs: 2 shown better than the "
        "reference, 1 shown worse, 1 not shown, 1 without a test (one seed), 1 of them lower, 1 without a test (no "
        "spread), 1 of them lower; at unequal budgets: 1 shown better than the reference, 0 shown worse, 1 not shown; "
        "at equal FLOPs and data: 1 shown better than the reference, 0 shown worse, 0 not shown; at equal data: 1 "
        "shown better than the reference, 0 shown worse, 0 not shown; largest gain at equal FLOPs: b against baseline "
        "(-0.050 ± 0.025 nats per token)."
    )


def test_one_seed_has_counts_and_no_tests() -> None:
    text = grid_sentence(summary_of(("a", "equal FLOPs", {1: -0.1}, None), ("b", "equal FLOPs", {1: 0.1}, None)))
    assert "at equal FLOPs: 2 without a test (one seed), 1 of them lower; largest gain, not shown" in text
    assert "largest gain" not in grid_sentence(summary_of(("a", "equal data", spread(-0.1), 0.01)))
    empty = summary_of(("a", "equal FLOPs", {}, None))
    assert grid_sentence(empty).startswith("None of the 1 comparisons")


def test_a_sentence_about_many_pairs_comes_first_and_very_many_are_details() -> None:
    summary = summary_of(*EQUAL)
    found = verdict(summary)
    assert found.sentences[0] == grid_sentence(summary)
    assert (len(found.sentences), found.details) == (5, ())
    assert not verdict(summary_of(*EQUAL[:3])).text.startswith("Comparisons")
    found = verdict(summary_of(*((f"m{n}", "equal FLOPs", spread(-0.01 * n), 0.5) for n in range(9))))
    assert (len(found.sentences), len(found.details)) == (1, 9)
    nothing = ComparisonSummary({}, (), (), (), ())
    assert verdict(nothing).text == "Nothing is compared with anything."
