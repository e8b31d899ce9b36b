"""What the numbers say, in plain words."""

import math

from tst_lightning.comparison.analysis import PairedDifference
from tst_lightning.comparison.experiment import Experiment
from tst_lightning.comparison.summary import ArmSummary

CHANCE = {
    "heldout_continuation": 0.25,
    "hellaswag": 0.25,
    "arc_easy": 0.25,
    "arc_challenge": 0.25,
    "mmlu": 0.25,
    "openbookqa": 0.25,
    "piqa": 0.5,
    "winogrande": 0.5,
    "boolq": 0.5,
    "blimp": 0.5,
}
"""Accuracy of guessing, by task."""

EQUAL_FLOPS_TOLERANCE = 0.01

CURVES_CAUTION = (
    "Points before the end of the learning-rate decay are not finished models: the last, falling part of "
    "a run belongs to its schedule, so curves are to be compared at their ends. The validation loss is the "
    "next-token loss on single tokens in every phase. A superposed phase does not train that task directly, "
    "so its loss there is high by design and falls after the switch (dashed line)."
)


def verdict(arms: dict[str, ArmSummary], baseline: str) -> str:
    """One sentence per arm beside the baseline: ahead, behind, or not shown."""
    return " ".join(_verdict_of(arms[arm], arms[baseline]) for arm in arms if arm != baseline)


def _verdict_of(arm: ArmSummary, baseline: ArmSummary) -> str:
    difference = arm.difference
    if arm.other_validation:
        return _not_compared(arm, baseline.arm)
    if difference is None:
        return f"No verdict on {arm.arm}: it has no finished run with the seed of a finished {baseline.arm} run."
    if not math.isfinite(difference.mean):
        return f"No verdict on {arm.arm}: a run's loss is not a finite number, so a training has diverged."
    if difference.n == 1:
        if difference.mean == 0:
            how = f"level with {baseline.arm}"
        else:
            how = f"{_nats(difference.mean)} {_side(difference)} {baseline.arm}"
        return f"One seed: no statement about significance is possible; {arm.arm} ended {how}{_values(arm, baseline)}."
    facts = _facts(difference)
    if difference.is_shown:
        return (
            f"{arm.arm} ended {_side(difference)} {baseline.arm} by {_nats(difference.mean)}"
            f"{_values(arm, baseline)}; {facts}."
        )
    return (
        f"A difference between {arm.arm} and {baseline.arm} is not shown: on average {arm.arm} ended "
        f"{_nats(difference.mean)} {_side(difference)} {baseline.arm}{_values(arm, baseline)}; {facts}."
    )


def cautions(experiment: Experiment, arms: dict[str, ArmSummary]) -> list[str]:
    """What a reader must know before believing the tables: missing runs, unequal FLOPs, and the like."""
    notes = []
    for status, word in (("missing", "not started"), ("unfinished", "not finished")):
        labels = [f"{run.arm} seed {run.seed}" for arm in arms.values() for run in arm.runs if run.status == status]
        if labels:
            notes.append(f"These runs are {word} and are left out of all tables: {', '.join(labels)}.")
    flops = {arm.arm: arm.costs["flops"] for arm in arms.values() if arm.costs["flops"]}
    base_flops = flops.get(experiment.baseline)
    for arm, spent in flops.items():
        if base_flops and abs(spent / base_flops - 1) > EQUAL_FLOPS_TOLERANCE:
            notes.append(
                f"{arm} spent {spent / base_flops:.3g} times the FLOPs of {experiment.baseline}: "
                "their final losses are not a comparison at equal FLOPs."
            )
    for arm in arms.values():
        for run in arm.finished:
            last, planned = run.curve.steps[-1], run.progress.get("max_steps")
            if planned and last < planned:
                notes.append(
                    f"The last validation of {arm.arm} seed {run.seed} was at step {last} of {planned}: "
                    "its final loss is that one."
                )
    commits = {commit["hash"] for arm in arms.values() for run in arm.runs if (commit := run.finished.get("commit"))}
    if len(commits) > 1:
        notes.append(f"The runs come from {len(commits)} different commits of this project.")
    if any((run.finished.get("commit") or {}).get("dirty") for arm in arms.values() for run in arm.runs):
        notes.append("Some runs come from a checkout with uncommitted changes.")
    if len(arms) > 2 and len(experiment.seeds) > 1:
        notes.append("Each arm is compared with the baseline on its own; p values are not corrected for that.")
    return notes


def crossing_sentence(arm: ArmSummary, baseline: str) -> str:
    """Where an arm's mean curve passes below the baseline's."""
    if arm.other_validation:
        return _not_compared(arm, baseline)
    if arm.difference is None:
        return f"{arm.arm}: no finished pair of runs to compare."
    at_step, at_flops = arm.crosses_at_step, arm.crosses_at_flops
    if at_step is None:
        return f"{arm.arm} never passes below {baseline} for good."
    if at_step.from_start:
        return f"{arm.arm} is below {baseline} at every validation."
    flops = f", {at_flops.x:.3g} FLOPs" if at_flops is not None else ""
    return f"{arm.arm} passes below {baseline} for good at step {at_step.x:,.0f}{flops}."


def chance_note(tasks: set[str]) -> str:
    """Where guessing stands, for the tasks whose number of choices is known."""
    known = [f"{task} {CHANCE[task]:.0%}" for task in sorted(tasks) if task in CHANCE]
    return f"Accuracy of guessing: {', '.join(known)}." if known else ""


def _not_compared(arm: ArmSummary, baseline: str) -> str:
    return f"{arm.arm} validates on other text than {baseline} ({arm.other_validation}): its loss is not compared."


def _facts(difference: PairedDifference) -> str:
    interval = f"95 % interval of the difference {difference.low:+.4f} to {difference.high:+.4f}"
    p_value = "no p value, all differences are equal" if difference.p_value is None else f"p = {difference.p_value:.2g}"
    return f"{interval}, {p_value}, n = {difference.n} seeds, paired"


def _nats(difference: float) -> str:
    size = abs(difference)
    return f"{size:.3f} nats per token" if size >= 0.0005 else f"{size:.1e} nats per token"


def _side(difference: PairedDifference) -> str:
    return "ahead of" if difference.mean < 0 else "behind"


def _values(arm: ArmSummary, baseline: ArmSummary) -> str:
    """Both means, over the seeds that are compared."""
    seeds = list(arm.difference.by_seed)
    means = [sum(side.final_by_seed[seed] for seed in seeds) / len(seeds) for side in (arm, baseline)]
    return f" (validation loss {means[0]:.4f} against {means[1]:.4f})"
