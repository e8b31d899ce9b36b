"""What the numbers say, in plain words."""

import math
from collections.abc import Sequence

from tst_lightning.comparison.analysis.frontier import Overtaking, SpeedUp
from tst_lightning.comparison.analysis.pair_summary import PairSummary
from tst_lightning.comparison.analysis.score_pairs import ScoreDifference
from tst_lightning.comparison.analysis.statistics import PairedDifference
from tst_lightning.comparison.analysis.summary import ComparisonSummary

CHANCE = {
    "heldout_continuation": 0.25,
    "hellaswag": 0.25,
    "arc_easy": 0.25,
    "arc_challenge": 0.25,
    "mmlu": 0.25,
    "openbookqa": 0.25,
    "piqa": 0.5,
    "winogrande": 0.5,
    "boolq": 0.5,
    "blimp": 0.5,
}
"""Accuracy of guessing, by task."""

CURVES_CAUTION = (
    "Points before the end of the learning-rate decay are not finished models: the last, falling part of "
    "a run belongs to its schedule, so curves are to be compared at their ends. The validation loss is the "
    "next-token loss on single tokens in every phase. A superposed phase does not train that task directly, "
    "so its loss there is high by design and falls after the switch (dashed line)."
)


def pair_sentence(pair: PairSummary, summary: ComparisonSummary) -> str:
    """What is shown of an arm against its reference: of the validation loss, then of downstream scores."""
    return "; ".join([_loss_clause(pair, summary), *_score_clauses(pair.scores)]) + "."


def frontier_sentences(summary: ComparisonSummary, headlines: bool = False) -> list[str]:
    """Where methods overtake the baseline, and how much less training reaches the same loss.

    Args:
        summary: of the comparison.
        headlines: of speed-ups, only those at the loss that the baseline's longest run reaches.
    """
    # The baseline's frontier is the first of its variant.
    baselines = {frontier.variant: frontier for frontier in reversed(summary.frontiers)}
    sentences = [overtaking_sentence(found, baselines[found.variant].method) for found in summary.overtakings]
    for found in summary.speed_ups:
        baseline = baselines[found.variant]
        if not headlines or (found.of_method, found.of_length) == (baseline.method, baseline.points[-1].steps):
            sentences.append(speed_up_sentence(found, baseline.method))
    return sentences


def overtaking_sentence(found: Overtaking, baseline: str) -> str:
    """From which run length on a method is ahead."""
    method, span = _named(found.method, found.variant), f"{found.shortest:,} to {found.longest:,} steps"
    if found.from_start:
        sentence = f"{method} ends below {baseline} at every run length from {span}"
    elif found.steps is None:
        sentence = f"{method} is not ahead of {baseline} for good within {span}"
    else:
        sentence = f"{method} overtakes {baseline} at a run length of {found.steps:,.0f} steps, {found.flops:.3g} FLOPs"
    places = [place for place in found.by_seed.values() if place is not None and place != found.shortest]
    where = f"; seeds overtake at {_steps_range(places)} steps" if places else ""
    seeds = len(found.by_seed)
    if seeds == 1:
        return f"{sentence} (one seed)."
    if found.agree == seeds:
        return f"{sentence} ({found.agree} of {seeds} seeds agree{where})."
    return f"On the mean of the seeds {sentence}, which is not shown ({found.agree} of {seeds} seeds agree{where})."


def _steps_range(places: Sequence[float]) -> str:
    low, high = f"{min(places):,.0f}", f"{max(places):,.0f}"
    return low if low == high else f"{low} to {high}"


def speed_up_sentence(found: SpeedUp, baseline: str) -> str:
    """How many times the FLOPs the baseline needs for a loss."""
    loss = f"the loss of {found.of_method} after {found.of_length:,} steps ({found.loss:.4f} nats per token)"
    method = _named(found.method, found.variant)
    if found.ratio is None:
        return f"No speed-up of {method} at {loss}: {found.note}."
    interval = "one seed, no interval" if found.n == 1 else f"n = {found.n}, no spread over seeds, no interval"
    if found.low is not None:
        interval = f"95 % interval {found.low:.2f} to {found.high:.2f}, n = {found.n}"
        interval += "" if found.low > 1 or found.high < 1 else ", not told from 1"
    note = f"; {found.note}" if found.note else ""
    return f"For {loss}, {baseline} needs {found.ratio:.2f} times the FLOPs of {method} ({interval}{note})."


def crossing_sentence(pair: PairSummary) -> str:
    """Where an arm's mean curve passes below its reference's."""
    if pair.not_compared:
        return f"{_not_compared(pair)}."
    if pair.difference is None:
        return f"{pair.arm}: no finished pair of runs to compare with {pair.reference}."
    at_step, at_flops = pair.crosses_at_step, pair.crosses_at_flops
    if pair.curves_not_compared:
        return f"{pair.arm} and {pair.reference}: {pair.curves_not_compared}, curves not compared."
    if at_step is None:
        return f"{pair.arm} never passes below {pair.reference} for good."
    if at_step.from_start:
        return f"{pair.arm} is below {pair.reference} at every validation."
    flops = f", {at_flops.x:.3g} FLOPs" if at_flops is not None else ""
    return f"{pair.arm} passes below {pair.reference} for good at step {at_step.x:,.0f}{flops}."


def chance_note(tasks: set[str]) -> str:
    """Where guessing stands, for the tasks whose number of choices is known."""
    known = [f"{task} {CHANCE[task]:.0%}" for task in sorted(tasks) if task in CHANCE]
    return f"Accuracy of guessing: {', '.join(known)}." if known else ""


def headline_scores(scores: Sequence[ScoreDifference]) -> list[ScoreDifference]:
    """One metric of each task: the first for which higher is better, else the first; no members of groups."""
    by_task: dict[str, ScoreDifference] = {}
    for score in scores:
        if score.in_group:
            continue
        known = by_task.get(score.task)
        if known is None or (score.higher_is_better and not known.higher_is_better):
            by_task[score.task] = score
    return list(by_task.values())


def _loss_clause(pair: PairSummary, summary: ComparisonSummary) -> str:
    difference = pair.difference
    if pair.not_compared:
        return _not_compared(pair)
    diverged = diverged_seeds(pair, summary)
    if difference is None:
        reason = diverged or f"it has no finished run with the seed of a finished {pair.reference} run"
        return f"No verdict on {pair.arm} against {pair.reference}: {reason}"
    where = f"{pair.reference} at {pair.budget}"
    left_out = f" ({diverged}, left out)" if diverged else ""
    if difference.n == 1:
        size = "the same as" if difference.mean == 0 else f"{_nats(difference.mean)} {_side(difference)} than"
        start = f"One seed, so no statement about significance: {pair.arm} ended with a validation loss {size} "
        return f"{start}{where}{left_out}"
    facts = _facts(difference, _family(summary))
    if difference.is_shown:
        verb = "lowers" if difference.mean < 0 else "raises"
        return f"{pair.arm} {verb} validation loss by {plus_minus(difference)} against {where} ({facts}){left_out}"
    return (
        f"A difference in validation loss between {pair.arm} and {where} is not shown "
        f"({plus_minus(difference, signed=True)}, {facts}){left_out}"
    )


def _score_clauses(scores: Sequence[ScoreDifference]) -> list[str]:
    compared = [score for score in headline_scores(scores) if score.over_seeds is not None and not score.note]
    tested = [
        score for score in compared if any(test and test.has_test for test in (score.over_items, score.over_seeds))
    ]
    clauses = []
    for better in (True, False):
        found = [score for score in tested if score.is_shown and _is_better(score) == better]
        if found:
            clauses.append(f"{'better' if better else 'worse'} on " + ", ".join(_score_facts(score) for score in found))
    if unclear := [score.task for score in tested if not score.is_shown]:
        clauses.append(f"no significant difference on {', '.join(unclear)}")
    untested = [score for score in compared if score not in tested]
    equal = [score.task for score in untested if score.over_items is not None or score.over_seeds.n > 1]
    if single := [score.task for score in untested if score.task not in equal]:
        clauses.append(f"no test on {', '.join(single)} (one seed, no logs of items)")
    if equal:
        clauses.append(f"no test on {', '.join(equal)} (all differences are equal)")
    return clauses


def _score_facts(score: ScoreDifference) -> str:
    items, seeds = score.over_items, score.over_seeds
    tests = []
    if items is not None:
        tests.append(f"{_p('p', items.p_value)} over {items.items:,} items{_corrected(items)}")
    if seeds.n > 1:
        tests.append(f"{_p('p', seeds.p_value)} over {seeds.n} seeds{_corrected(seeds)}")
    if seeds.n == 1:
        tests.append("one seed: of these models, not of the method")
    return f"{score.task} ({score.metric} {seeds.mean:+.3g}, {', '.join(tests)})"


def _corrected(test) -> str:
    return "" if test.p_holm is None or test.p_holm == test.p_value else f" ({_p('Holm', test.p_holm)})"


def _is_better(score: ScoreDifference) -> bool:
    return (score.over_seeds.mean > 0) == score.higher_is_better


def _not_compared(pair: PairSummary) -> str:
    return f"{pair.arm} cannot be compared with {pair.reference} ({pair.not_compared})"


def diverged_seeds(pair: PairSummary, summary: ComparisonSummary) -> str:
    """Which seeds of a pair's two arms have diverged, in words; empty if none."""
    parts = [
        f"{name} diverged with seed {', '.join(map(str, summary.arms[name].diverged))}"
        for name in (pair.arm, pair.reference)
        if summary.arms[name].diverged
    ]
    return " and ".join(parts)


def _family(summary: ComparisonSummary) -> int:
    """Comparisons of losses that are corrected together."""
    return sum(pair.difference is not None and pair.difference.p_value is not None for pair in summary.pairs)


def _facts(difference: PairedDifference, family: int) -> str:
    p_value = "no test, all differences are equal"
    if difference.has_test:
        p_value = _p("p", difference.p_value)
        if family > 1 and difference.p_holm is not None:
            p_value += f", {_p('Holm', difference.p_holm)}"
    return f"n = {difference.n}, {p_value}"


def _p(name: str, value: float | None) -> str:
    if value is None:
        return f"no {name}"
    return f"{name} < 0.0001" if value < 1e-4 else f"{name} = {value:.2g}"


def plus_minus(difference: PairedDifference, signed: bool = False) -> str:
    """The mean and half of its 95 % interval, with the decimals that show both."""
    mean = difference.mean if signed else abs(difference.mean)
    half = None if difference.low is None else (difference.high - difference.low) / 2
    smallest = half or abs(mean)
    decimals = min(7, max(3, -math.floor(math.log10(smallest)))) if smallest else 3
    spread = "" if half is None else f" ± {half:.{decimals}f}"
    return f"{mean:{'+' if signed else ''}.{decimals}f}{spread} nats per token"


def _nats(difference: float) -> str:
    size = abs(difference)
    return f"{size:.3f} nats per token" if size >= 0.0005 else f"{size:.1e} nats per token"


def _side(difference: PairedDifference) -> str:
    return "lower" if difference.mean < 0 else "higher"


def _named(method: str, variant: str) -> str:
    return f"{method} ({variant})" if variant else method
