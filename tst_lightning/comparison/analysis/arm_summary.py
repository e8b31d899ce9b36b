"""One arm over its seeds: final losses, costs, downstream scores."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tst_lightning.comparison.analysis.collect import Curve, RunResult
from tst_lightning.comparison.analysis.statistics import Summary, mean_curve, summarize, x_at_step
from tst_lightning.comparison.design.arms import Arm, Factor

COSTS = ("data_tokens", "positions", "flops", "train_seconds", "wall_seconds", "positions_per_second")
"""Quantities of ``ArmSummary.costs``."""


@dataclass(frozen=True)
class ScoreSummary:
    """One downstream metric of one arm, over the seeds of finished runs that have not diverged and were evaluated at
    their end."""

    task: str
    metric: str
    by_seed: dict[int, float]
    """Finite values only."""
    over_seeds: Summary
    stderr: float | None
    """Mean over seeds of lm-eval's standard error over items."""
    items: int | None
    higher_is_better: bool
    in_group: bool
    """A part of a group whose own score stands beside it."""


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its seeds."""

    arm: str
    method: str
    variant: str
    steps: int | None
    factors: dict[str, Factor]
    runs: tuple[RunResult, ...]
    """All of the arm's runs, whatever their status."""
    final_by_seed: dict[int, float]
    """Seed -> final validation loss of finished runs that have not diverged, in nats per token."""
    final: Summary | None
    bits_per_byte: Summary | None
    costs: dict[str, float | None]
    """Means over finished runs: what the finished model costs if it is trained alone. A branch's include its trunk
    up to the branch, but for ``wall_seconds``, which nobody has measured then."""
    scores: tuple[ScoreSummary, ...]
    switch_step: int
    """First step of plain next-token training; 0 if it is all of the run."""
    diverged: tuple[int, ...]
    """Seeds whose last validation loss is not a finite number: no mean contains them."""
    length: int | None = None
    """Which of the experiment's lengths it belongs to; ``steps`` may be others."""

    @property
    def nominal_length(self) -> int | None:
        """What arms that are compared with each other have in common."""
        return self.steps if self.length is None else self.length

    @property
    def finished(self) -> tuple[RunResult, ...]:
        return tuple(run for run in self.runs if run.status == "finished")

    @property
    def averaged(self) -> tuple[RunResult, ...]:
        """Finished runs that have not diverged."""
        return tuple(run for run in self.finished if not run.diverged)

    @property
    def drawn(self) -> tuple[RunResult, ...]:
        """Runs of ``mean_curve``: the averaged ones, or, as long as there are none, those on their way.

        A curve that ends early would cut off the mean of all, and one on its way is no finished model.
        """
        return self.averaged or tuple(run for run in self.runs if run.curve.steps and not run.diverged)

    def mean_curve(self, x: str) -> tuple[np.ndarray, np.ndarray]:
        """The arm's curve of validation loss against ``x``, a field of ``Curve``, averaged over ``drawn``."""
        _, x_values, losses = mean_of_curves([run.curve for run in self.drawn], x)
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


def summarize_arm(arm: Arm, runs: Sequence[RunResult]) -> ArmSummary:
    """Sum up one arm's runs."""
    finished = [run for run in runs if run.status == "finished"]
    averaged = [run for run in finished if not run.diverged]
    finals = {run.seed: run.final_loss for run in averaged}
    ends = [run.curve.bits_per_byte[-1] for run in averaged if run.curve.bits_per_byte]
    return ArmSummary(
        arm=arm.name,
        method=arm.method,
        variant=arm.variant,
        steps=arm.steps,
        factors=dict(arm.factors),
        runs=tuple(runs),
        final_by_seed=finals,
        final=summarize(list(finals.values())),
        bits_per_byte=summarize([end for end in ends if math.isfinite(end)]),
        costs={cost: _mean_of(finished, lambda run, cost=cost: _cost(run, cost, arm)) for cost in COSTS},
        scores=_summarize_scores(averaged),
        switch_step=next((run.progress.get("recovery_step") or 0 for run in runs if run.progress), 0),
        diverged=tuple(run.seed for run in runs if run.diverged),
        length=arm.length,
    )


def mean_of_curves(curves: Sequence[Curve], x: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``analysis.mean_curve`` of those that have ``x``: steps, x, losses."""
    return mean_curve([(curve.steps, getattr(curve, x), curve.val_loss) for curve in curves if getattr(curve, x)])


def _summarize_scores(runs: Sequence[RunResult]) -> tuple[ScoreSummary, ...]:
    found: dict[tuple[str, str], dict[int, object]] = {}
    for run in runs:
        for score in run.final_scores:
            found.setdefault((score.task, score.metric), {})[run.seed] = score
    summaries = []
    for (task, metric), scores in found.items():
        by_seed = {seed: score.value for seed, score in scores.items() if math.isfinite(score.value)}
        errors = [score.stderr for score in scores.values() if score.stderr is not None and math.isfinite(score.stderr)]
        over_seeds = summarize(list(by_seed.values()))
        if over_seeds is None:
            continue
        first = next(iter(scores.values()))
        summaries.append(
            ScoreSummary(
                task=task,
                metric=metric,
                by_seed=by_seed,
                over_seeds=over_seeds,
                stderr=sum(errors) / len(errors) if errors else None,
                items=first.items,
                higher_is_better=first.higher_is_better,
                in_group=first.in_group,
            )
        )
    return tuple(summaries)


def _cost(run: RunResult, cost: str, arm: Arm) -> float | None:
    if cost == "wall_seconds":
        return None if arm.trunk else run.finished.get("wall_seconds")
    if cost == "positions_per_second":
        # Over the whole run: the file's own rate is that of its last seconds.
        positions, seconds = run.progress.get("positions"), run.progress.get("train_seconds")
        return positions / seconds if positions and seconds else None
    return run.progress.get(cost)


def _mean_of(runs: Sequence[RunResult], value: Callable[[RunResult], float | None]) -> float | None:
    values = [found for run in runs if (found := value(run)) is not None and math.isfinite(found)]
    return sum(values) / len(values) if values else None
