"""Downstream tasks on finished runs: one `tst-lightning evaluate` command per run, and one more for added tasks.

The results of the K-th are in ``RUN/evaluation/compare-K/step=N/``, beside those of the training itself in
``RUN/evaluation/step=N/``; what it printed is in ``RUN/evaluation.log``. ``RUN/evaluation.json`` is written last:
the evaluations that it lists are complete.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tst_lightning.files import read_json, write_atomically

EVALUATION_DIR = "evaluation"
EVALUATION_LOG = "evaluation.log"
EVALUATED_FILE = "evaluation.json"


@dataclass(frozen=True)
class EvaluationSpec:
    """What is evaluated after training, and on which runs."""

    tasks: list[str]
    """Names of lm-eval tasks, for example `arc_easy`."""
    task_data_dir: str | None = None
    """Folder with local copies of the tasks' data; from the hub by default."""
    limit: int | None = None
    """Items per task; all by default."""
    precision: str | None = None
    """`--precision` of `evaluate`; that command's own default if it is left out."""
    arms: list[str] = field(default_factory=lambda: ["*"])
    """Patterns, as a shell has them, on names of arms or methods: the runs of these are evaluated."""

    def problems(self, arms: Mapping[str, str]) -> list[str]:
        """What is wrong and can be told without loading a task; ``arms`` are names and methods of what there is."""
        problems = []
        if not self.tasks or not all(self.tasks):
            problems.append("no tasks given, or an empty name: name at least one under `tasks`")
        if self.limit is not None and self.limit < 1:
            problems.append(f"limit is {self.limit}: give 1 or more items per task, or leave it out for all")
        if self.task_data_dir is not None and not Path(self.task_data_dir).is_dir():
            problems.append(
                f"there is no folder task_data_dir '{self.task_data_dir}' (paths are relative to the current folder)"
            )
        problems += _task_problems(self.tasks)
        if not self.arms:
            problems.append("`arms` is empty, so nothing would be evaluated: give patterns, or leave it out for all")
        unmatched = [
            pattern for pattern in self.arms if not any(_is_meant(pattern, arm, method) for arm, method in arms.items())
        ]
        if unmatched:
            names = ", ".join(dict.fromkeys([*arms.values(), *arms]))
            quoted = ", ".join(f"'{pattern}'" for pattern in unmatched)
            problems.append(f"nothing is named like {quoted}: there are {names}")
        return [f"evaluation: {problem}" for problem in problems]

    def wants(self, arm: str, method: str = "") -> bool:
        """Whether the runs of an arm are evaluated."""
        return any(_is_meant(pattern, arm, method) for pattern in self.arms)

    def missing_tasks(self, folder: Path) -> list[str]:
        """Tasks that the trained run in ``folder`` has not been evaluated on, at its last step and as this says."""
        wanted, step = self._options(), _step(folder)
        done = {
            task
            for evaluation in _evaluations(folder)
            if evaluation["step"] == step and {key: evaluation["options"].get(key) for key in wanted} == wanted
            for task in evaluation["options"]["tasks"].split(",")
        }
        return [task for task in self.tasks if task not in done]

    def arguments(self, folder: Path) -> list[str]:
        """What follows the program's name to evaluate the trained run in ``folder`` on what it is missing."""
        from tst_lightning.comparison.running.folder import LAST_CHECKPOINT

        results = folder / EVALUATION_DIR / f"compare-{len(_evaluations(folder)) + 1}" / f"step={_step(folder)}"
        arguments = [
            "evaluate",
            *("--ckpt_path", str(folder / LAST_CHECKPOINT)),
            *("--tasks", ",".join(self.missing_tasks(folder))),
            *("--output_dir", str(results)),
        ]
        for name, value in self._options().items():
            if value is not None:
                arguments += [f"--{name}", value]
        return arguments

    def _options(self) -> dict[str, str | None]:
        """Options of `evaluate` that scores may depend on."""
        options = {"task_data_dir": self.task_data_dir, "limit": self.limit, "precision": self.precision}
        return {name: None if value is None else str(value) for name, value in options.items()}


def is_evaluated(spec: EvaluationSpec, folder: Path) -> bool:
    """Whether the evaluation of this run on all its tasks is complete."""
    return not spec.missing_tasks(folder)


def finish_evaluation(folder: Path, arguments: list[str], seconds: float) -> None:
    """Add an evaluation to ``evaluation.json``: its last act."""
    done = [{key: value for key, value in one.items() if key != "options"} for one in _evaluations(folder)]
    done.append({"arguments": arguments, "step": _step(folder), "wall_seconds": round(seconds, 1)})
    write_atomically(folder / EVALUATED_FILE, json.dumps({"evaluations": done}, indent=2) + "\n")


def evaluation_seconds(folder: Path) -> float | None:
    """How long the evaluations of a run took together; None if it has none."""
    evaluations = _evaluations(folder)
    return round(sum(one["wall_seconds"] for one in evaluations), 1) if evaluations else None


def _evaluations(folder: Path) -> list[dict[str, Any]]:
    """Those that are complete, with the ``options`` of their commands; a file of another form lists none.

    Earlier versions wrote a file that is the one evaluation itself.
    """
    values = read_json(folder / EVALUATED_FILE) or {}
    try:
        return [
            {key: one[key] for key in ("arguments", "step", "wall_seconds")} | {"options": _by_name(one["arguments"])}
            for one in values.get("evaluations", [values])
        ]
    except (KeyError, TypeError, ValueError):
        return []


def _by_name(arguments: list[str]) -> dict[str, str]:
    """The options of an `evaluate` command, each of which has a value."""
    options = {name.removeprefix("--"): value for name, value in zip(arguments[1::2], arguments[2::2], strict=True)}
    return {"tasks": ""} | options


def _task_problems(tasks: list[str]) -> Iterator[str]:
    """Names that `evaluate` would not know, hours from now."""
    from tst_lightning.evaluation.builtin_tasks import similar_names, unknown_names

    for path in (task for task in tasks if task.endswith((".yaml", ".yml")) and not Path(task).is_file()):
        yield f"there is no task file '{path}' (paths are relative to the current folder)"
    for name in unknown_names([task for task in tasks if task and not task.endswith((".yaml", ".yml"))]):
        similar = ", ".join(f"'{other}'" for other in similar_names(name))
        yield (
            f"no task is called '{name}'{f' (did you mean {similar}?)' if similar else ''}: name a task of lm-eval, "
            "'heldout' (the bundled ones), or the path of a task's YAML file"
        )


def _is_meant(pattern: str, arm: str, method: str) -> bool:
    return fnmatchcase(arm, pattern) or fnmatchcase(method, pattern)


def _step(folder: Path) -> int:
    """The optimizer step that the run ended at."""
    # Not at the top: that module needs the experiment, which has this one's specification.
    from tst_lightning.comparison.running.folder import PROGRESS_FILE

    return (read_json(folder / PROGRESS_FILE) or {}).get("step", 0)
