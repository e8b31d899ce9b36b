"""``report.json``: every number of a report, and what it was made from."""

import json
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from tst_lightning.comparison.analysis.collect import RunResult
from tst_lightning.comparison.analysis.summary import ArmSummary, ComparisonSummary, PairSummary
from tst_lightning.comparison.design.experiment import Experiment
from tst_lightning.comparison.reporting.cautions import cautions
from tst_lightning.comparison.reporting.plain import finite
from tst_lightning.comparison.reporting.sentences import pair_sentence
from tst_lightning.comparison.reporting.verdict import verdict
from tst_lightning.comparison.running.folder import now_utc

FORMAT_VERSION = 2
"""1 had one baseline for all arms, and no tests over items."""


def report_json(experiment: Experiment, summary: ComparisonSummary, results: list[RunResult]) -> str:
    """The file's text; numbers that JSON has no word for are null."""
    values = {
        "format_version": FORMAT_VERSION,
        "created": now_utc(),
        "experiment": asdict(experiment) | {"output_dir": str(experiment.output_dir)},
        "verdict": verdict(summary).text,
        "cautions": cautions(experiment, summary),
        "statuses": _statuses(results),
        "arms": {name: _arm_values(arm) for name, arm in summary.arms.items()},
        "pairs": [_pair_values(pair) | {"sentence": pair_sentence(pair, summary)} for pair in summary.pairs],
        "frontiers": [asdict(frontier) for frontier in summary.frontiers],
        "speed_ups": [asdict(speed_up) for speed_up in summary.speed_ups],
        "overtakings": [asdict(overtaking) for overtaking in summary.overtakings],
        "runs": [_run_values(run, experiment.output_dir) for run in results],
    }
    return json.dumps(finite(values), indent=1, allow_nan=False) + "\n"


def _statuses(results: list[RunResult]) -> dict[str, dict[int, str]]:
    """Arm -> seed -> what has become of the run."""
    statuses: dict[str, dict[int, str]] = {}
    for run in results:
        status = "diverged" if run.diverged else run.status
        statuses.setdefault(run.arm, {})[run.seed] = f"{status}: {run.note}" if run.note else status
    return statuses


def _arm_values(arm: ArmSummary) -> dict[str, Any]:
    # Not its runs: they stand beside the arms, in full.
    return {column.name: _plain(getattr(arm, column.name)) for column in fields(arm) if column.name != "runs"}


def _pair_values(pair: PairSummary) -> dict[str, Any]:
    scores = [asdict(score) | {"is_shown": score.is_shown} for score in pair.scores]
    is_shown = pair.difference is not None and pair.difference.is_shown
    return asdict(pair) | {"is_shown": is_shown, "scores": scores}


def _run_values(run: RunResult, output_dir: Path) -> dict[str, Any]:
    values = asdict(run)
    values["folder"] = run.folder.relative_to(output_dir).as_posix()
    for file in values["results_files"]:
        file["path"] = file["path"].relative_to(output_dir).as_posix()
    return values


def _plain(value: Any) -> Any:
    """Dataclasses, also within tuples, as dictionaries."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) else value
