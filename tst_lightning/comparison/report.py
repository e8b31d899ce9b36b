"""From run folders to ``report.md``, ``report.html``, ``report.json``, figures and a terminal table."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tst_lightning.comparison.collect import RunResult, collect
from tst_lightning.comparison.content import NONE, report_blocks
from tst_lightning.comparison.display import duration
from tst_lightning.comparison.document import to_html, to_markdown
from tst_lightning.comparison.experiment import Experiment
from tst_lightning.comparison.figures import draw_figures
from tst_lightning.comparison.folder import now_utc
from tst_lightning.comparison.sentences import verdict
from tst_lightning.comparison.summary import ArmSummary, summarize_arms
from tst_lightning.errors import UserError
from tst_lightning.files import write_atomically

FORMAT_VERSION = 1
_TERMINAL_SCORES = 4
"""Downstream columns that a terminal has room for."""


def write_report(output_dir: Path) -> str:
    """Rebuild the report of a comparison, complete or not.

    Returns:
        What to show in the terminal: the verdict, a table, and where the files are.

    Raises:
        UserError: the folder holds no comparison, or cannot be written.
    """
    experiment = Experiment.load(output_dir)
    results = collect(experiment)
    arms = summarize_arms(experiment, results)
    folder = experiment.output_dir
    try:
        figures = draw_figures(arms, experiment.baseline, folder / "figures")
        blocks = report_blocks(experiment, arms, figures)
        write_atomically(folder / "report.json", _to_json(experiment, arms, results))
        write_atomically(folder / "report.md", to_markdown(blocks, folder))
        write_atomically(folder / "report.html", to_html(blocks, experiment.title or experiment.name))
    except OSError as error:
        raise UserError(
            f"the report cannot be written to '{folder}' ({error.strerror or error}): "
            "make room or make it writable, then give the command again"
        ) from error
    return terminal_summary(experiment, arms)


def terminal_summary(experiment: Experiment, arms: dict[str, ArmSummary]) -> str:
    """The verdict, one line per arm with one score per task, and the report's files, as plain text."""
    metrics: dict[str, str] = {}
    for arm in arms.values():
        for score in arm.scores:
            if not score.in_group and score.higher_is_better:
                metrics.setdefault(score.task, score.metric)
    keys = list(metrics.items())[:_TERMINAL_SCORES]
    header = ["arm", "runs", "final val loss", "difference", *(f"{task} {metric}" for task, metric in keys)]
    rows = [[*header, "training time"]]
    for arm in arms.values():
        scores = {(score.task, score.metric): score.over_seeds.mean for score in arm.scores}
        seconds = arm.costs["train_seconds"]
        rows.append(
            [
                arm.arm,
                f"{len(arm.finished)}/{len(arm.runs)}",
                _with_sd(arm),
                NONE if arm.difference is None else f"{arm.difference.mean:+.4f}",
                *(f"{scores[key]:.4f}" if key in scores else NONE for key in keys),
                NONE if seconds is None else duration(seconds),
            ]
        )
    names = ("report.html", "report.md", "report.json")
    files = "\n".join(f"  {experiment.output_dir / name}" for name in names)
    return f"{verdict(arms, experiment.baseline)}\n\n{_aligned(rows)}\n\n{files}"


def _with_sd(arm: ArmSummary) -> str:
    if arm.final is None:
        return NONE
    spread = "" if arm.final.sd is None else f" ± {arm.final.sd:.4f}"
    return f"{arm.final.mean:.4f}{spread}"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells))
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _to_json(experiment: Experiment, arms: dict[str, ArmSummary], results: list[RunResult]) -> str:
    """Everything that the report shows and what it was made from."""
    values = {
        "format_version": FORMAT_VERSION,
        "created": now_utc(),
        "experiment": asdict(experiment) | {"output_dir": str(experiment.output_dir)},
        "verdict": verdict(arms, experiment.baseline),
        "arms": {name: _arm_values(arm) for name, arm in arms.items()},
        "runs": [asdict(run) | {"folder": run.folder.relative_to(experiment.output_dir).as_posix()} for run in results],
    }
    return json.dumps(_finite(values), indent=1, allow_nan=False) + "\n"


def _arm_values(arm: ArmSummary) -> dict[str, Any]:
    values = asdict(arm)
    del values["runs"]  # the runs stand beside the arms, in full
    return values


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
