"""The section on downstream tasks."""

from collections.abc import Mapping

from tst_lightning.comparison.analysis.summary import ComparisonSummary, PairSummary, ScoreDifference
from tst_lightning.comparison.reporting.content.cells import NONE, interval, long_table, number, p_value, pictures
from tst_lightning.comparison.reporting.document import Block, Figure, Heading, Marked, Paragraph, Table
from tst_lightning.comparison.reporting.sentences import chance_note

_HOW_TO_READ = (
    "A difference is tested twice: over seeds (would other trainings show it?) and over items (would other questions "
    "show it?). It is called shown where all tests that there are find it at 5 % after Holm's correction, over the "
    "pairs that are compared on the same metric, and in the same direction; with one seed the test over items stands "
    "alone and is about these models only."
)


def downstream_section(
    summary: ComparisonSummary, colours: Mapping[str, str], figures: Mapping[str, Figure]
) -> list[Block]:
    """Scores of all arms and differences of all pairs, task by task."""
    scores = [(arm, score) for arm in summary.arms.values() for score in arm.scores if not score.in_group]
    if not scores:
        return [Heading("Downstream tasks"), Paragraph("No run has downstream results yet.")]
    keys = list(dict.fromkeys((score.task, score.metric) for _, score in scores))
    score_rows = [
        [
            f"{score.task}, {score.metric}",
            Marked(arm.arm, colours[arm.arm]),
            str(score.over_seeds.n),
            number(score.over_seeds.mean),
            number(score.over_seeds.sd),
            number(score.stderr),
            NONE if score.items is None else f"{score.items:,}",
        ]
        for key in keys
        for arm, score in scores
        if (score.task, score.metric) == key
    ]
    difference_rows = [
        _difference_row(pair, score, colours)
        for key in keys
        for pair in summary.pairs
        for score in pair.scores
        if (score.task, score.metric) == key and not score.in_group
    ]
    note = chance_note({task for task, _ in keys})
    score_header = ["Task and metric", "arm", "n", "mean", "sd over seeds", "stderr over items", "items"]
    header = ["Task and metric", "arm", "against", "difference", "shown", "over seeds: 95 % interval", "p", "p (Holm)"]
    header += ["over items: 95 % interval", "p", "p (Holm)", "items", "test"]
    return [
        Heading("Downstream tasks"),
        *pictures(figures, "downstream"),
        Paragraph(_HOW_TO_READ),
        *([long_table("All differences", Table(header, difference_rows, text_columns=3))] if difference_rows else []),
        *([Paragraph(note)] if note else []),
        long_table("All scores", Table(score_header, score_rows, text_columns=2)),
    ]


def _difference_row(pair: PairSummary, score: ScoreDifference, colours: Mapping[str, str]) -> list[str | Marked]:
    row = [
        f"{score.task}, {score.metric}",
        Marked(pair.arm, colours[pair.arm]),
        Marked(pair.reference, colours[pair.reference]),
    ]
    seeds, items = score.over_seeds, score.over_items
    if seeds is None:
        return [*row, "not compared" if score.note else NONE, *[NONE] * 9]
    row += [number(seeds.mean, "+"), _shown(score), interval(seeds.low, seeds.high)]
    row += [p_value(seeds.p_value), p_value(seeds.p_holm)]
    if items is None:
        return [*row, *[NONE] * 5]
    count = f"{items.items:,}" + (f" in {items.clusters} groups" if items.clusters else "")
    flips = "" if items.gained is None or items.lost is None else f" (gained {items.gained}, lost {items.lost})"
    return [
        *row,
        interval(items.low, items.high),
        p_value(items.p_value),
        p_value(items.p_holm),
        count,
        items.test + flips,
    ]


def _shown(score: ScoreDifference) -> str:
    if score.over_items is None and score.over_seeds.n < 2:
        return "no test"
    if not score.is_shown:
        return "no"
    return "better" if (score.over_seeds.mean > 0) == score.higher_is_better else "worse"
