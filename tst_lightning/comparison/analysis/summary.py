"""The runs of a comparison, summed up: what the report, its figures and the terminal all show."""

from collections.abc import Sequence
from dataclasses import dataclass

from tst_lightning.comparison.analysis.arm_summary import COSTS, ArmSummary, ScoreSummary, summarize_arm
from tst_lightning.comparison.analysis.collect import RunResult
from tst_lightning.comparison.analysis.frontier import (
    Frontier,
    FrontierPoint,
    Overtaking,
    SpeedUp,
    frontiers,
    overtakings,
    speed_ups,
)
from tst_lightning.comparison.analysis.item_tests import ItemTest
from tst_lightning.comparison.analysis.pair_summary import PairSummary, summarize_pairs
from tst_lightning.comparison.analysis.score_pairs import ScoreDifference
from tst_lightning.comparison.design.arms import Arm
from tst_lightning.comparison.design.experiment import Experiment

__all__ = [
    "COSTS",
    "ArmSummary",
    "ComparisonSummary",
    "Frontier",
    "FrontierPoint",
    "ItemTest",
    "Overtaking",
    "PairSummary",
    "ScoreDifference",
    "ScoreSummary",
    "SpeedUp",
    "summarize_comparison",
]


@dataclass(frozen=True)
class ComparisonSummary:
    """All that is known of a comparison."""

    arms: dict[str, ArmSummary]
    """By name; variants in their order, shorter lengths first, the baseline before the others."""
    pairs: tuple[PairSummary, ...]
    """Every arm against each of its references, in the order of the arms."""
    frontiers: tuple[Frontier, ...]
    """Of methods with finished runs of two lengths or more; baselines first."""
    speed_ups: tuple[SpeedUp, ...]
    overtakings: tuple[Overtaking, ...]
    """From which run length on a method is ahead of the baseline."""

    def pairs_of(self, arm: str) -> list[PairSummary]:
        """The comparisons of one arm with its references."""
        return [pair for pair in self.pairs if pair.arm == arm]


def summarize_comparison(experiment: Experiment, results: Sequence[RunResult]) -> ComparisonSummary:
    """Sum up every arm, every pair, and every method over its run lengths."""
    arms = {
        name: summarize_arm(experiment.arms[name], [run for run in results if run.arm == name])
        for name in _order(experiment)
    }
    found = frontiers(experiment, arms)
    return ComparisonSummary(
        arms=arms,
        pairs=summarize_pairs(experiment, arms),
        frontiers=found,
        speed_ups=speed_ups(found, experiment.baseline),
        overtakings=overtakings(found, experiment.baseline),
    )


def _order(experiment: Experiment) -> list[str]:
    """Arms as the experiment has them, but shorter lengths first, and of each variant and length the baseline."""
    variants = list(dict.fromkeys(arm.variant for arm in experiment.arms.values()))

    def place(arm: Arm) -> tuple[int, int, bool]:
        return variants.index(arm.variant), arm.nominal_length or 0, arm.method != experiment.baseline

    return [arm.name for arm in sorted(experiment.arms.values(), key=place)]
