"""Read what runs have left in their folders: curves, counts, downstream scores, provenance."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tst_lightning.comparison import folder as run_files
from tst_lightning.comparison.experiment import Experiment, run_folder
from tst_lightning.evaluation.metrics import metric_values
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
class Score:
    """One metric of one downstream task."""

    task: str
    metric: str
    value: float
    stderr: float | None
    """Standard error over the task's items, as lm-eval gives it."""
    items: int | None
    higher_is_better: bool
    in_group: bool
    """A part of a group whose own score stands beside it."""


@dataclass(frozen=True)
class RunResult:
    """What one run left. ``status`` is ``finished``, ``unfinished`` or ``missing``."""

    arm: str
    seed: int
    folder: Path
    status: str
    curve: Curve
    scores: tuple[Score, ...]
    evaluated_step: int | None
    progress: dict[str, Any]
    """``progress.json``: exact counts at the last step reached."""
    finished: dict[str, Any]
    """``finished.json``: command, wall time, versions, commit, machine; empty if there is none."""
    command: str
    config: str
    """The resolved configuration, as YAML text."""

    @property
    def final_loss(self) -> float | None:
        """Validation loss at the last step of a finished run; None otherwise."""
        return self.curve.val_loss[-1] if self.status == "finished" else None


def collect(experiment: Experiment) -> list[RunResult]:
    """Read every run that the experiment has, in its order; those that are not there come as missing."""
    return [
        read_run(arm, seed, run_folder(experiment.output_dir, arm, seed))
        for seed in experiment.seeds
        for arm in experiment.arms
    ]


def read_run(arm: str, seed: int, folder: Path) -> RunResult:
    """Read one run's folder, whatever of it exists."""
    progress = read_json(folder / run_files.PROGRESS_FILE) or {}
    finished = read_json(folder / run_files.FINISHED_FILE) or {}
    curve = read_curve(folder)
    evaluated_step, scores = read_scores(folder / "evaluation")
    command = _text(folder / run_files.COMMAND_FILE).strip()
    status = "missing"
    if progress or finished or curve.steps:
        status = "finished" if finished and curve.steps else "unfinished"
    return RunResult(
        arm, seed, folder, status, curve, scores, evaluated_step,
        progress, finished, command, _text(folder / CONFIG_FILE),
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
    # tensorboard takes a second to import and is wanted only here.
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    attempts = []
    for path in folder.glob("events.out.tfevents.*"):
        events = EventAccumulator(str(path), size_guidance={SCALARS: 0}, purge_orphaned_data=False)
        events.Reload()
        found = set(events.Tags()["scalars"])
        series = {tag: events.Scalars(tag) for tag in tags if tag in found}
        if series:
            attempts.append((min(points[0].wall_time for points in series.values()), series))
    merged: dict[str, dict[int, float]] = {tag: {} for tag in tags}
    for _, series in sorted(attempts, key=lambda attempt: attempt[0]):
        for tag, points in series.items():
            first = min(point.step for point in points)
            kept = {step: value for step, value in merged[tag].items() if step < first}
            merged[tag] = kept | {point.step: point.value for point in points}
    return merged


def read_scores(folder: Path) -> tuple[int | None, tuple[Score, ...]]:
    """Downstream scores of the last step that was evaluated, from lm-eval's newest results file there."""
    found = []
    for path in folder.glob("step=*/results_*.json"):
        step = path.parent.name.removeprefix("step=")
        if step.isdigit():
            found.append((int(step), path.name, path))
    for step, _, path in sorted(found, reverse=True):
        results = read_json(path)
        if results is not None:
            return step, _scores(results)
    return None, ()


def _scores(results: dict[str, Any]) -> tuple[Score, ...]:
    groups = results.get("group_subtasks") or {}
    members = {task for group, tasks in groups.items() if group in results["results"] for task in tasks}
    scores = []
    for task, values in results.get("results", {}).items():
        for metric, filter_name, value, stderr in metric_values(values):
            higher = (results.get("higher_is_better", {}).get(task) or {}).get(metric)
            scores.append(
                Score(
                    task=task,
                    metric=metric if filter_name == "none" else f"{metric} ({filter_name})",
                    value=value,
                    stderr=stderr,
                    items=(results.get("n-samples", {}).get(task) or {}).get("effective"),
                    higher_is_better=higher if isinstance(higher, bool) else "perplexity" not in metric,
                    in_group=task in members,
                )
            )
    return tuple(scores)


def _at_steps(steps: list[int], series: dict[int, float]) -> list[float]:
    """A quantity that was logged about the same steps, at the steps of the validations."""
    known = sorted(series)
    return [float(value) for value in np.interp(steps, known, [series[step] for step in known])]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
