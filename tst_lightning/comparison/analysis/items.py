"""lm-eval's logs of single items: which question a model got right, and how likely it found the answer.

A log holds the text of every question and answer. Kept here is a number of 64 bits that identifies the item, and the
values of its metrics.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from tst_lightning.files import read_json


@dataclass(frozen=True)
class ItemValues:
    """One metric of one task, an entry per item, in ascending order of ``keys``.

    A task's value is ``totals.sum() / sizes.sum()``; of a perplexity, that is its logarithm.
    """

    keys: np.ndarray
    """(items,) uint64: identifies the item among all models."""
    totals: np.ndarray
    """(items,) float64."""
    sizes: np.ndarray
    """(items,) float64: 1, or of perplexities of whole documents the words or bytes of the document."""

    @property
    def mean(self) -> float:
        return float(self.totals.sum() / self.sizes.sum())


@dataclass(frozen=True)
class ItemLogs:
    """All logs of one evaluation."""

    tasks: dict[str, dict[str, ItemValues]]
    """Task -> metric -> items; a metric of a filter other than ``none`` is named ``metric (filter)``."""
    groups: dict[str, tuple[str, ...]]
    """Group -> its tasks, groups within it resolved. A task that is no group is not here."""
    group_scores: dict[tuple[str, str], float]
    """(group, metric) -> its score, as lm-eval has put it together."""


def read_items(results_file: Path) -> ItemLogs:
    """Read the logs beside lm-eval's results file; what is not there or not readable is left out."""
    results = read_json(results_file) or {}
    date = results_file.stem.removeprefix("results_")
    values = results.get("results") or {}
    subtasks = results.get("group_subtasks") or {}
    tasks = {}
    for task in values:
        found = _read_task(results_file.with_name(f"samples_{task}_{date}.jsonl"))
        if found:
            tasks[task] = found
    groups = {group: leaves for group in subtasks if (leaves := _leaves(group, subtasks))}
    scores = {
        (group, key.removesuffix(",none")): value
        for group in groups
        for key, value in (values.get(group) or {}).items()
        if isinstance(value, int | float)
    }
    return ItemLogs(tasks, groups, scores)


def _leaves(group: str, subtasks: dict[str, list[str]], above: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The tasks of a group, however deep they lie; none of a single task."""
    leaves: list[str] = []
    for task in subtasks.get(group) or ():
        if task not in (*above, group):
            leaves += _leaves(task, subtasks, (*above, group)) or [task]
    return tuple(dict.fromkeys(leaves))


def _read_task(path: Path) -> dict[str, ItemValues]:
    columns: dict[str, dict[int, tuple[float, float]]] = {}
    for sample in _samples(path):
        key = _key(sample)
        suffix = "" if sample.get("filter", "none") == "none" else f" ({sample['filter']})"
        for metric in sample.get("metrics") or ():
            value = _value(metric, sample.get(metric))
            if value is not None:
                columns.setdefault(metric + suffix, {})[key] = value
    found = {}
    for metric, rows in columns.items():
        keys = np.fromiter(rows, np.uint64, len(rows))
        values = np.array(list(rows.values()))
        order = np.argsort(keys)
        found[metric] = ItemValues(keys[order], values[order, 0], values[order, 1])
    return found


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as stream:
            for line in stream:
                try:
                    sample = json.loads(line)
                except ValueError:  # cut off
                    continue
                if isinstance(sample, dict):
                    yield sample
    except OSError:
        return


def _key(sample: dict[str, Any]) -> int:
    name = f"{sample.get('doc_id')}:{sample.get('doc_hash')}"
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


def _value(metric: str, value: Any) -> tuple[float, float] | None:
    """Total and size of one item; None for what is no finite number.

    Of ``perplexity`` lm-eval logs the log-likelihood, of perplexities of documents that and a number of words or
    bytes. Their sign is turned: lower is better, as it is of the metric.
    """
    try:
        if isinstance(value, list | tuple):
            total, size = (float(part) for part in value)
            total = -total / math.log(2) if metric == "bits_per_byte" else -total
        else:
            total, size = float(value), 1.0
            total = -total if metric == "perplexity" else total
    except (TypeError, ValueError):
        return None
    return (total, size) if math.isfinite(total) and size > 0 and math.isfinite(size) else None
