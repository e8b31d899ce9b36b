"""Read what runs have left in their folders: curves, counts, downstream scores, provenance.

A run that was killed leaves files that end anywhere: whatever cannot be read is as if it were not there, and the
run's status says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from tst_lightning.comparison.analysis.evaluations import ResultsFile, Score, read_evaluation
from tst_lightning.comparison.analysis.event_files import scalar_events
from tst_lightning.comparison.design.arms import Arm
from tst_lightning.comparison.design.experiment import Experiment, run_folder
from tst_lightning.comparison.design.halving import dropped_arms
from tst_lightning.comparison.running import folder as run_files
from tst_lightning.files import read_json

CONFIG_FILE = "config.yaml"
CURVE_TAGS = {
    "flops": "progress/flops",
    "positions": "progress/positions",
    "data_tokens": "progress/data_tokens",
    "seconds": "progress/train_seconds",
    "bits_per_byte": "val/bits_per_byte",
}
_LOSS_TAG = "val/loss"


@dataclass(frozen=True)
class Curve:
    """One entry per validation, steps ascending. A quantity that was never logged is an empty list."""

    steps: list[int] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    """Next-token loss in nats per token, in every phase."""
    flops: list[float] = field(default_factory=list)
    positions: list[float] = field(default_factory=list)
    data_tokens: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Time spent training, validation left out."""
    bits_per_byte: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class RunResult:
    """What one run left."""

    arm: str
    seed: int
    folder: Path
    status: str
    """``finished``, ``unfinished``, ``missing`` (never begun), ``unreadable`` (said to be finished, but what it found
    cannot be read) or ``dropped`` (by halving)."""
    curve: Curve
    """A branch's begins with its trunk's up to the branch."""
    scores: tuple[Score, ...]
    evaluated_step: int | None
    progress: dict[str, Any]
    """``progress.json``: exact counts at the last step reached."""
    finished: dict[str, Any]
    """``finished.json``: command, wall time, versions, commit, machine; empty if there is none."""
    command: str
    config: str
    """The resolved configuration, as YAML text."""
    results_files: tuple[ResultsFile, ...] = ()
    """lm-eval's files that ``scores`` come from, newest first."""
    note: str = ""
    """What more is to be said about the status."""

    @property
    def final_loss(self) -> float | None:
        """Validation loss at the last step of a finished run; None otherwise."""
        return self.curve.val_loss[-1] if self.status == "finished" else None

    @property
    def evaluated_early(self) -> bool:
        """The last evaluation was before the end of training: ``scores`` are not those of the finished model."""
        steps = self.progress.get("max_steps")
        return bool(steps) and self.evaluated_step is not None and self.evaluated_step < steps

    @property
    def final_scores(self) -> tuple[Score, ...]:
        """Scores of the model at the end of training."""
        return () if self.evaluated_early else self.scores

    def settings_of(self, task: str) -> dict[str, Any]:
        """Of the evaluation that a task's or group's scores come from."""
        return next((file.settings for file in self.results_files if task in file.tasks), {})

    @property
    def diverged(self) -> bool:
        """The last validation loss that is known is not a finite number."""
        return bool(self.curve.val_loss) and not math.isfinite(self.curve.val_loss[-1])


def collect(experiment: Experiment) -> list[RunResult]:
    """Read every run that the experiment has, in its order; those that are not there come as missing."""
    dropped = _dropped_arms(experiment.output_dir)
    runs = {}
    for seed in experiment.seeds:
        for arm in experiment.arms:
            run = read_run(arm, seed, run_folder(experiment.output_dir, arm, seed))
            if arm in dropped and run.status in ("missing", "unfinished"):
                run = replace(run, status="dropped", note=dropped[arm])
            runs[arm, seed] = run
    return [_with_trunk(run, experiment.arms[arm], runs) for (arm, _), run in runs.items()]


def read_run(arm: str, seed: int, folder: Path) -> RunResult:
    """Read one run's folder, whatever of it exists."""
    progress = _numbers(read_json(folder / run_files.PROGRESS_FILE) or {})
    finished = read_json(folder / run_files.FINISHED_FILE)
    curve = read_curve(folder)
    evaluation = read_evaluation(folder / "evaluation")
    command = _text(folder / run_files.COMMAND_FILE).strip()
    status, note = "missing", ""
    if (folder / run_files.FINISHED_FILE).exists():
        status = "finished"
        if finished is None:
            status, note = "unreadable", f"{run_files.FINISHED_FILE} is not readable as JSON"
        elif not curve.steps:
            status, note = "unreadable", "its event files hold no validation loss"
        elif curve.steps[-1] < (progress.get("max_steps") or 0):
            # Every run validates at its end: the end of the events is lost, and with it the final loss.
            status = "unreadable"
            note = f"last validation at {curve.steps[-1]:,} of {progress['max_steps']:,}"
    elif progress or curve.steps or (folder / run_files.PROGRESS_FILE).exists():
        status = "unfinished"
    return RunResult(
        arm, seed, folder, status, curve, evaluation.scores, evaluation.step,
        progress, finished or {}, command, _text(folder / CONFIG_FILE),
        evaluation.results_files, note,
    )  # fmt: skip


def read_curve(folder: Path) -> Curve:
    """Validation losses of a run with what had been spent at each."""
    scalars = read_scalars(folder, [_LOSS_TAG, *CURVE_TAGS.values()])
    losses = scalars[_LOSS_TAG]
    losses.pop(0, None)
    steps = sorted(losses)
    columns = {
        name: _at_steps(steps, scalars[tag]) if scalars[tag] and steps else [] for name, tag in CURVE_TAGS.items()
    }
    return Curve(steps, [losses[step] for step in steps], **columns)


def read_scalars(folder: Path, tags: Sequence[str]) -> dict[str, dict[int, float]]:
    """TensorBoard scalars of a run: tag -> step -> value.

    A resumed run leaves an event file for each attempt. An attempt that starts again at an earlier step
    replaces what the one before had written from that step on, tag by tag.
    """
    attempts = []
    for path in folder.glob("events.out.tfevents.*"):
        series: dict[str, list[tuple[int, float]]] = {}
        times = []
        for tag, step, value, wall_time in scalar_events(path, tags):
            series.setdefault(tag, []).append((step, value))
            times.append(wall_time)
        if series:
            attempts.append((min(times), series))
    merged: dict[str, dict[int, float]] = {tag: {} for tag in tags}
    for _, series in sorted(attempts, key=lambda attempt: attempt[0]):
        for tag, points in series.items():
            first = min(step for step, _ in points)
            kept = {step: value for step, value in merged[tag].items() if step < first}
            merged[tag] = kept | dict(points)
    return merged


def _with_trunk(run: RunResult, arm: Arm, runs: Mapping[tuple[str, int], RunResult]) -> RunResult:
    """A branch's run with the curve of its trunk before its own."""
    trunk = runs.get((arm.trunk, run.seed)) if arm.trunk else None
    if trunk is None or not run.curve.steps or not trunk.curve.steps:
        return run
    kept = [
        place for place, step in enumerate(trunk.curve.steps) if step <= min(arm.branch_step, run.curve.steps[0] - 1)
    ]
    columns = {}
    for column in fields(Curve):
        before, own = getattr(trunk.curve, column.name), getattr(run.curve, column.name)
        columns[column.name] = [*(before[place] for place in kept), *own] if before and own else []
    return replace(run, curve=Curve(**columns))


def _dropped_arms(output_dir: Path) -> dict[str, str]:
    """Arms that halving has dropped, with the reason."""
    try:
        return dropped_arms(output_dir)
    except (KeyError, TypeError):  # not what halving writes
        return {}


def _numbers(progress: dict[str, Any]) -> dict[str, Any]:
    """Without values that are not of the kind that is counted with."""
    return {key: value for key, value in progress.items() if key == "phase" or isinstance(value, int | float | None)}


def _at_steps(steps: list[int], series: dict[int, float]) -> list[float]:
    """A quantity that was logged about the same steps, at the steps of the validations."""
    known = sorted(series)
    return [float(value) for value in np.interp(steps, known, [series[step] for step in known])]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
