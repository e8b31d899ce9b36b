"""Downstream tasks on finished runs: one `tst-lightning evaluate` command per run.

Its results are in ``RUN/evaluation/step=N/``, what it printed in ``RUN/evaluation.log``. ``RUN/evaluation.json``
is written last: the evaluation that it names is complete.
"""

import json
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from tst_lightning.errors import UserError
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
    """Patterns, as a shell has them, on the names of arms: the runs of these are evaluated."""

    def validate(self) -> None:
        """Check what can be known without loading a task.

        Raises:
            UserError: naming every problem found.
        """
        problems = []
        if not self.tasks or not all(self.tasks):
            problems.append("no tasks given, or an empty name: name at least one under `tasks`")
        if self.limit is not None and self.limit < 1:
            problems.append(f"limit is {self.limit}: give 1 or more items per task, or leave it out for all")
        if self.task_data_dir is not None and not Path(self.task_data_dir).is_dir():
            problems.append(
                f"there is no folder task_data_dir '{self.task_data_dir}' (paths are relative to the current folder)"
            )
        if not self.arms:
            problems.append("`arms` is empty, so nothing would be evaluated: give patterns, or leave it out for all")
        if problems:
            raise UserError("evaluation: " + "\n  ".join(problems))

    def wants(self, arm: str) -> bool:
        """Whether the runs of an arm are evaluated."""
        return any(fnmatchcase(arm, pattern) for pattern in self.arms)

    def arguments(self, folder: Path) -> list[str]:
        """What follows the program's name to evaluate the trained run in ``folder``."""
        arguments = [
            "evaluate",
            *("--ckpt_path", str(folder / "checkpoints" / "last.ckpt")),
            *("--tasks", ",".join(self.tasks)),
            *("--output_dir", str(folder / EVALUATION_DIR / f"step={_step(folder)}")),
        ]
        for name, value in (
            ("task_data_dir", self.task_data_dir),
            ("limit", self.limit),
            ("precision", self.precision),
        ):
            if value is not None:
                arguments += [f"--{name}", str(value)]
        return arguments


def is_evaluated(spec: EvaluationSpec, folder: Path) -> bool:
    """Whether the same evaluation of this run is complete."""
    done = read_json(folder / EVALUATED_FILE)
    return done is not None and done.get("arguments") == spec.arguments(folder)


def finish_evaluation(folder: Path, arguments: list[str], seconds: float) -> None:
    """Write ``evaluation.json``: the last act of an evaluation."""
    values = {"arguments": arguments, "step": _step(folder), "wall_seconds": round(seconds, 1)}
    write_atomically(folder / EVALUATED_FILE, json.dumps(values, indent=2) + "\n")


def evaluation_seconds(folder: Path) -> float | None:
    """How long the evaluation of a run took; None if it has none."""
    return (read_json(folder / EVALUATED_FILE) or {}).get("wall_seconds")


def _step(folder: Path) -> int:
    """The optimizer step that the run ended at."""
    return (read_json(folder / "progress.json") or {}).get("step", 0)
