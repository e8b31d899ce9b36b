"""What two folders say of each other, in plain words."""

from collections import Counter
from collections.abc import Sequence

from tst_lightning.comparison.against.compare import Against, ArmAgainst, EffectAgainst
from tst_lightning.comparison.against.reported import Reported
from tst_lightning.comparison.against.welch import WelchDifference

_MOST_SETTINGS = 12
"""Settings that differ beyond these are left to the JSON file."""


def labels(against: Against) -> tuple[str, str]:
    """What the two folders are called: their last names, or their paths if those are equal."""
    here, there = against.here.folder, against.there.folder
    names = here.resolve().name, there.resolve().name
    return names if names[0] != names[1] else (str(here), str(there))


def verdict(against: Against) -> str:
    """What a hurried reader takes away: whether effects replicate, and whether losses agree."""
    return f"{_effects_verdict(against)} {_losses_verdict(against)}".strip()


def loss_sentence(arm: ArmAgainst, names: tuple[str, str]) -> str:
    """Whether an arm ends at the same loss in both folders."""
    if arm.not_compared:
        return f"{arm.name}: the losses are not compared ({arm.not_compared})."
    empty = [name for name, loss in zip(names, (arm.loss_here, arm.loss_there), strict=True) if loss is None]
    if empty:
        return f"{arm.name}: nothing to compare, no finished run in {' and '.join(empty)} has a finite loss."
    sentences = [_repeats(arm)] if arm.repeats else []
    runs = f"other runs of {arm.name}" if arm.repeats else f"runs of {arm.name}"
    difference = arm.difference
    if difference is None:
        sentences.append(f"{arm.name}: no independent runs are left to compare.")
    elif difference.p_value is None:
        why = "one run in a folder allows no test" if min(difference.n) < 2 else "neither folder has any spread"
        sentences.append(f"The {runs} end {_nats(difference.mean)} {_side(difference.mean)} in {names[0]}; {why}.")
    elif difference.is_shown:
        end = f"end {_nats(difference.mean)} {_side(difference.mean)} in {names[0]} than in {names[1]}"
        sentences.append(f"The {runs} {end}: {_facts(difference)}.")
    else:
        sentences.append(f"The {runs} are not shown to end at different losses: {_facts(difference)}.")
    return " ".join(sentences)


def effect_sentence(effect: EffectAgainst, names: tuple[str, str]) -> str:
    """Whether what an arm gains over its reference is found in both folders."""
    subject = f"{effect.arm} against {effect.reference}"
    if effect.outcome == "not compared":
        return f"{subject}: not compared ({effect.not_compared or 'a folder has no finished pair of runs'})."
    found = {
        "replicates": "the effect replicates",
        "contradicts": "the two folders contradict each other",
        "here alone": f"an effect is shown in {names[0]} alone",
        "there alone": f"an effect is shown in {names[1]} alone",
        "not shown": "an effect is shown in neither folder",
        "no statement": "no statement, a folder has one seed or no spread over seeds",
        "same runs": f"no replication, {_all_of_a_folder(effect, names)} are the same runs in both folders",
    }[effect.outcome]
    sides = zip((effect.here, effect.there), names, strict=True)
    values = "; ".join(f"{side.mean:+.4f} in {name}, n = {side.n}" for side, name in sides)
    sentence = f"{subject}: {found} ({values})."
    if effect.difference is None or effect.difference.p_value is None:
        return sentence
    return f"{sentence} The two effects are {_shown(effect.difference)} to differ: {_facts(effect.difference)}."


def cautions(against: Against, names: tuple[str, str]) -> list[str]:
    """What a reader must know before believing the tables."""
    notes = []
    for name, only in zip(names, (against.only_here, against.only_there), strict=True):
        if only:
            notes.append(f"Only in {name}, and left out: {', '.join(only)}.")
    renamed = [f"{arm.name} ({arm.there.name} in {names[1]})" for arm in against.arms if arm.name != arm.there.name]
    if renamed:
        notes.append(f"The same method, variant and length under another name: {', '.join(renamed)}.")
    incomparable = [f"{arm.name} ({arm.not_compared})" for arm in against.arms if arm.not_compared]
    if incomparable:
        notes.append(f"Losses are not compared of {'; '.join(incomparable)}.")
    for name, side in zip(names, ("here", "there"), strict=True):
        for word, seeds in (("diverged", "diverged"), ("not finished", "unfinished")):
            found = [(arm.name, getattr(getattr(arm, side), seeds)) for arm in against.arms]
            runs = ", ".join(f"{arm} seed {seed}" for arm, those in found for seed in those)
            if runs:
                notes.append(
                    f"Runs in {name} that have {word} and are in no mean: {runs}.".replace("have not", "are not")
                )
    unknown = [arm.name for arm in against.arms if not (arm.here.configs and arm.there.configs)]
    if unknown:
        notes.append(f"A folder holds no configuration of {', '.join(unknown)}: whether it is comparable is not known.")
    repeated = [f"{arm.name} seeds {_listed(sorted(arm.repeats))}" for arm in against.arms if arm.repeats]
    if repeated:
        notes.append(f"The same runs in both folders, which tests between them leave out: {'; '.join(repeated)}.")
    return notes + _shared_references(against)


def _shared_references(against: Against) -> list[str]:
    """Effects whose arms are trained anew but whose references are not."""
    repeats = {arm.name: arm.repeats for arm in against.arms}
    arms_of: dict[str, list[str]] = {}
    for effect in against.effects:
        if {*repeats[effect.reference]} - {*effect.repeated} and not effect.not_compared:
            arms_of.setdefault(effect.reference, []).append(effect.arm)
    return [
        f"Both folders hold {', '.join(arms)} against the same runs of {reference}: whatever chance did to those is in "
        "both effects, which are not independent."
        for reference, arms in arms_of.items()
    ]


def other_settings(against: Against) -> list[str]:
    """Settings that differ without making losses incomparable, with the arms that they differ for."""
    arms_of: dict[str, list[str]] = {}
    for arm in against.arms:
        for text in arm.settings:
            arms_of.setdefault(text, []).append(arm.name)
    everywhere = len(against.arms)
    texts = [
        f"{text} ({'all arms' if len(arms) == everywhere > 1 else ', '.join(arms)})" for text, arms in arms_of.items()
    ]
    left = len(texts) - _MOST_SETTINGS
    return texts[:_MOST_SETTINGS] + ([f"and {left} more, listed in the JSON file"] if left > 0 else [])


def machines(reported: Reported) -> list[str]:
    """The machines of a folder's runs, in words."""
    found = []
    for arm in reported.arms.values():
        for origin in arm.origins:
            machine = origin.get("machine")
            if machine:
                gpus = " + ".join(machine["gpus"]) or "no GPU"
                threads = origin.get("threads")
                found.append(f"{machine['cpu']}, CPUs: {machine['cpus']}, {gpus}, CPU threads per run: {threads}")
    return list(dict.fromkeys(found))


def _effects_verdict(against: Against) -> str:
    if not against.effects:
        return "The two folders have no pair of arms in common whose difference they both measure."
    if len(against.effects) == 1:
        return effect_sentence(against.effects[0], labels(against))
    names = labels(against)
    words = {
        "replicates": "replicate in both folders",
        "contradicts": "contradict each other",
        "here alone": f"shown in {names[0]} alone",
        "there alone": f"shown in {names[1]} alone",
        "not shown": "shown in neither folder",
        "no statement": "without a statement (one seed, or no spread)",
        "same runs": "of the same runs",
        "not compared": "not compared",
    }
    counts = Counter(effect.outcome for effect in against.effects)
    parts = [f"{counts[outcome]} {text}" for outcome, text in words.items() if counts[outcome]]
    return f"Of {len(against.effects)} effects: {', '.join(parts)}."


def _losses_verdict(against: Against) -> str:
    tested = [arm for arm in against.arms if arm.difference is not None and arm.difference.p_value is not None]
    differing = [arm.name for arm in tested if arm.difference.is_shown]
    repeats = [abs(difference) for arm in against.arms for difference in arm.repeats.values()]
    parts = []
    if differing:
        parts.append(
            f"Final losses differ between the folders for {', '.join(differing)} ({_of(len(differing), tested)})."
        )
    elif tested:
        parts.append(f"No arm's final loss is shown to differ between the folders ({_of(0, tested)}).")
    if repeats:
        largest = max(repeats)
        equal = "to the same loss" if largest == 0 else f"to losses at most {largest:.1e} nats apart"
        parts.append(f"{len(repeats)} runs that both have, equal in all settings, came {equal}.")
    return " ".join(parts)


def _of(count: int, tested: Sequence[ArmAgainst]) -> str:
    return f"{count} of {len(tested)} tested"


def _repeats(arm: ArmAgainst) -> str:
    largest = max(map(abs, arm.repeats.values()))
    same = "the same loss" if largest == 0 else f"losses at most {largest:.1e} apart"
    noun = "seed" if len(arm.repeats) == 1 else "seeds"
    seeds = _listed(sorted(arm.repeats))
    return f"{arm.name} {noun} {seeds}, equal in all settings, gave {same} in the two folders."


def _all_of_a_folder(effect: EffectAgainst, names: tuple[str, str]) -> str:
    whole = [name for name, side in zip(names, (effect.here, effect.there), strict=True)
             if {*side.by_seed} == {*effect.repeated}]  # fmt: skip
    return f"all pairs in {' and '.join(whole)}"


def _shown(difference: WelchDifference) -> str:
    return "shown" if difference.is_shown else "not shown"


def _facts(difference: WelchDifference) -> str:
    corrected = "" if difference.p_holm in (None, difference.p_value) else f" ({difference.p_holm:.2g} after Holm)"
    return (
        f"{difference.mean:+.4f}, 95 % interval {difference.low:+.4f} to {difference.high:+.4f}, "
        f"p = {difference.p_value:.2g}{corrected}, n = {difference.n[0]} and {difference.n[1]}, Welch"
    )


def _nats(difference: float) -> str:
    size = abs(difference)
    return f"{size:.3f} nats per token" if size >= 0.0005 or size == 0 else f"{size:.1e} nats per token"


def _side(difference: float) -> str:
    return "lower" if difference < 0 else "higher"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
