"""What a report says, block by block."""

from collections.abc import Mapping, Sequence

from tst_lightning.comparison.analysis.summary import ComparisonSummary
from tst_lightning.comparison.design.experiment import Experiment
from tst_lightning.comparison.reporting.cautions import cautions
from tst_lightning.comparison.reporting.content.cells import NONE
from tst_lightning.comparison.reporting.content.costs import cost_section, status_section
from tst_lightning.comparison.reporting.content.downstream import downstream_section
from tst_lightning.comparison.reporting.content.lengths import length_section
from tst_lightning.comparison.reporting.content.losses import curve_section, grid_section, loss_section
from tst_lightning.comparison.reporting.content.origin import origin_section
from tst_lightning.comparison.reporting.document import Block, Figure, Folded, Heading, Notes, Paragraph, Verdict
from tst_lightning.comparison.reporting.figures import method_looks
from tst_lightning.comparison.reporting.verdict import verdict

__all__ = ["NONE", "report_blocks"]

_CAUTIONS = 8


def report_blocks(
    experiment: Experiment, summary: ComparisonSummary, figures: Mapping[str, Figure], command: str
) -> list[Block]:
    """The whole report.

    Args:
        experiment: what was to be run.
        summary: what has come of it.
        figures: the pictures that could be drawn, by name.
        command: what makes this report anew.
    """
    looks = method_looks(summary, experiment.baseline)
    colours = {name: looks[arm.method].colour for name, arm in summary.arms.items()}
    sections = [
        loss_section(experiment, summary, colours, figures),
        curve_section(summary, figures),
        grid_section(figures),
        length_section(experiment, summary, {method: look.colour for method, look in looks.items()}, figures),
        downstream_section(summary, colours, figures),
        cost_section(summary, colours, figures),
        status_section(summary, colours),
        origin_section(experiment, summary, command),
    ]
    return [
        Heading(experiment.title or experiment.name, 1),
        *([Paragraph(experiment.description)] if experiment.description else []),
        *_verdict_blocks(summary),
        *_caution_blocks(cautions(experiment, summary)),
        *(block for section in sections for block in section),
    ]


def _verdict_blocks(summary: ComparisonSummary) -> list[Block]:
    found = verdict(summary)
    first, *more = found.sentences
    folded = [Folded("Each comparison in a sentence", [Notes(found.details)])] if found.details else []
    return [Verdict(first, more), *folded]


def _caution_blocks(notes: Sequence[str]) -> list[Block]:
    if len(notes) <= _CAUTIONS:
        return [Notes(notes)]
    return [Notes(notes[:_CAUTIONS]), Folded(f"{len(notes) - _CAUTIONS} more remarks", [Notes(notes[_CAUTIONS:])])]
