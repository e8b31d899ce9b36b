"""What the page of two folders says, block by block."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from tst_lightning.comparison.against.compare import Against, ArmAgainst, EffectAgainst
from tst_lightning.comparison.against.reported import Reported
from tst_lightning.comparison.against.sentences import (
    cautions,
    effect_sentence,
    labels,
    loss_sentence,
    machines,
    other_settings,
    verdict,
)
from tst_lightning.comparison.against.welch import WelchDifference
from tst_lightning.comparison.analysis.statistics import PairedDifference, Summary
from tst_lightning.comparison.design.experiment import PROGRAM
from tst_lightning.comparison.reporting.document import Block, Code, Figure, Heading, Notes, Paragraph, Table, Verdict
from tst_lightning.comparison.running.display import duration

NONE = "-"
_COSTS = {
    "flops": ("training FLOPs", lambda value: f"{value:.3e}"),
    "data_tokens": ("data tokens", lambda value: f"{value / 1e6:.3f} M"),
    "positions": ("positions", lambda value: f"{value / 1e6:.3f} M"),
    "train_seconds": ("training time", duration),
    "positions_per_second": ("positions per second", lambda value: f"{value:,.0f}"),
}


def page_blocks(against: Against, figures: Mapping[str, Path]) -> list[Block]:
    """The whole page; ``figures`` names the pictures that could be drawn."""
    names = labels(against)
    return [
        Heading(f"{names[0]} against {names[1]}", 1),
        Verdict(verdict(against)),
        Notes(cautions(against, names)),
        *_effect_section(against, names, figures),
        *_loss_section(against, names, figures),
        *_repeat_section(against, names),
        *_score_section(against, names),
        *_cost_section(against, names),
        *_settings_section(against, names),
        *_origin_section(against, names),
    ]


def loss_rows(against: Against) -> list[list[str]]:
    """Header and one row per arm: both means, and Welch's test between them."""
    names = labels(against)
    rows = [["arm", "n", *names, "difference", "95 % interval", "p", "p, Holm"]]
    for arm in against.arms:
        sides = [_summary(summary) for summary in (arm.loss_here, arm.loss_there)]
        rows.append([arm.name, _sizes(arm.loss_here, arm.loss_there), *sides, *_test_cells(arm.difference)[1:]])
    return rows


def effect_rows(against: Against) -> list[list[str]]:
    """Header and three rows per pair: the effect in each folder, and Welch's test between them."""
    names = labels(against)
    rows = [["arm, reference, outcome", "folder", "n", "effect", "95 % interval", "p", "p, Holm"]]
    for effect in against.effects:
        rows.append([effect.arm, names[0], *_test_cells(effect.here)])
        rows.append([f"against {effect.reference}:", names[1], *_test_cells(effect.there)])
        rows.append([_outcome(effect, names), "difference", *_test_cells(effect.difference)])
    return rows


def _effect_section(against: Against, names: tuple[str, str], figures: Mapping[str, Path]) -> list[Block]:
    if not against.effects:
        return []
    header, *rows = effect_rows(against)
    notable = [effect for effect in against.effects if not _table_says_all_of_effect(effect)]
    sentences = [effect_sentence(effect, names) for effect in notable]
    return [
        Heading("Do the effects replicate?"),
        Paragraph(
            "An effect is an arm's final loss minus its reference's, paired by seed within each folder; below zero the "
            "arm is ahead. It is shown if p, after Holm's correction for the pairs of its folder, is below 0.05. "
            "It replicates if both folders show it in the same direction. What is not shown may still be there: the "
            "rows named difference test whether the two effects differ (Welch's t test over independent seeds)."
        ),
        *_figure(
            "effects", figures, f"Effect on the final loss with 95 % interval, one point per seed: {_marks(names)}."
        ),
        Table(header, rows),
        *([Notes(sentences)] if len(against.effects) > 1 else []),
    ]


def _loss_section(against: Against, names: tuple[str, str], figures: Mapping[str, Path]) -> list[Block]:
    header, *rows = loss_rows(against)
    return [
        Heading("Final validation loss"),
        Paragraph(
            f"Mean ± standard deviation over seeds, in nats per token. The difference is {names[0]} minus {names[1]}, "
            "with Welch's t test: one seed in two folders gives independent runs, unless everything else is equal too. "
            "Then it is the same run twice, and the test leaves it out."
        ),
        *_figure("losses", figures, f"Final loss with 95 % interval of the mean, one point per seed: {_marks(names)}."),
        Table(header, rows),
        Notes([loss_sentence(arm, names) for arm in against.arms if not _table_says_all_of_arm(arm)]),
    ]


def _repeat_section(against: Against, names: tuple[str, str]) -> list[Block]:
    repeated = [arm for arm in against.arms if arm.repeats]
    if not repeated:
        return []
    rows = [
        [f"{arm.name}, seed {seed}", f"{arm.here.losses[seed]:.6f}", f"{arm.there.losses[seed]:.6f}", f"{gap:+.1e}"]
        for arm in repeated
        for seed, gap in arm.repeats.items()
    ]
    return [
        Heading("The same run twice"),
        Paragraph(
            "These runs are equal in every setting but the folder that they write to. How far their losses lie apart "
            "says how far a run is reproducible, and nothing about chance: the tests above leave them out."
        ),
        Table(["Run", *names, "difference"], rows),
    ]


def _score_section(against: Against, names: tuple[str, str]) -> list[Block]:
    keys = list(dict.fromkeys((score.task, score.metric) for arm in against.arms for score in arm.scores))
    if not keys:
        return []
    rows, notes = [], []
    for task, metric in keys:
        for arm in against.arms:
            for score in arm.scores:
                if (score.task, score.metric) == (task, metric):
                    sides = [_summary(side) for side in (score.here, score.there)]
                    sizes = _sizes(score.here, score.there)
                    rows.append([f"{task}, {metric}", arm.name, sizes, *sides, *_test_cells(score.difference)[1:]])
                    if score.not_compared:
                        notes.append(f"{task} of {arm.name}: the scores are not compared ({score.not_compared}).")
    return [
        Heading("Downstream tasks"),
        Paragraph(
            "Scores over seeds, compared like the losses. The test holds the items fixed: it tells trainings apart, "
            "not what other questions would have said."
        ),
        Table(["Task and metric", "arm", "n", *names, "difference", "95 % interval", "p", "p, Holm"], rows),
        Notes(list(dict.fromkeys(notes))),
    ]


def _cost_section(against: Against, names: tuple[str, str]) -> list[Block]:
    rows = []
    for arm in against.arms:
        here, there = arm.here.costs, arm.there.costs
        for name, costs in zip(names, (here, there), strict=True):
            rows.append([arm.name, name, *(_cost(costs.get(cost), show) for cost, (_, show) in _COSTS.items())])
        ratios = [_ratio(here.get(cost), there.get(cost)) for cost in _COSTS]
        rows.append(["", "ratio", *ratios])
    ran_on = [
        f"{name}: {'; '.join(machines(side)) or 'machine unknown'}."
        for name, side in zip(names, (against.here, against.there), strict=True)
    ]
    return [
        Heading("Cost"),
        Paragraph(
            f"Means over finished runs; the ratio is {names[0]} over {names[1]}. FLOPs and tokens belong to the arm. "
            "Times and positions per second depend on the machine and its load:"
        ),
        Notes(ran_on),
        Table(["Arm", "folder", *(title for title, _ in _COSTS.values())], rows),
    ]


def _settings_section(against: Against, names: tuple[str, str]) -> list[Block]:
    told = other_settings(against)
    if not told:
        return []
    text = f"Settings that differ, {names[0]} against {names[1]}. The comparison above is of runs so different:"
    return [Heading("What else differs"), Paragraph(text), Notes(told)]


def _origin_section(against: Against, names: tuple[str, str]) -> list[Block]:
    facts = [
        fact for name, side in zip(names, (against.here, against.there), strict=True) for fact in _origin(name, side)
    ]
    command = shlex.join([PROGRAM, "report", str(against.here.folder), "--against", str(against.there.folder)])
    return [
        Heading("Where it comes from"),
        Notes(facts),
        Paragraph("This page, from the report.json of both folders:"),
        Code(command),
    ]


def _origin(name: str, reported: Reported) -> list[str]:
    origins = [origin for arm in reported.arms.values() for origin in arm.origins]
    commits = dict.fromkeys(_commit(origin) for origin in origins)
    versions = dict.fromkeys(
        ", ".join(f"{package} {version}" for package, version in origin.get("versions", {}).items())
        for origin in origins
    )
    facts = [f"{name}: report of {reported.created}"]
    facts += [f"{name}: commit {commit}" for commit in commits]
    return facts + [f"{name}: {version}" for version in versions if version]


def _commit(origin: dict) -> str:
    commit = origin.get("commit")
    if not commit:
        return "unknown, not a checkout"
    return commit["hash"][:12] + (" with uncommitted changes" if commit["dirty"] else "")


def _summary(summary: Summary | None) -> str:
    if summary is None:
        return NONE
    return _number(summary.mean) + ("" if summary.sd is None else f" ± {_number(summary.sd)}")


def _sizes(here: Summary | None, there: Summary | None) -> str:
    return f"{here.n if here else 0}, {there.n if there else 0}"


def _table_says_all_of_arm(arm: ArmAgainst) -> bool:
    tested = arm.difference is not None and arm.difference.p_value is not None
    return tested and not arm.repeats and not arm.difference.is_shown


def _table_says_all_of_effect(effect: EffectAgainst) -> bool:
    differs = effect.difference is not None and effect.difference.is_shown
    return not differs and effect.outcome not in ("contradicts", "same runs", "not compared")


def _outcome(effect: EffectAgainst, names: tuple[str, str]) -> str:
    shown_in = {"here alone": f"shown in {names[0]} alone", "there alone": f"shown in {names[1]} alone"}
    return shown_in.get(effect.outcome, effect.outcome)


def _test_cells(test: WelchDifference | PairedDifference | None) -> list[str]:
    """n, difference, interval, p and corrected p."""
    if test is None:
        return [NONE] * 5
    size = f"{test.n[0]}, {test.n[1]}" if isinstance(test.n, tuple) else str(test.n)
    interval = NONE if test.low is None else f"{_number(test.low, '+')} to {_number(test.high, '+')}"
    p_values = [NONE if p is None else f"{p:.2g}" for p in (test.p_value, test.p_holm)]
    return [size, _number(test.mean, "+"), interval, *p_values]


def _number(value: float, sign: str = "") -> str:
    """Four decimals as far as they mean something: a perplexity of an untrained model has too many digits."""
    decimals = 4 if abs(value) < 100 else 1 if abs(value) < 10_000 else 0
    return f"{value:{sign},.{decimals}f}"


def _cost(value: float | None, show: Callable[[float], str]) -> str:
    return NONE if value is None else show(value)


def _ratio(here: float | None, there: float | None) -> str:
    return f"{here / there:.3g}" if here is not None and there else NONE


def _marks(names: tuple[str, str]) -> str:
    return f"filled circles {names[0]}, open diamonds {names[1]}"


def _figure(name: str, figures: Mapping[str, Path], caption: str) -> list[Block]:
    return [Figure(figures[name], caption)] if name in figures else []
