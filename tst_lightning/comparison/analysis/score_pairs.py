"""Downstream scores of pairs, tested over seeds and over items."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tst_lightning.comparison.analysis.arm_summary import ArmSummary
from tst_lightning.comparison.analysis.collect import RunResult
from tst_lightning.comparison.analysis.evaluations import SETTINGS, Score
from tst_lightning.comparison.analysis.item_tests import ItemTest, item_test
from tst_lightning.comparison.analysis.items import ItemLogs, read_items
from tst_lightning.comparison.analysis.statistics import CONFIDENCE, PairedDifference, correct, paired_difference

Pair = tuple[ArmSummary, ArmSummary]
_Logs = dict[int, dict[str, ItemLogs]]
"""Seed -> task or group -> the logs of the evaluation that its scores come from."""


@dataclass(frozen=True)
class ScoreDifference:
    """One downstream metric of a pair, arm minus reference."""

    task: str
    metric: str
    higher_is_better: bool
    in_group: bool
    over_seeds: PairedDifference | None
    """Of the task's scores, paired by seed."""
    over_items: ItemTest | None
    """None where there are no logs of single items."""
    note: str = ""
    """Why the scores are not compared; empty if they are."""

    @property
    def is_shown(self) -> bool:
        """Whether the difference is told from zero.

        Items and seeds are two questions. A test over items holds the trained models fixed and generalises to
        other questions of the kind; a test over seeds holds the questions fixed and generalises to other
        trainings. A claim about a method needs both: with several seeds, both tests must find it, in the same
        direction. One seed allows the test over items alone, and then the claim is about these two models.
        """
        items, seeds = self.over_items, self.over_seeds
        if seeds is None or self.note:
            return False
        if items is None:
            return seeds.is_shown
        p_items = items.p_value if items.p_holm is None else items.p_holm
        by_items = p_items < 1 - CONFIDENCE and items.mean != 0
        return by_items and (seeds.n == 1 or (seeds.is_shown and (seeds.mean > 0) == (items.mean > 0)))


def score_differences(pairs: Sequence[Pair]) -> list[tuple[ScoreDifference, ...]]:
    """Compare the scores of arms with those of their references, corrected per task and metric for the pairs.

    Args:
        pairs: (arm, reference).
    """
    found: list[tuple[ScoreDifference, ...]] = [()] * len(pairs)
    for place, logs in _with_logs(pairs):
        found[place] = _differences(*pairs[place], *logs)
    return _corrected(found)


def _with_logs(pairs: Sequence[Pair]) -> Iterator[tuple[int, tuple[_Logs, _Logs]]]:
    """Every pair with the logs of both sides: of a reference read once, of one arm at a time in memory."""
    by_reference: dict[str, list[int]] = {}
    for place, (_, reference) in enumerate(pairs):
        by_reference.setdefault(reference.arm, []).append(place)
    for places in by_reference.values():
        reference_logs = _logs(pairs[places[0]][1].averaged)
        for place in places:
            yield place, (_logs(pairs[place][0].averaged) if reference_logs else {}, reference_logs)


def _logs(runs: Sequence[RunResult]) -> _Logs:
    found: _Logs = {}
    for run in runs:
        for file in run.results_files:
            logs = read_items(file.path)
            if logs.tasks:
                found.setdefault(run.seed, {}).update(dict.fromkeys(file.tasks, logs))
    return found


def _differences(
    arm: ArmSummary,
    reference: ArmSummary,
    arm_logs: _Logs,
    reference_logs: _Logs,
) -> tuple[ScoreDifference, ...]:
    theirs = {(score.task, score.metric): score for score in reference.scores}
    differences = []
    for score in arm.scores:
        other = theirs.get((score.task, score.metric))
        if other is None:
            continue
        over_seeds = paired_difference(score.by_seed, other.by_seed)
        seeds = [] if over_seeds is None else list(over_seeds.by_seed)
        note = _note(score.task, score.metric, seeds, arm, reference)
        over_items = None
        # A seed without logs would leave the two tests about different models.
        logs = [
            {seed: side[seed][score.task] for seed in seeds if score.task in side.get(seed, {})}
            for side in (arm_logs, reference_logs)
        ]
        if seeds and not note and all(len(side) == len(seeds) for side in logs):
            over_items = item_test(score.task, score.metric, *logs)
        differences.append(
            ScoreDifference(
                score.task, score.metric, score.higher_is_better, score.in_group,
                None if note else over_seeds, over_items, note,
            )
        )  # fmt: skip
    return tuple(differences)


def _note(task: str, metric: str, seeds: Sequence[int], arm: ArmSummary, reference: ArmSummary) -> str:
    """Why scores of these seeds are no comparison on the same items; empty if they are."""
    sides = [[run for run in side.averaged if run.seed in seeds] for side in (arm, reference)]
    if not seeds:
        return ""
    settings = [[run.settings_of(task) for run in side] for side in sides]
    for key in (*SETTINGS, f"version of {task}"):
        known = [{str(run[key]) for run in side if key in run} for side in settings]
        if all(known) and len(known[0] | known[1]) > 1:
            shown = " against ".join(" or ".join(sorted(side)) for side in known)
            return f"not compared, {key} of the evaluation is {shown}"
    items = [{_score(run, task, metric).items for run in side} - {None} for side in sides]
    if all(items) and len(items[0] | items[1]) > 1:
        return f"not compared, {_shown(items[0])} items against {_shown(items[1])}"
    return ""


def _score(run: RunResult, task: str, metric: str) -> Score:
    return next(score for score in run.scores if (score.task, score.metric) == (task, metric))


def _shown(items: set[int]) -> str:
    return " or ".join(f"{number:,}" for number in sorted(items))


def _corrected(found: Sequence[tuple[ScoreDifference, ...]]) -> list[tuple[ScoreDifference, ...]]:
    """With Holm's correction over pairs, within each task and metric."""
    families: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for pair, scores in enumerate(found):
        for place, score in enumerate(scores):
            families.setdefault((score.task, score.metric), []).append((pair, place))
    corrected = [list(scores) for scores in found]
    for places in families.values():
        members = [corrected[pair][place] for pair, place in places]
        over_seeds = correct([member.over_seeds for member in members])
        over_items = correct([member.over_items for member in members])
        for (pair, place), member, seeds, items in zip(places, members, over_seeds, over_items, strict=True):
            corrected[pair][place] = replace(member, over_seeds=seeds, over_items=items)
    return [tuple(scores) for scores in corrected]
