"""What a hurried reader takes away from a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from tst_lightning.comparison.analysis.pair_summary import PairSummary
from tst_lightning.comparison.analysis.summary import ComparisonSummary
from tst_lightning.comparison.reporting.sentences import (
    diverged_seeds,
    frontier_sentences,
    pair_sentence,
    plus_minus,
)

_MANY_PAIRS = 4
"""From so many comparisons on, a sentence about all of them comes first."""
_MOST_SENTENCES = 8
"""More sentences of one kind are details."""
_UNEQUAL = "times the FLOPs"


@dataclass(frozen=True)
class VerdictSentences:
    """What a hurried reader takes away, the same in the terminal, on the page and in ``report.json``."""

    sentences: tuple[str, ...]
    details: tuple[str, ...]
    """Sentences that are too many for it."""

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


def verdict(summary: ComparisonSummary) -> VerdictSentences:
    """One sentence per pair, after one about all of them where there are many, then what the frontiers say."""
    pairs = [pair_sentence(pair, summary) for pair in summary.pairs]
    headlines, lengths = frontier_sentences(summary, headlines=True), frontier_sentences(summary)
    sentences = [grid_sentence(summary)] if len(pairs) >= _MANY_PAIRS else []
    details = []
    for open_sentences, all_sentences in ((pairs, pairs), (headlines, lengths)):
        if len(open_sentences) <= _MOST_SENTENCES:
            sentences += open_sentences
        details += [sentence for sentence in all_sentences if sentence not in sentences]
    return VerdictSentences(tuple(sentences) or ("Nothing is compared with anything.",), tuple(details))


def grid_sentence(summary: ComparisonSummary) -> str:
    """How many of the comparisons show something, budget by budget, and the best arm at equal FLOPs."""
    compared = [pair for pair in summary.pairs if pair.difference is not None]
    if not compared:
        return f"None of the {len(summary.pairs)} comparisons has a finished pair of runs whose losses can be compared."
    budgets: dict[str, list[PairSummary]] = {}
    for pair in compared:
        budgets.setdefault("unequal budgets" if pair.budget.endswith(_UNEQUAL) else pair.budget, []).append(pair)
    counts = "; ".join(f"at {budget}: {_counts(pairs)}" for budget, pairs in budgets.items())
    return (
        f"Comparisons of validation loss: {len(compared)}, p values after Holm's correction; {counts}{_best(summary)}."
    )


def _counts(pairs: Sequence[PairSummary]) -> str:
    differences = [pair.difference for pair in pairs]
    shown = [difference for difference in differences if difference.is_shown]
    better = sum(difference.mean < 0 for difference in shown)
    tested = sum(difference.has_test for difference in differences)
    parts = []
    if tested:
        parts += [f"{better} shown better than the reference", f"{len(shown) - better} shown worse"]
        parts += [f"{tested - len(shown)} not shown"]
    for words, found in (
        ("one seed", [difference for difference in differences if difference.n == 1]),
        ("no spread", [difference for difference in differences if difference.n > 1 and not difference.has_test]),
    ):
        if found:
            lower = sum(difference.mean < 0 for difference in found)
            parts.append(f"{len(found)} without a test ({words}), {lower} of them lower")
    return ", ".join(parts)


def _best(summary: ComparisonSummary) -> str:
    """Of comparisons at equal FLOPs in which nothing has diverged; failing these, of those without a test."""
    fair = [
        pair
        for pair in summary.pairs
        if pair.difference is not None and pair.budget.startswith("equal FLOPs") and not diverged_seeds(pair, summary)
    ]
    fair = [pair for pair in fair if pair.difference.has_test] or fair
    if not fair:
        return ""
    best = min(fair, key=lambda pair: pair.difference.mean)
    word = "largest gain" if best.difference.mean < 0 else "smallest loss"
    if not best.difference.is_shown:
        word += ", not shown"
    size = plus_minus(best.difference, signed=True)
    return f"; {word} at equal FLOPs: {best.arm} against {best.reference} ({size})"
