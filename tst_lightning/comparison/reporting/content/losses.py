"""Sections on the validation loss: at the end, on the way, and over the grid of bag size and ratio."""

from collections.abc import Mapping

from tst_lightning.comparison.analysis.summary import ArmSummary, ComparisonSummary, PairSummary
from tst_lightning.comparison.design.experiment import Experiment
from tst_lightning.comparison.reporting.content.cells import NONE, interval, long_table, number, p_value, pictures
from tst_lightning.comparison.reporting.document import Block, Figure, Folded, Heading, Marked, Notes, Paragraph, Table
from tst_lightning.comparison.reporting.sentences import CURVES_CAUTION, crossing_sentence

_OPEN_SENTENCES = 8


def loss_section(
    experiment: Experiment, summary: ComparisonSummary, colours: Mapping[str, str], figures: Mapping[str, Figure]
) -> list[Block]:
    """Differences of every pair, and the losses of every arm."""
    pairs = Table(
        ["Arm", "against", "budget", "n", "difference", "95 % interval", "p", "p (Holm)"],
        [_pair_row(pair, colours) for pair in summary.pairs],
        text_columns=3,
    )
    seeds = experiment.seeds
    arms = Table(
        ["Arm", "n", "mean", "sd", "95 % interval", *(f"seed {seed}" for seed in seeds), "bits per byte"],
        [_arm_row(arm, seeds, colours) for arm in summary.arms.values()],
    )
    return [
        Heading("Final validation loss"),
        Paragraph(
            "Next-token loss in nats per token at the end of training; lower is better, so a negative difference "
            "means better than what the arm is compared with. Differences are paired by seed, intervals and p "
            "values are Student's t over seeds, and Holm's correction is over all rows."
        ),
        long_table("All differences", pairs),
        *pictures(figures, "differences"),
        long_table("The losses of all arms", arms),
    ]


def curve_section(summary: ComparisonSummary, figures: Mapping[str, Figure]) -> list[Block]:
    """The way there."""
    crossings: list[Block] = [Notes([crossing_sentence(pair) for pair in summary.pairs])]
    if len(summary.pairs) > _OPEN_SENTENCES:
        crossings = [Folded("Where each arm's curve passes below that of its reference", crossings)]
    return [
        Heading("On the way"),
        *pictures(figures, "loss_flops"),
        Paragraph(CURVES_CAUTION),
        *crossings,
        *pictures(figures, "loss_time"),
    ]


def grid_section(figures: Mapping[str, Figure]) -> list[Block]:
    """Bag size and ratio, where the arms make up a grid of them."""
    found = pictures(figures, "bag_size", "heat_map")
    return [Heading("Bag size and ratio"), *found] if found else []


def _pair_row(pair: PairSummary, colours: Mapping[str, str]) -> list[str | Marked]:
    row = [Marked(pair.arm, colours[pair.arm]), Marked(pair.reference, colours[pair.reference]), pair.budget]
    difference = pair.difference
    if difference is None:
        return [*row, NONE, "not compared" if pair.not_compared else NONE, NONE, NONE, NONE]
    return [
        *row,
        str(difference.n),
        number(difference.mean, "+"),
        interval(difference.low, difference.high),
        p_value(difference.p_value),
        p_value(difference.p_holm),
    ]


def _arm_row(arm: ArmSummary, seeds: tuple[int, ...], colours: Mapping[str, str]) -> list[str | Marked]:
    final = arm.final
    by_seed = ["diverged" if seed in arm.diverged else number(arm.final_by_seed.get(seed)) for seed in seeds]
    between = NONE
    if final is not None and final.low is not None:
        between = f"{number(final.low)} to {number(final.high)}"
    return [
        Marked(arm.arm, colours[arm.arm]),
        str(len(arm.final_by_seed)),
        number(final and final.mean),
        number(final and final.sd),
        between,
        *by_seed,
        number(arm.bits_per_byte and arm.bits_per_byte.mean),
    ]
