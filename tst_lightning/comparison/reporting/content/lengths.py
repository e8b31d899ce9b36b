"""The section on run lengths: where methods overtake, and the frontiers of finished models."""

from collections.abc import Mapping

from tst_lightning.comparison.analysis.summary import ComparisonSummary, SpeedUp
from tst_lightning.comparison.design.experiment import Experiment
from tst_lightning.comparison.reporting.content.cells import NONE, long_table, number, pictures
from tst_lightning.comparison.reporting.document import Block, Figure, Heading, Marked, Notes, Paragraph, Table
from tst_lightning.comparison.reporting.sentences import overtaking_sentence


def length_section(
    experiment: Experiment, summary: ComparisonSummary, colours: Mapping[str, str], figures: Mapping[str, Figure]
) -> list[Block]:
    """Empty for a comparison of one length; ``colours`` are those of methods."""
    found = [overtaking_sentence(overtaking, experiment.baseline) for overtaking in summary.overtakings]
    blocks: list[Block] = [*pictures(figures, "run_length"), *([Notes(found)] if found else [])]
    blocks += pictures(figures, "frontier")
    if summary.speed_ups:
        rows = [_speed_up_row(found, colours) for found in summary.speed_ups]
        header = ["Method", "at the loss of", "loss", "speed-up", "95 % interval", "n", "remark"]
        blocks += [
            Paragraph(
                "The speed-up at a loss is the number of times that the method's FLOPs go into those that the baseline "
                "needs for the same loss: above 1 the method is cheaper. Seed by seed both frontiers are interpolated, "
                "straight between finished models on logarithmic axes, and never extrapolated. Each interval "
                "is of one speed-up alone, not corrected for their number."
            ),
            long_table("All speed-ups", Table(header, rows, text_columns=2)),
        ]
    if summary.frontiers:
        rows = [
            [
                Marked(point.arm, colours[frontier.method]),
                frontier.kind,
                f"{point.steps:,}",
                f"{point.flops:.4g}",
                str(len(point.loss_by_seed)),
                number(sum(point.loss_by_seed.values()) / len(point.loss_by_seed)) if point.loss_by_seed else NONE,
            ]
            for frontier in summary.frontiers
            for point in frontier.points
        ]
        header = ["Finished models", "came about as", "steps", "FLOPs", "n", "mean loss"]
        blocks.append(long_table("All finished models of the frontiers", Table(header, rows, text_columns=2)))
    if not blocks:
        return []
    return [Heading("Run length and speed-up"), *blocks]


def _speed_up_row(found: SpeedUp, colours: Mapping[str, str]) -> list[str | Marked]:
    name = f"{found.method} ({found.variant})" if found.variant else found.method
    return [
        Marked(name, colours[found.method]),
        f"{found.of_method} after {found.of_length:,} steps",
        number(found.loss),
        NONE if found.ratio is None else f"{found.ratio:.2f} times",
        NONE if found.low is None else f"{found.low:.2f} to {found.high:.2f}",
        str(found.n),
        found.note or NONE,
    ]
