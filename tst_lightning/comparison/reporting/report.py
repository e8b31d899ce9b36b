"""From run folders to ``report.md``, ``report.html``, ``report.json``, figures and a terminal table."""

import shlex
from pathlib import Path

from tst_lightning.comparison.analysis.collect import collect
from tst_lightning.comparison.analysis.summary import ArmSummary, ComparisonSummary, PairSummary, summarize_comparison
from tst_lightning.comparison.design.experiment import PROGRAM, Experiment
from tst_lightning.comparison.reporting.content import NONE, report_blocks
from tst_lightning.comparison.reporting.document import to_html, to_markdown
from tst_lightning.comparison.reporting.figures import draw_figures, read_paper_curves
from tst_lightning.comparison.reporting.plain import aligned
from tst_lightning.comparison.reporting.report_values import report_json
from tst_lightning.comparison.reporting.verdict import verdict
from tst_lightning.comparison.running.display import duration
from tst_lightning.errors import UserError
from tst_lightning.files import write_atomically

_TERMINAL_SCORES = 4
"""Downstream columns that a terminal has room for."""


def write_report(output_dir: Path, paper_curves: str | None = None) -> str:
    """Rebuild the report of a comparison, complete or not.

    Args:
        output_dir: of the comparison.
        paper_curves: folder of published losses to lay beside its own.

    Returns:
        What to show in the terminal: the verdict, a table, and where the files are.

    Raises:
        UserError: the folder holds no comparison, or a report whose runs are gone, or cannot be written;
            ``paper_curves`` holds none.
    """
    experiment = Experiment.load(output_dir)
    paper = read_paper_curves(paper_curves) if paper_curves else []
    results = collect(experiment)
    if (output_dir / "report.json").is_file() and not (output_dir / "runs").is_dir():
        raise UserError(
            f"'{output_dir}' holds a report but no runs any more ('{output_dir / 'runs'}' is missing), and would be "
            "overwritten by an empty one: bring the runs back, or give its `tst-lightning compare` again"
        )
    summary = summarize_comparison(experiment, results)
    folder = experiment.output_dir
    try:
        figures = draw_figures(summary, experiment.baseline, folder / "figures", paper)
        blocks = report_blocks(experiment, summary, figures, _command(output_dir, paper_curves))
        write_atomically(folder / "report.json", report_json(experiment, summary, results))
        write_atomically(folder / "report.md", to_markdown(blocks, folder))
        write_atomically(folder / "report.html", to_html(blocks, experiment.title or experiment.name))
    except OSError as error:
        raise UserError(
            f"the report cannot be written to '{folder}' ({error.strerror or error}): "
            "make room or make it writable, then give the command again"
        ) from error
    return terminal_summary(experiment, summary)


def _command(output_dir: Path, paper_curves: str | None) -> str:
    """What makes this report anew."""
    words = [PROGRAM, "report", str(output_dir)]
    return shlex.join([*words, "--paper_curves", paper_curves] if paper_curves else words)


def terminal_summary(experiment: Experiment, summary: ComparisonSummary) -> str:
    """The verdict, one line per arm with one score per task, and the report's files, as plain text."""
    metrics: dict[str, str] = {}
    for arm in summary.arms.values():
        for score in arm.scores:
            if not score.in_group and score.higher_is_better:
                metrics.setdefault(score.task, score.metric)
    keys = list(metrics.items())[:_TERMINAL_SCORES]
    header = ["arm", "runs", "final val loss", "difference", *(f"{task} {metric}" for task, metric in keys)]
    rows = [[*header, "training time"]]
    for arm in summary.arms.values():
        scores = {(score.task, score.metric): score.over_seeds.mean for score in arm.scores}
        seconds = arm.costs["train_seconds"]
        rows.append(
            [
                arm.arm,
                f"{len(arm.finished)}/{len(arm.runs)}",
                _with_sd(arm),
                _first_difference(summary.pairs_of(arm.arm)),
                *(f"{scores[key]:.4f}" if key in scores else NONE for key in keys),
                NONE if seconds is None else duration(seconds),
            ]
        )
    names = ("report.html", "report.md", "report.json")
    files = "\n".join(f"  {experiment.output_dir / name}" for name in names)
    sentences = "\n".join(verdict(summary).sentences)
    return f"{sentences}\n\n{aligned(rows)}\n\n{files}"


def _first_difference(pairs: list[PairSummary]) -> str:
    """To the arm's first reference, the baseline of its length."""
    difference = pairs[0].difference if pairs else None
    return NONE if difference is None else f"{difference.mean:+.4f}"


def _with_sd(arm: ArmSummary) -> str:
    diverged = f"{len(arm.diverged)} diverged" if arm.diverged else ""
    if arm.final is None:
        return diverged or NONE
    spread = "" if arm.final.sd is None else f" ± {arm.final.sd:.4f}"
    return f"{arm.final.mean:.4f}{spread}" + (f" ({diverged})" if diverged else "")
