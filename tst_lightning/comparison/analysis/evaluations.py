"""Downstream scores of a run, from the results files that lm-eval has left."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tst_lightning.evaluation.metrics import metric_values
from tst_lightning.files import read_json

SETTINGS = ("limit", "max_length", "precision")
"""Of lm-eval's ``config``."""


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
class ResultsFile:
    """One of lm-eval's results files; the logs of its items lie beside it."""

    path: Path
    tasks: tuple[str, ...]
    """Tasks and groups whose scores come from this file: those that no newer file has."""
    settings: dict[str, Any]
    """What these scores depend on beside the model: only scores under the same settings are compared."""


@dataclass(frozen=True)
class Evaluation:
    """The downstream evaluation of a run that counts."""

    step: int | None = None
    scores: tuple[Score, ...] = ()
    results_files: tuple[ResultsFile, ...] = ()


def read_evaluation(folder: Path) -> Evaluation:
    """Downstream scores of the last step that was evaluated.

    An evaluation while training and one or more after it may have left results of the same step, in folders
    ``step=N`` at any depth. They add up; of a task that several have, the newest results count.
    """
    found = []
    for path in folder.glob("**/step=*/results_*.json"):
        step = path.parent.name.removeprefix("step=")
        if step.isdigit():
            found.append((int(step), path.name, path))
    last, files = None, []
    scores: dict[str, list[Score]] = {}
    members: set[str] = set()
    for step, _, path in sorted(found, reverse=True):
        if last is not None and step < last:
            break
        results = read_json(path) or {}
        try:
            of_file, settings = _scores(results), _settings(results)
        except (KeyError, TypeError, AttributeError, ValueError):  # not what lm-eval writes
            continue
        last = step
        # A subtask that was evaluated anew alone stays a part of its group.
        members |= {score.task for score in of_file if score.in_group}
        tasks = tuple(dict.fromkeys(score.task for score in of_file if score.task not in scores))
        if tasks:
            files.append(ResultsFile(path, tasks, settings))
            scores |= {task: [score for score in of_file if score.task == task] for task in tasks}
    merged = [replace(score, in_group=score.task in members) for of_task in scores.values() for score in of_task]
    return Evaluation(last, tuple(merged), tuple(files))


def _settings(results: dict[str, Any]) -> dict[str, Any]:
    config = results.get("config") or {}
    versions = {f"version of {task}": version for task, version in (results.get("versions") or {}).items()}
    return {key: config[key] for key in SETTINGS if key in config} | versions


def _scores(results: dict[str, Any]) -> tuple[Score, ...]:
    groups = results.get("group_subtasks") or {}
    members = {task for group, tasks in groups.items() if group in results["results"] for task in tasks}
    scores = []
    for task, values in results["results"].items():
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
