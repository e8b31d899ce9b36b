"""What a report says, block by block."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from tst_lightning.comparison.analysis import PairedDifference
from tst_lightning.comparison.display import duration
from tst_lightning.comparison.document import (
    Block,
    Code,
    Figure,
    Heading,
    Notes,
    Paragraph,
    Table,
    Verdict,
)
from tst_lightning.comparison.experiment import PROGRAM, Experiment
from tst_lightning.comparison.sentences import (
    CURVES_CAUTION,
    cautions,
    chance_note,
    crossing_sentence,
    verdict,
)
from tst_lightning.comparison.summary import ArmSummary, ScoreSummary

NONE = "-"

CAPTIONS = {
    "loss_flops": "Validation loss against training FLOPs; thin lines are seeds, thick lines their mean. "
    "The right panel shows the end of training.",
    "loss_time": "Validation loss against seconds spent training, validation and evaluation left out.",
    "final_loss": "Final validation loss: a point per seed, joined where arms share the seed and "
    "the validation text, and the mean with its 95 % interval.",
    "downstream": "Downstream accuracy: small points are seeds, large points their mean with lm-eval's "
    "standard error over items; the grey line is guessing.",
    "data_tokens": "Data tokens read against FLOPs: at equal FLOPs a superposed phase reads more text.",
}


def report_blocks(experiment: Experiment, arms: dict[str, ArmSummary], figures: dict[str, Path]) -> list[Block]:
    """The whole report; ``figures`` names the pictures that could be drawn."""
    return [
        Heading(experiment.title or experiment.name, 1),
        *([Paragraph(experiment.description)] if experiment.description else []),
        Verdict(verdict(arms, experiment.baseline)),
        Notes(cautions(experiment, arms)),
        *_loss_section(experiment, arms, figures),
        *_curve_section(experiment, arms, figures),
        *_downstream_section(arms, figures),
        *_cost_section(arms, figures),
        *_origin_section(experiment, arms),
    ]


def _loss_section(experiment: Experiment, arms: dict[str, ArmSummary], figures: dict[str, Path]) -> list[Block]:
    seeds = experiment.seeds
    header = ["Arm", "n", "mean", "sd", *(f"seed {seed}" for seed in seeds)]
    header += [f"difference to {experiment.baseline}", "95 % interval", "p", "bits per byte"]
    rows = [
        [
            arm.arm,
            str(len(arm.final_by_seed)),
            _number(arm.final and arm.final.mean),
            _number(arm.final and arm.final.sd),
            *(_number(arm.final_by_seed.get(seed)) for seed in seeds),
            *_difference_cells(arm),
            _number(arm.bits_per_byte and arm.bits_per_byte.mean),
        ]
        for arm in arms.values()
    ]
    return [
        Heading("Final validation loss"),
        Paragraph(
            "Next-token loss in nats per token at the end of training, lower is better. Differences are "
            "paired by seed: runs of a seed share initial weights and data order. A negative difference "
            "means ahead of the baseline."
        ),
        Table(header, rows),
        *_figure("final_loss", figures),
    ]


def _curve_section(experiment: Experiment, arms: dict[str, ArmSummary], figures: dict[str, Path]) -> list[Block]:
    others = [arm for name, arm in arms.items() if name != experiment.baseline]
    return [
        Heading("On the way"),
        *_figure("loss_flops", figures),
        Paragraph(CURVES_CAUTION),
        Notes([crossing_sentence(arm, experiment.baseline) for arm in others]),
        *_figure("loss_time", figures),
    ]


def _downstream_section(arms: dict[str, ArmSummary], figures: dict[str, Path]) -> list[Block]:
    scores = [(arm, score) for arm in arms.values() for score in arm.scores if not score.in_group]
    if not scores:
        return [Heading("Downstream tasks"), Paragraph("No run has downstream results yet.")]
    keys = list(dict.fromkeys((score.task, score.metric) for _, score in scores))
    rows = []
    for key in keys:
        for arm, score in scores:
            if (score.task, score.metric) == key:
                rows.append([f"{score.task}, {score.metric}", arm.arm, *_score_cells(score)])
    header = ["Task and metric", "arm", "n", "mean", "sd over seeds", "stderr over items", "items"]
    header += ["difference", "95 % interval"]
    return [
        Heading("Downstream tasks"),
        Table(header, rows),
        *([Paragraph(note)] if (note := chance_note({task for task, _ in keys})) else []),
        *_figure("downstream", figures),
    ]


def _cost_section(arms: dict[str, ArmSummary], figures: dict[str, Path]) -> list[Block]:
    columns: list[tuple[str, str, Callable[[float], str]]] = [
        ("data tokens", "data_tokens", lambda value: f"{value:,.0f}"),
        ("positions", "positions", lambda value: f"{value:,.0f}"),
        ("FLOPs", "flops", lambda value: f"{value:.4g}"),
        ("training time", "train_seconds", duration),
        ("whole time", "wall_seconds", duration),
        ("positions per second", "positions_per_second", lambda value: f"{value:,.0f}"),
    ]
    rows = [
        [arm.arm] + [NONE if arm.costs[key] is None else show(arm.costs[key]) for _, key, show in columns]
        for arm in arms.values()
    ]
    return [
        Heading("What it cost"),
        Paragraph(
            "Means over finished runs. Positions are what the model's layers compute, data tokens what is "
            "read from the corpus. The whole time adds start-up, validation and evaluation, over all restarts."
        ),
        Table(["Arm", *(title for title, _, _ in columns)], rows),
        *_figure("data_tokens", figures),
    ]


def _origin_section(experiment: Experiment, arms: dict[str, ArmSummary]) -> list[Block]:
    runs = [run for seed in experiment.seeds for arm in arms.values() for run in arm.runs if run.seed == seed]
    commands = [run.command for run in runs if run.command]
    finished = [run.finished for run in runs if run.finished]
    facts = []
    for label, values in {
        "Commit": [_commit(origin) for origin in finished],
        "Machine": [_machine(origin) for origin in finished],
        "Versions": [
            ", ".join(f"{name} {version}" for name, version in origin.get("versions", {}).items())
            for origin in finished
        ],
    }.items():
        facts += [f"{label}: {value}" for value in dict.fromkeys(values) if value]
    return [
        Heading("Where it comes from"),
        Notes(facts),
        Paragraph("Each run is one command:"),
        Code("\n".join(commands) or "(no run has started)"),
        Paragraph("This report, from the runs' folders:"),
        Code(shlex.join([PROGRAM, "report", str(experiment.output_dir)])),
    ]


def _difference_cells(arm: ArmSummary) -> list[str]:
    difference = arm.difference
    if difference is None:
        return [NONE, NONE, NONE]
    p_value = NONE if difference.p_value is None else f"{difference.p_value:.2g}"
    return [_number(difference.mean, "+"), _interval(difference), p_value]


def _score_cells(score: ScoreSummary) -> Sequence[str]:
    difference = score.difference
    return [
        str(score.over_seeds.n),
        _number(score.over_seeds.mean),
        _number(score.over_seeds.sd),
        _number(score.stderr),
        NONE if score.items is None else f"{score.items:,}",
        NONE if difference is None else _number(difference.mean, "+"),
        NONE if difference is None else _interval(difference),
    ]


def _interval(summary: PairedDifference) -> str:
    return NONE if summary.low is None else f"{_number(summary.low, '+')} to {_number(summary.high, '+')}"


def _number(value: float | None, sign: str = "") -> str:
    """Four decimals as far as they mean something: a perplexity of an untrained model has too many digits."""
    if value is None:
        return NONE
    decimals = 4 if abs(value) < 100 else 1 if abs(value) < 10_000 else 0
    return f"{value:{sign},.{decimals}f}"


def _figure(name: str, figures: dict[str, Path]) -> list[Block]:
    return [Figure(figures[name], CAPTIONS[name])] if name in figures else []


def _commit(origin: dict) -> str:
    commit = origin.get("commit")
    if not commit:
        return "not a checkout"
    return commit["hash"] + (" with uncommitted changes" if commit["dirty"] else "")


def _machine(origin: dict) -> str:
    machine = origin.get("machine")
    if not machine:
        return ""
    gpus = f", {' + '.join(machine['gpus'])}" if machine["gpus"] else ", no GPU"
    return f"{machine['cpu']}, CPUs: {machine['cpus']}{gpus}, CPU threads per run: {origin.get('threads')}"
