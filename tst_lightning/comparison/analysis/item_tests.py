"""Tests of a difference over the items of a task."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from tst_lightning.comparison.analysis.items import ItemLogs, ItemValues
from tst_lightning.comparison.analysis.statistics import CONFIDENCE, NO_SPREAD


@dataclass(frozen=True)
class ItemTest:
    """Arm minus reference over the items of a task that both have answered."""

    items: int
    """Items that are in the logs of both and of all seeds; others do not count."""
    clusters: int | None
    """Of a group (BLiMP): the number of its subtasks, each taken as a whole; None for a single task."""
    mean: float
    """In units of the metric; of a perplexity, the difference of its logarithm (nats), which items add up to."""
    low: float | None
    """Lower end of the 95 % interval; None where all differences are equal."""
    high: float | None
    p_value: float
    """Two-sided; 1 where all differences are equal, which nothing can be told from, but for McNemar's test."""
    test: str
    """Name of the test."""
    gained: int | None = None
    """One seed and a metric of 0 and 1: items that only the arm has right ..."""
    lost: int | None = None
    """... and those that only the reference has right."""
    p_holm: float | None = None
    """``p_value`` corrected for all pairs that are compared on this metric."""

    @property
    def has_test(self) -> bool:
        """The differences are not all equal, or only their signs matter."""
        return self.low is not None or self.gained is not None


@dataclass(frozen=True)
class _Differences:
    """Arm minus reference of one task, an entry per item; means over seeds."""

    totals: np.ndarray
    sizes: np.ndarray
    by_seed: list[np.ndarray]


def item_test(
    task: str, metric: str, arm: Mapping[int, ItemLogs], reference: Mapping[int, ItemLogs]
) -> ItemTest | None:
    """Test one metric of a task or a group over its items.

    All seeds answer the same items, so their answers to one item are not independent: an item counts once, with
    its mean difference over seeds. Subtasks of a group are of one kind each, so the items within one are not
    independent either: there a subtask counts once.

    Args:
        task: A task, or a group of tasks.
        metric: As in ``ItemLogs``.
        arm: Seed -> logs.
        reference: The same of the reference; only seeds that both have are used.

    Returns:
        None without logs, or with fewer than two items or subtasks.
    """
    seeds = sorted(arm.keys() & reference.keys())
    if not seeds:
        return None
    leaves = arm[seeds[0]].groups.get(task, ())
    if leaves:
        return _group_test(task, metric, leaves, [(arm[seed], reference[seed]) for seed in seeds])
    differences = _task_differences(task, metric, [(arm[seed], reference[seed]) for seed in seeds])
    if differences is None or len(differences.totals) < 2:
        return None
    return _single_test(metric, differences)


def mean_and_error(totals: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """``sum(totals) / sum(sizes)`` and its standard error over independent entries.

    With equal sizes this is the mean and ``sd / sqrt(n)``; otherwise the linearised ratio estimator.
    """
    n = len(totals)
    mean = float(totals.sum() / sizes.sum())
    residuals = totals - mean * sizes
    return mean, math.sqrt(n / (n - 1) * float(residuals @ residuals)) / float(sizes.sum())


def _single_test(metric: str, differences: _Differences) -> ItemTest:
    from scipy import stats

    mean, error = mean_and_error(differences.totals, differences.sizes)
    n = len(differences.totals)
    low, high, p_value = _student(mean, error, n)
    single = differences.by_seed[0] if len(differences.by_seed) == 1 else None
    if single is not None and metric.startswith(("acc", "exact_match")) and np.isin(single, (-1.0, 0.0, 1.0)).all():
        gained, lost = int((single > 0).sum()), int((single < 0).sum())
        p_value = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
        return ItemTest(n, None, mean, low, high, p_value, "McNemar exact", gained, lost)
    test = _test_name(low, "items", len(differences.by_seed))
    return ItemTest(n, None, mean, low, high, p_value, test)


def _group_test(
    group: str, metric: str, leaves: Sequence[str], logs: Sequence[tuple[ItemLogs, ItemLogs]]
) -> ItemTest | None:
    found = {leaf: differences for leaf in leaves if (differences := _task_differences(leaf, metric, logs))}
    if len(found) < 2:
        return None
    sizes = np.array([differences.sizes.sum() for differences in found.values()])
    totals = np.array([differences.totals.sum() for differences in found.values()])
    if not _is_weighted_by_size(group, metric, leaves, logs[0][0]):
        totals, sizes = totals / sizes, np.ones_like(sizes)
    mean, error = mean_and_error(totals, sizes)
    low, high, p_value = _student(mean, error, len(found))
    items = sum(len(differences.totals) for differences in found.values())
    test = _test_name(low, "subtasks", len(logs))
    return ItemTest(items, len(found), mean, low, high, p_value, test)


def _is_weighted_by_size(group: str, metric: str, leaves: Sequence[str], logs: ItemLogs) -> bool:
    """How lm-eval has put the group's score together, which its results do not say: by items or by subtasks."""
    score = logs.group_scores.get((group, metric))
    values = [logs.tasks[leaf][metric] for leaf in leaves if metric in logs.tasks.get(leaf, {})]
    if score is None or not values:
        return True
    by_items = sum(value.totals.sum() for value in values) / sum(value.sizes.sum() for value in values)
    by_tasks = sum(value.mean for value in values) / len(values)
    return abs(by_items - score) < abs(by_tasks - score)


def _task_differences(task: str, metric: str, logs: Sequence[tuple[ItemLogs, ItemLogs]]) -> _Differences | None:
    values = [[side.tasks.get(task, {}).get(metric) for side in pair] for pair in logs]
    if any(value is None for pair in values for value in pair):
        return None
    flat: list[ItemValues] = [value for pair in values for value in pair]
    common = reduce(lambda keys, value: np.intersect1d(keys, value.keys, assume_unique=True), flat[1:], flat[0].keys)
    if not len(common):
        return None
    by_seed = [ours.totals[_at(ours, common)] - theirs.totals[_at(theirs, common)] for ours, theirs in values]
    return _Differences(np.mean(by_seed, axis=0), flat[0].sizes[_at(flat[0], common)], by_seed)


def _at(values: ItemValues, keys: np.ndarray) -> np.ndarray:
    return np.searchsorted(values.keys, keys)


def _test_name(low: float | None, units: str, seeds: int) -> str:
    if low is None:
        return f"no test, the differences of all {units} are equal"
    return f"paired t over {units}" + ("" if seeds == 1 else ", means over seeds")


def _student(mean: float, error: float, n: int) -> tuple[float | None, float | None, float]:
    """95 % interval and two-sided p value against zero, with n - 1 degrees of freedom; no test without spread."""
    from scipy import stats

    if error * math.sqrt(n) <= NO_SPREAD * abs(mean):
        return None, None, 1.0
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, n - 1))
