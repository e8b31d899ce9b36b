"""Two results folders beside each other: do the arms that both have end at the same loss, and do effects replicate?

``here`` is the folder that is reported on, ``there`` the other. A difference is here minus there.

Runs of different folders are independent samples even where they share a seed's number: a seed pairs runs only
if all else is equal. If it is, down to the resolved configuration, they are one run done twice; such repeats
show how far a run can be reproduced, and tell nothing about chance, so tests leave them out.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from tst_lightning.comparison.against.reported import Reported, ReportedArm
from tst_lightning.comparison.against.welch import WelchDifference, welch_difference
from tst_lightning.comparison.analysis.settings import differing_settings, settings
from tst_lightning.comparison.analysis.statistics import (
    PairedDifference,
    Summary,
    correct,
    paired_difference,
    summarize,
)
from tst_lightning.comparison.design.comparability import EVALUATION, differing_keys
from tst_lightning.errors import UserError

_SCORE_KEYS = tuple(f"{EVALUATION}.{name}" for name in ("limit", "max_length", "data_dir"))
"""Evaluation settings that change a task's score; others say which tasks there are, when, and how fast."""


@dataclass(frozen=True)
class ScoreAgainst:
    """One downstream metric of one arm in both folders."""

    task: str
    metric: str
    here: Summary
    there: Summary
    not_compared: str
    difference: WelchDifference | None
    """None where the scores are not compared, or no run is independent of those of the other folder."""


@dataclass(frozen=True)
class ArmAgainst:
    """An arm that both folders have."""

    here: ReportedArm
    there: ReportedArm
    not_compared: str
    """What makes their losses incomparable, as ``key: value against value``; empty if nothing does."""
    settings: tuple[str, ...]
    """What else their runs were told differently."""
    loss_here: Summary | None
    loss_there: Summary | None
    repeats: dict[int, float]
    """Seeds of runs that are equal in all settings -> difference of their final losses."""
    difference: WelchDifference | None
    """Of final losses, without repeats; None where they are not compared or no independent runs are left."""
    scores: tuple[ScoreAgainst, ...]

    @property
    def name(self) -> str:
        return self.here.name


@dataclass(frozen=True)
class EffectAgainst:
    """What an arm gains over its reference, in both folders: final losses paired by seed within each."""

    arm: str
    reference: str
    here: PairedDifference | None
    there: PairedDifference | None
    not_compared: str
    repeated: tuple[int, ...]
    """Seeds of which both runs are repeats."""
    difference: WelchDifference | None
    """Effect here minus effect there, without repeated seeds."""

    @property
    def outcome(self) -> str:
        """Whether the effect replicates.

        ``replicates``: it is shown in both folders, in one direction; ``contradicts``: in opposite directions;
        ``here alone``, ``there alone``: in one folder; ``not shown``: in neither; ``no statement``: a folder has one
        seed, or no spread over seeds; ``same runs``: a folder has no pair of runs that is not a repeat of the other's;
        ``not compared``.
        """
        if self.not_compared or self.here is None or self.there is None:
            return "not compared"
        if self.repeated and {*self.repeated} in ({*self.here.by_seed}, {*self.there.by_seed}):
            return "same runs"
        if self.here.low is None or self.there.low is None:
            return "no statement"
        if not (self.here.is_shown and self.there.is_shown):
            return "here alone" if self.here.is_shown else "there alone" if self.there.is_shown else "not shown"
        return "replicates" if (self.here.mean < 0) == (self.there.mean < 0) else "contradicts"


@dataclass(frozen=True)
class Against:
    """All that two folders have in common."""

    here: Reported
    there: Reported
    arms: tuple[ArmAgainst, ...]
    effects: tuple[EffectAgainst, ...]
    only_here: tuple[str, ...]
    only_there: tuple[str, ...]


def compare_folders(here: Reported, there: Reported) -> Against:
    """Compare what both folders have.

    Raises:
        UserError: they share no arm, or no arm's losses are comparable.
    """
    shared = _shared_arms(here, there)
    if not shared:
        raise UserError(
            f"'{here.folder}' and '{there.folder}' have no arm in common ({', '.join(here.arms)} against "
            f"{', '.join(there.arms)}): arms are compared that have the same name, or the same method, variant and "
            "length"
        )
    arms = {name: _compare_arm(here, there, name, other) for name, other in shared.items()}
    if all(arm.not_compared for arm in arms.values()):
        arms_of: dict[str, list[str]] = {}
        for name, arm in arms.items():
            arms_of.setdefault(arm.not_compared, []).append(name)
        reasons = "\n  ".join(f"{', '.join(names)}: {keys}" for keys, names in arms_of.items())
        raise UserError(
            f"nothing in '{here.folder}' is comparable with '{there.folder}'; these keys differ:\n  {reasons}\n"
            "losses are compared of models of one shape on the same validation text; name two folders that have such"
        )
    return Against(
        here, there, _corrected(list(arms.values())), tuple(_effects(here, there, shared, arms)),
        tuple(name for name in here.arms if name not in shared),
        tuple(name for name in there.arms if name not in shared.values()),
    )  # fmt: skip


def _shared_arms(here: Reported, there: Reported) -> dict[str, str]:
    """Name here -> name there: the same name, or else the one arm of the same method, variant and length."""
    shared = {name: name for name in here.arms if name in there.arms}
    for name, arm in here.arms.items():
        alike = [other.name for other in there.arms.values() if other.key == arm.key]
        if name not in shared and len(alike) == 1 and alike[0] not in shared.values():
            shared[name] = alike[0]
    return {name: shared[name] for name in here.arms if name in shared}


def _compare_arm(here: Reported, there: Reported, name: str, other: str) -> ArmAgainst:
    one, two = here.arms[name], there.arms[other]
    keys, told_apart = [], []
    if one.configs and two.configs:
        first, second = (next(iter(arm.configs.values())) for arm in (one, two))
        keys = differing_keys(first, second)
        told_apart = differing_settings(
            settings(first, here.output_dir), settings(second, there.output_dir), [_key(text) for text in keys]
        )
    evaluation = [text for text in keys if EVALUATION in text]
    not_compared = "; ".join(text for text in keys if text not in evaluation)
    repeats = {seed: one.losses[seed] - two.losses[seed] for seed in _repeated_seeds(here, there, one, two)}
    return ArmAgainst(
        here=one,
        there=two,
        not_compared=not_compared,
        settings=tuple(told_apart),
        loss_here=summarize(list(one.losses.values())),
        loss_there=summarize(list(two.losses.values())),
        repeats=repeats,
        difference=None if not_compared else _independent(one.losses, two.losses, repeats),
        scores=tuple(
            _scores(
                one, two, not_compared or "; ".join(text for text in evaluation if _key(text) in _SCORE_KEYS), repeats
            )
        ),
    )


def _key(text: str) -> str:
    """The key of ``key: value against value``."""
    return text.partition(":")[0]


def _repeated_seeds(here: Reported, there: Reported, one: ReportedArm, two: ReportedArm) -> list[int]:
    """Seeds that both have a loss of and whose runs were told the same."""
    repeated = []
    for seed in sorted({*one.losses} & {*two.losses} & {*one.configs} & {*two.configs}):
        told = settings(one.configs[seed], here.output_dir)
        if told and told == settings(two.configs[seed], there.output_dir):
            repeated.append(seed)
    return repeated


def _scores(one: ReportedArm, two: ReportedArm, not_compared: str, repeats: Mapping[int, float]) -> list[ScoreAgainst]:
    found = []
    for (task, metric), here in one.scores.items():
        there = two.scores.get((task, metric))
        if there is None or here.in_group or not here.by_seed or not there.by_seed:
            continue
        reason = not_compared
        if not reason and here.items != there.items:
            reason = f"items of {task}: {here.items} against {there.items}"
        found.append(
            ScoreAgainst(
                task, metric, summarize(list(here.by_seed.values())), summarize(list(there.by_seed.values())), reason,
                None if reason else _independent(here.by_seed, there.by_seed, repeats),
            )
        )  # fmt: skip
    return found


def _effects(
    here: Reported, there: Reported, shared: Mapping[str, str], arms: Mapping[str, ArmAgainst]
) -> list[EffectAgainst]:
    """Each pair of arms that both folders compare, with both effects."""
    all_here, all_there = _effects_within(here), _effects_within(there)
    effects = []
    for (name, reference), (reason, effect) in all_here.items():
        pair_there = (shared.get(name), shared.get(reference))
        if pair_there not in all_there:
            continue
        reason_there, effect_there = all_there[pair_there]
        arm, base = arms[name], arms[reference]
        reason = reason or reason_there or arm.not_compared or base.not_compared
        repeated = tuple(sorted(arm.repeats.keys() & base.repeats.keys()))
        difference = None
        if effect is not None and effect_there is not None and not reason:
            difference = _independent(effect.by_seed, effect_there.by_seed, repeated)
        effects.append(EffectAgainst(name, reference, effect, effect_there, reason, repeated, difference))
    corrected = correct([effect.difference for effect in effects])
    return [replace(effect, difference=test) for effect, test in zip(effects, corrected, strict=True)]


def _effects_within(reported: Reported) -> dict[tuple[str, str], tuple[str, PairedDifference | None]]:
    """Every pair of arms of one folder: why it is not compared, and its effect, corrected for their number."""
    effects = [
        None if reason else paired_difference(reported.arms[arm].losses, reported.arms[reference].losses)
        for arm, reference, reason in reported.pairs
    ]
    return {
        (arm, reference): (reason, effect)
        for (arm, reference, reason), effect in zip(reported.pairs, correct(effects), strict=True)
    }


def _independent(
    here: Mapping[int, float], there: Mapping[int, float], repeated: Container[int]
) -> WelchDifference | None:
    """The difference of means over runs that are not one run done twice."""
    sides = [[value for seed, value in side.items() if seed not in repeated] for side in (here, there)]
    return welch_difference(*sides)


def _corrected(arms: Sequence[ArmAgainst]) -> tuple[ArmAgainst, ...]:
    """The arms with p values corrected for their number, losses and scores apart."""
    losses = correct([arm.difference for arm in arms])
    scores = iter(correct([score.difference for arm in arms for score in arm.scores]))
    return tuple(
        replace(arm, difference=loss, scores=tuple(replace(score, difference=next(scores)) for score in arm.scores))
        for arm, loss in zip(arms, losses, strict=True)
    )
