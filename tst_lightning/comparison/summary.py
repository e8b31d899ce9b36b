"""The runs of a comparison, summed up per arm: what the report, its figures and the terminal all show."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tst_lightning.comparison.analysis import (
    Crossing,
    PairedDifference,
    Summary,
    crossing,
    mean_curve,
    paired_difference,
    summarize,
    x_at_step,
)
from tst_lightning.comparison.collect import Curve, RunResult
from tst_lightning.comparison.experiment import Experiment
from tst_lightning.comparison.validation_text import other_validation

COSTS = ("data_tokens", "positions", "flops", "train_seconds", "wall_seconds", "positions_per_second")
"""Quantities of ``ArmSummary.costs``."""


@dataclass(frozen=True)
class ScoreSummary:
    """One downstream metric of one arm, over the seeds of finished runs."""

    task: str
    metric: str
    by_seed: dict[int, float]
    over_seeds: Summary
    stderr: float | None
    """Mean over seeds of lm-eval's standard error over items."""
    items: int | None
    difference: PairedDifference | None
    """To the baseline, paired by seed; None for the baseline itself."""
    higher_is_better: bool
    in_group: bool


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its seeds."""

    arm: str
    runs: tuple[RunResult, ...]
    """All of the arm's runs, whatever their status."""
    final_by_seed: dict[int, float]
    """Seed -> final validation loss of finished runs, in nats per token."""
    final: Summary | None
    bits_per_byte: Summary | None
    difference: PairedDifference | None
    """Of final losses to the baseline's; None for the baseline, without common finished seeds, or if the two are
    losses of different text."""
    other_validation: str
    """What makes the arm's validation text another than the baseline's; empty if it is the same."""
    costs: dict[str, float | None]
    """Means over finished runs."""
    scores: tuple[ScoreSummary, ...]
    switch_step: int
    """First step of plain next-token training; 0 if it is all of the run."""
    crosses_at_step: Crossing | None
    """Where the mean curve passes below the baseline's for good; None if never, or if the text differs."""
    crosses_at_flops: Crossing | None

    @property
    def finished(self) -> tuple[RunResult, ...]:
        return tuple(run for run in self.runs if run.status == "finished")

    def mean_curve(self, x: str) -> tuple[np.ndarray, np.ndarray]:
        """The arm's curve of validation loss against ``x``, a field of ``Curve``, averaged over seeds."""
        _, x_values, losses = _mean([run.curve for run in self.runs], x)
        return x_values, losses

    def switch_at(self, x: str) -> float | None:
        """The switch in units of ``x``: mean over runs that have come so far, None without a switch."""
        if not self.switch_step:
            return None
        places = [
            x_at_step(self.switch_step, run.curve.steps, getattr(run.curve, x))
            for run in self.runs
            if getattr(run.curve, x)
        ]
        known = [place for place in places if place is not None]
        return sum(known) / len(known) if known else None


def summarize_arms(experiment: Experiment, results: Sequence[RunResult]) -> dict[str, ArmSummary]:
    """Sum up every arm, the baseline first."""
    order = [experiment.baseline, *(arm for arm in experiment.arms if arm != experiment.baseline)]
    by_arm = {arm: tuple(run for run in results if run.arm == arm) for arm in order}
    base_runs = by_arm[experiment.baseline]
    return {
        arm: _summarize_arm(arm, runs, None if arm == experiment.baseline else base_runs)
        for arm, runs in by_arm.items()
    }


def _summarize_arm(arm: str, runs: tuple[RunResult, ...], base_runs: tuple[RunResult, ...] | None) -> ArmSummary:
    finished = [run for run in runs if run.status == "finished"]
    finals = _final_losses(runs)
    crossings: dict[str, Crossing | None] = {"steps": None, "flops": None}
    difference = None
    other = other_validation([run.config for run in runs], [run.config for run in base_runs or ()])
    if base_runs is not None and not other:
        base_finals = _final_losses(base_runs)
        difference = paired_difference(finals, base_finals)
        common = finals.keys() & base_finals.keys()
        curves = [[run.curve for run in side if run.seed in common] for side in (runs, base_runs)]
        for x in crossings:
            (_, arm_x, arm_y), (_, base_x, base_y) = _mean(curves[0], x), _mean(curves[1], x)
            crossings[x] = crossing(arm_x, arm_y, base_x, base_y)
    return ArmSummary(
        arm=arm,
        runs=runs,
        final_by_seed=finals,
        final=summarize(list(finals.values())),
        bits_per_byte=summarize([run.curve.bits_per_byte[-1] for run in finished if run.curve.bits_per_byte]),
        difference=difference,
        other_validation=other,
        costs={cost: _mean_of(finished, lambda run, cost=cost: _cost(run, cost)) for cost in COSTS},
        scores=_summarize_scores(finished, base_runs),
        switch_step=next((run.progress.get("recovery_step") or 0 for run in runs if run.progress), 0),
        crosses_at_step=crossings["steps"],
        crosses_at_flops=crossings["flops"],
    )


def _summarize_scores(finished: Sequence[RunResult], base_runs: Sequence[RunResult] | None) -> tuple[ScoreSummary, ...]:
    summaries = []
    found = {(score.task, score.metric): score for run in finished for score in run.scores}
    for (task, metric), score in found.items():
        by_seed = _score_by_seed(finished, task, metric)
        errors = [
            other.stderr
            for run in finished
            for other in run.scores
            if (other.task, other.metric) == (task, metric) and other.stderr is not None
        ]
        difference = None
        if base_runs is not None:
            base = _score_by_seed([run for run in base_runs if run.status == "finished"], task, metric)
            difference = paired_difference(by_seed, base)
        summaries.append(
            ScoreSummary(
                task=task,
                metric=metric,
                by_seed=by_seed,
                over_seeds=summarize(list(by_seed.values())),
                stderr=sum(errors) / len(errors) if errors else None,
                items=score.items,
                difference=difference,
                higher_is_better=score.higher_is_better,
                in_group=score.in_group,
            )
        )
    return tuple(summaries)


def _score_by_seed(runs: Sequence[RunResult], task: str, metric: str) -> dict[int, float]:
    return {
        run.seed: score.value for run in runs for score in run.scores if (score.task, score.metric) == (task, metric)
    }


def _final_losses(runs: Sequence[RunResult]) -> dict[int, float]:
    return {run.seed: run.final_loss for run in runs if run.final_loss is not None}


def _cost(run: RunResult, cost: str) -> float | None:
    if cost == "wall_seconds":
        return run.finished.get("wall_seconds")
    if cost == "positions_per_second":
        # Over the whole run: the file's own rate is that of its last seconds.
        positions, seconds = run.progress.get("positions"), run.progress.get("train_seconds")
        return positions / seconds if positions and seconds else None
    return run.progress.get(cost)


def _mean_of(runs: Sequence[RunResult], value: Callable[[RunResult], float | None]) -> float | None:
    values = [found for run in runs if (found := value(run)) is not None and math.isfinite(found)]
    return sum(values) / len(values) if values else None


def _mean(curves: Sequence[Curve], x: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return mean_curve([(curve.steps, getattr(curve, x), curve.val_loss) for curve in curves if getattr(curve, x)])
