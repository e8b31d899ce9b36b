"""What a ``report.json`` says of its arms and runs, whichever format it was written in.

A report is all that is left of a comparison once its runs are deleted, as with committed results.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_lightning.comparison.design.experiment import EXPERIMENT_FILE, PROGRAM
from tst_lightning.errors import UserError
from tst_lightning.files import read_json

REPORT_FILE = "report.json"
READABLE_FORMATS = (1, 2)


@dataclass(frozen=True)
class ReportedScore:
    """One downstream metric of an arm."""

    by_seed: dict[int, float]
    items: int | None
    in_group: bool
    higher_is_better: bool


@dataclass(frozen=True)
class ReportedArm:
    """One arm, with the runs that it had when the report was written."""

    name: str
    method: str
    variant: str
    max_steps: int | None
    """Length of its runs in optimizer steps."""
    losses: dict[int, float]
    """Seed -> final validation loss of finished runs that did not diverge, nats per token."""
    diverged: tuple[int, ...]
    """Seeds whose final loss is not a number."""
    unfinished: tuple[int, ...]
    """Seeds without a finished run."""
    costs: dict[str, float | None]
    """Means over finished runs."""
    scores: dict[tuple[str, str], ReportedScore]
    """By task and metric."""
    configs: dict[int, str]
    """Seed -> resolved configuration of a finished run, as YAML text."""
    origins: tuple[dict[str, Any], ...]
    """Of each finished run: versions, commit, machine, threads."""

    @property
    def key(self) -> tuple[str, str, int | None]:
        """What makes it the same arm under another name."""
        return self.variant, self.method, self.max_steps


@dataclass(frozen=True)
class Reported:
    """One results folder."""

    folder: Path
    created: str
    output_dir: str
    """The folder as its runs' configurations name it."""
    arms: dict[str, ReportedArm]
    pairs: tuple[tuple[str, str, str], ...]
    """(arm, reference, why their losses are not compared, empty if they are)."""


def read_reported(folder: str | Path) -> Reported:
    """Read the ``report.json`` of a results folder.

    Raises:
        UserError: there is none, it is not readable, or of a format that this release does not know.
    """
    folder = Path(folder)
    path = folder / REPORT_FILE
    rebuild = f"`{PROGRAM} report {folder}`"
    if not path.is_file():
        if not (folder / EXPERIMENT_FILE).is_file():
            raise UserError(f"'{folder}' holds no comparison: give the `output_dir` of a `{PROGRAM} compare`")
        raise UserError(f"'{folder}' has no {REPORT_FILE} yet: write it with {rebuild} first")
    values = read_json(path)
    if values is None:
        raise UserError(f"'{path}' is not readable as JSON: rebuild it with {rebuild}")
    version = values.get("format_version")
    if version not in READABLE_FORMATS:
        known = " and ".join(map(str, READABLE_FORMATS))
        raise UserError(
            f"'{path}' has format_version {version}, this release reads {known}: rebuild it with {rebuild}, "
            "or use the release that wrote it"
        )
    try:
        return _reported(folder, values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"'{path}' is not a whole report of format {version} ({type(error).__name__}: {error}): "
            f"rebuild it with {rebuild}"
        ) from error


def _reported(folder: Path, values: dict[str, Any]) -> Reported:
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in values["runs"]:
        runs.setdefault(run["arm"], []).append(run)
    arms = {name: _arm(name, arm, runs.get(name, [])) for name, arm in values["arms"].items()}
    experiment = values["experiment"]
    if values["format_version"] == 1:
        baseline = experiment["baseline"]
        pairs = [(name, baseline, arm.get("other_validation", "")) for name, arm in values["arms"].items()]
        pairs = [pair for pair in pairs if pair[0] != baseline]
    else:
        pairs = [(pair["arm"], pair["reference"], pair["not_compared"]) for pair in values["pairs"]]
    return Reported(folder, values["created"], experiment["output_dir"], arms, tuple(pairs))


def _arm(name: str, values: dict[str, Any], runs: list[dict[str, Any]]) -> ReportedArm:
    finished = [run for run in runs if run["status"] == "finished"]
    losses = {int(seed): loss for seed, loss in values["final_by_seed"].items()}
    diverged = {seed for seed, loss in losses.items() if not _is_number(loss)} | set(values.get("diverged", ()))
    lengths = {(run.get("progress") or {}).get("max_steps") for run in runs} - {None}
    return ReportedArm(
        name=name,
        method=values.get("method", name),
        variant=values.get("variant", ""),
        max_steps=values.get("steps") or (lengths.pop() if len(lengths) == 1 else None),
        losses={seed: loss for seed, loss in losses.items() if seed not in diverged},
        diverged=tuple(sorted(diverged)),
        unfinished=tuple(sorted(run["seed"] for run in runs if run["status"] != "finished")),
        costs=values["costs"],
        scores={
            (score["task"], score["metric"]): ReportedScore(
                {int(seed): value for seed, value in score["by_seed"].items() if _is_number(value)},
                score["items"], score["in_group"], score["higher_is_better"],
            )
            for score in values["scores"]
        },
        configs={run["seed"]: run["config"] for run in finished if run.get("config")},
        origins=tuple(run["finished"] for run in finished if run.get("finished")),
    )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
