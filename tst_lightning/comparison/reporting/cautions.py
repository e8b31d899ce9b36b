"""What a reader must know before believing the tables of a report."""

from collections.abc import Iterable, Sequence
from typing import Any

from tst_lightning.comparison.analysis.collect import RunResult
from tst_lightning.comparison.analysis.settings import settings
from tst_lightning.comparison.analysis.summary import ArmSummary, ComparisonSummary
from tst_lightning.comparison.design.experiment import Experiment, run_folder
from tst_lightning.comparison.running.folder import has_begun

_STATUS_WORDS = {"missing": "not started", "unfinished": "not finished", "unreadable": "finished but not readable"}
_HELD_FIXED = {"initialisation": "the order of the data", "data_order": "the initial weights"}
"""What `vary` leaves as it is with the first seed."""
_ORDER_KEYS = ("data.rows_per_group", "data.packing")
_LISTED = 24
"""Runs named in one note; more are counted."""


def cautions(experiment: Experiment, summary: ComparisonSummary) -> list[str]:
    """Runs that are missing or diverged, unequal budgets, what was corrected, and the like."""
    arms = list(summary.arms.values())
    runs = [run for arm in arms for run in arm.runs]
    return [
        *_status_notes(runs),
        *_foreign_notes(experiment),
        *_seed_notes(experiment, summary),
        *_budget_notes(summary),
        *_order_notes(summary),
        *_branch_notes(experiment),
        *_score_notes(summary),
        *_evaluation_notes(experiment, arms),
        *_commit_notes(runs),
    ]


def _status_notes(runs: Sequence[RunResult]) -> list[str]:
    notes = []
    for status, words in _STATUS_WORDS.items():
        labels = [_label(run) + (f" ({run.note})" if run.note else "") for run in runs if run.status == status]
        if labels:
            notes.append(f"These runs are {words} and are left out of all tables: {_listed(labels)}.")
    dropped = {run.arm: run.note for run in runs if run.status == "dropped"}
    if dropped:
        named = [f"{arm} ({reason})" if reason else arm for arm, reason in dropped.items()]
        notes.append(f"Left out by halving: {_listed(named)}.")
    diverged = [_label(run) for run in runs if run.diverged]
    if diverged:
        notes.append(
            "These runs have diverged (their last validation loss is not a finite number) and are left out of "
            f"all means: {_listed(diverged)}."
        )
    return notes


def _foreign_notes(experiment: Experiment) -> list[str]:
    """Folders of runs of arms and seeds that the experiment had once, or has under another name."""
    known = {run_folder(experiment.output_dir, arm, seed) for arm in experiment.arms for seed in experiment.seeds}
    found = sorted(set((experiment.output_dir / "runs").glob("*/seed_*")) - known)
    labels = [f"{folder.parent.name} seed {folder.name.removeprefix('seed_')}" for folder in found if has_begun(folder)]
    return [f"On disk but not in the experiment, and left out: {_listed(labels)}."] if labels else []


def _seed_notes(experiment: Experiment, summary: ComparisonSummary) -> list[str]:
    notes = []
    if len(experiment.seeds) < 2:
        notes.append("One seed: numbers have no intervals over trainings, and say nothing about other seeds.")
    else:
        single = [pair.arm for pair in summary.pairs if pair.difference is not None and pair.difference.n == 1]
        if single:
            notes.append(f"Compared on one seed so far, hence without interval: {_listed(dict.fromkeys(single))}.")
        notes.append("± is half of the 95 % interval (Student t over seeds).")
    if experiment.vary in _HELD_FIXED:
        notes.append(
            f"All seeds share {_HELD_FIXED[experiment.vary]}: intervals and p values do not tell what another would do."
        )
    family = sum(pair.difference is not None and pair.difference.p_value is not None for pair in summary.pairs)
    if family > 1:
        notes.append(
            f"p values of the {family} comparisons of losses are corrected together (Holm); of downstream scores, "
            "those of one task and metric."
        )
    return notes


def _budget_notes(summary: ComparisonSummary) -> list[str]:
    return [
        f"{pair.arm} spent {pair.budget} of {pair.reference}: their final losses are not a comparison at equal "
        "FLOPs or at equal data."
        for pair in summary.pairs
        if pair.budget.endswith("times the FLOPs")
    ]


def _order_notes(summary: ComparisonSummary) -> list[str]:
    """Pairs of which a seed's runs are not given the same text in the same order."""
    told = {name: _settings(arm) for name, arm in summary.arms.items()}
    notes: dict[str, list[str]] = {}
    for pair in summary.pairs:
        ours, theirs = told[pair.arm], told[pair.reference]
        for key in _ORDER_KEYS:
            if key in ours and key in theirs and ours[key] != theirs[key]:
                text = f"{key}: {ours[key]} against {theirs[key]}"
                notes.setdefault(text, []).append(f"{pair.arm} against {pair.reference}")
    return [
        f"These do not read the text in the same order ({text}), so a seed's runs have less in common: "
        f"{_listed(pairs)}."
        for text, pairs in notes.items()
    ]


def _settings(arm: ArmSummary) -> dict[str, Any]:
    """Of one of its runs: a finished one if there is, whose configuration is whole."""
    configs = [run.config for run in sorted(arm.runs, key=lambda run: run.status != "finished") if run.config]
    return settings(configs[0]) if configs else {}


def _branch_notes(experiment: Experiment) -> list[str]:
    branches = [arm.name for arm in experiment.arms.values() if arm.trunk]
    if not branches:
        return []
    return [
        f"Branches of a longer run, trained from where their own decay begins: {_listed(branches)}. Their costs are "
        "those of the same model trained alone; less was spent, since they share a trunk. Branches of a seed have "
        "the trunk's weights and data in common, so differences at several lengths are not independent."
    ]


def _score_notes(summary: ComparisonSummary) -> list[str]:
    notes: dict[str, list[str]] = {}
    for pair in summary.pairs:
        for score in pair.scores:
            if score.note and not score.in_group:
                notes.setdefault(f"{score.task}: {score.note}", []).append(f"{pair.arm} against {pair.reference}")
    return [f"{note} ({_listed(dict.fromkeys(pairs))})." for note, pairs in notes.items()]


def _evaluation_notes(experiment: Experiment, arms: Sequence[ArmSummary]) -> list[str]:
    """Runs without scores of arms that were to be evaluated, or of which other runs were."""
    wanted = experiment.evaluation
    labels = []
    for arm in arms:
        if arm.scores or (wanted is not None and wanted.wants(arm.arm, arm.method)):
            labels += [_label(run) for run in arm.averaged if not run.scores]
    notes = [f"Without downstream scores so far: {_listed(labels)}."] if labels else []
    early = [
        f"{_label(run)} (step {run.evaluated_step:,} of {run.progress['max_steps']:,})"
        for arm in arms
        for run in arm.averaged
        if run.scores and run.evaluated_early
    ]
    if early:
        notes.append(f"Evaluated before the end of training, and in no score: {_listed(early)}.")
    return notes


def _commit_notes(runs: Sequence[RunResult]) -> list[str]:
    commits = [commit for run in runs if (commit := run.finished.get("commit"))]
    hashes = {commit.get("hash") for commit in commits}
    notes = []
    if len(hashes) > 1:
        notes.append(f"The runs come from {len(hashes)} different commits of this project.")
    if any(commit.get("dirty") for commit in commits):
        notes.append("Some runs come from a checkout with uncommitted changes.")
    return notes


def _label(run: RunResult) -> str:
    return f"{run.arm} seed {run.seed}"


def _listed(labels: Iterable[str]) -> str:
    labels = list(labels)
    more = f" and {len(labels) - _LISTED} more" if len(labels) > _LISTED else ""
    return ", ".join(labels[:_LISTED]) + more
