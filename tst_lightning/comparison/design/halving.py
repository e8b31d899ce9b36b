"""Successive halving: after each length only the best methods go on to the next.

All methods train at the shortest length with all seeds. Then, within each variant, they are ranked by their
mean final validation loss, and the best share goes on; the baseline is not ranked and always does. A method with
a failed or a diverged run is ranked last. Decisions are kept in ``halving.json``, so that a restarted comparison
goes on as it began; delete the file to have them taken anew, for example after mending what made a run fail.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tst_lightning.comparison.design.arms import Arm
from tst_lightning.files import read_json, write_atomically

if TYPE_CHECKING:
    from tst_lightning.comparison.design.experiment import Run

HALVING_FILE = "halving.json"


def rank(losses: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    """Methods and their mean losses, best first.

    Args:
        losses: Method -> final loss of each of its runs; None for one that failed.

    Returns:
        Method -> mean loss; ``inf`` for a method with a run that failed or diverged. These are last, fewer such
        runs first. Otherwise equal methods stay in the order given.
    """

    def is_bad(loss: float | None) -> bool:
        return loss is None or not math.isfinite(loss)

    means = {
        method: math.inf if not values or any(map(is_bad, values)) else sum(values) / len(values)
        for method, values in losses.items()
    }
    order = sorted(losses, key=lambda method: (means[method], sum(map(is_bad, losses[method]))))
    return {method: means[method] for method in order}


def number_going_on(keep: float, number: int) -> int:
    """How many of so many methods go on. Rounded up, but not by the error of a product such as 0.07 * 100."""
    return math.ceil(round(keep * number, 9))


def halving_problems(arms: Mapping[str, Arm], keep: float) -> list[str]:
    """What does not fit together; empty if all is well."""
    problems = []
    if not 0 < keep < 1:
        problems.append(f"halving is {keep}: give the share of methods that go on, between 0 and 1, such as 0.5")
    if len({arm.nominal_length for arm in arms.values() if arm.references}) < 2:
        problems.append("halving needs two or more `lengths`: methods are ranked at one and go on to the next")
    branching = sorted({arm.method for arm in arms.values() if arm.trunk and arm.references})
    if branching:
        problems.append(
            f"halving with branches of {', '.join(branching)}: a method that branches trains its longest run first, "
            "which halving is there to save: leave it out of `branch`, or leave out `halving`"
        )
    return problems


class Halving:
    """Which arms may run.

    An arm that has references is ranked with the others of its variant and length. One that has none, the
    baseline or one that reads as much data, is not, and runs as long as an arm that is compared with it does.

    Args:
        output_dir: Folder of the comparison.
        arms: Those that are to be run; ``halving_problems`` has found nothing wrong with them.
        baseline: The method that others are compared with.
        keep: Share of methods that go on.
    """

    def __init__(self, output_dir: Path, arms: Mapping[str, Arm], baseline: str, keep: float) -> None:
        self._path = Path(output_dir) / HALVING_FILE
        self._arms = arms
        self._baseline = baseline
        self._keep = keep
        self._contests: dict[tuple[str, int], dict[str, str]] = {}
        for arm in arms.values():
            if arm.references:
                self._contests.setdefault((arm.variant, arm.nominal_length), {})[arm.method] = arm.name
        self._decisions = self._still_valid((read_json(self._path) or {}).get("decisions", []))

    def stage(self, arm: str) -> int:
        """The length at which an arm is wanted: that of what starts from it or is compared with it."""
        needed_by = [
            self.stage(other.name) for other in self._arms.values() if other.trunk == arm or arm in other.references
        ]
        own = self._arms[arm].nominal_length
        return min([own, *needed_by])

    def may_run(self, arm: str) -> bool | None:
        """True or False; None while that is not decided."""
        this = self._arms[arm]
        if this.method == self._baseline:
            return True
        if not this.references:
            answers = {self.may_run(other.name) for other in self._arms.values() if arm in other.references}
            return True if True in answers or not answers else None if None in answers else False
        for steps in self._lengths(this.variant):
            if steps >= this.nominal_length:
                break
            if this.method not in self._ranked(this.variant, steps):
                continue
            decision = self._decision(this.variant, steps)
            if decision is None:
                return None
            if this.method not in decision["goes_on"]:
                return False
        return True

    def expected(self) -> set[str]:
        """Arms that may run or, as far as their number is known, will: for a forecast."""
        expected = {name for name in self._arms if self.may_run(name)}
        for variant in self._variants():
            alive = {arm.method for arm in self._arms.values() if arm.variant == variant and arm.references}
            for steps in self._lengths(variant):
                expected |= {
                    arm.name
                    for arm in self._arms.values()
                    if (arm.variant, arm.nominal_length) == (variant, steps) and arm.method in alive
                }
                ranked = [method for method in self._ranked(variant, steps) if method in alive]
                decision = self._decision(variant, steps)
                stay = ranked[: number_going_on(self._keep, len(ranked))] if decision is None else decision["goes_on"]
                alive -= set(ranked) - set(stay)
        expected |= {reference for name in expected for reference in self._arms[name].references}
        return expected

    def decide(self, runs: "Sequence[Run]", is_over: "Callable[[Run], bool]") -> list[str]:
        """Take every decision that can be taken now, and write them down.

        Args:
            runs: All runs of the experiment.
            is_over: Whether a run has finished or failed.

        Returns:
            A sentence for each.
        """
        sentences = []
        for variant in self._variants():
            for steps in self._lengths(variant)[:-1]:
                if self._decision(variant, steps) is not None:
                    continue
                names = self._ranked(variant, steps)
                alive = {method: name for method, name in names.items() if self.may_run(name) is not False}
                entrants = [run for run in runs if run.arm in alive.values()]
                if any(self.may_run(name) is None for name in alive.values()) or not all(map(is_over, entrants)):
                    break
                if alive:
                    sentences.append(self._take(variant, steps, names, alive, entrants))
        return sentences

    def _take(
        self, variant: str, steps: int, names: dict[str, str], alive: dict[str, str], runs: "Sequence[Run]"
    ) -> str:
        losses = {method: [_final_loss(run) for run in runs if run.arm == name] for method, name in alive.items()}
        ranked = rank(losses)
        goes_on = list(ranked)[: number_going_on(self._keep, len(ranked))]
        dropped = [method for method in ranked if method not in goes_on]
        decision = {
            "variant": variant,
            "steps": steps,
            "keep": self._keep,
            # Methods dropped at a shorter length stand here too: the decision holds for them as well.
            "losses": {method: _number(ranked.get(method)) for method in dict.fromkeys([*ranked, *names])},
            "goes_on": goes_on,
            "dropped": dropped,
        }
        before = {name for name in self._arms if self.may_run(name) is False}
        self._decisions.append(decision)
        gone = [name for name in self._arms if self.may_run(name) is False and name not in before]
        decision["dropped_arms"] = [name for name in gone if self._arms[name].references]
        decision["dropped_references"] = [name for name in gone if not self._arms[name].references]
        write_atomically(self._path, json.dumps({"decisions": self._decisions}, indent=2, allow_nan=False) + "\n")
        where = f"{variant}: " if variant else ""
        return f"{where}after {steps:,} steps {', '.join(goes_on)} go on, dropped: {', '.join(dropped) or 'none'}"

    def _still_valid(self, decisions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Without those taken with another share or without a method that is there now, and what followed."""
        contests = {(variant, steps) for variant in self._variants() for steps in self._lengths(variant)[:-1]}
        valid = [decision for decision in decisions if (decision["variant"], decision["steps"]) not in contests]
        for variant in self._variants():
            for steps in self._lengths(variant)[:-1]:
                names = set(self._ranked(variant, steps))
                found = [one for one in decisions if (one["variant"], one["steps"]) == (variant, steps)]
                if not found or found[0]["keep"] != self._keep or not names <= set(found[0]["losses"]):
                    break
                valid.append(found[0])
        return valid

    def _variants(self) -> list[str]:
        return list(dict.fromkeys(arm.variant for arm in self._arms.values()))

    def _lengths(self, variant: str) -> list[int]:
        return sorted(steps for name, steps in self._contests if name == variant)

    def _ranked(self, variant: str, steps: int) -> dict[str, str]:
        """Method -> arm, of those that are ranked at this length."""
        return self._contests.get((variant, steps), {})

    def _decision(self, variant: str, steps: int) -> dict[str, Any] | None:
        found = [one for one in self._decisions if (one["variant"], one["steps"]) == (variant, steps)]
        return found[0] if found else None


def dropped_arms(output_dir: str | Path) -> dict[str, str]:
    """Arms that successive halving left out: name -> a sentence that says so. Empty without halving."""
    sentences = {}
    for decision in (read_json(Path(output_dir) / HALVING_FILE) or {}).get("decisions", []):
        after = f"dropped by successive halving after {decision['steps']:,} steps"
        sentences |= dict.fromkeys(decision["dropped_arms"], f"not run: {after}")
        sentences |= dict.fromkeys(decision["dropped_references"], f"not run: all that is compared with it was {after}")
    return sentences


def _final_loss(run: "Run") -> float | None:
    """Final validation loss of a finished run; None if it has not finished."""
    # Not at the top: that module needs the experiment, which needs this one.
    from tst_lightning.comparison.running.folder import PROGRESS_FILE, is_finished

    if not is_finished(run.folder):
        return None
    return (read_json(run.folder / PROGRESS_FILE) or {}).get("val_loss")


def _number(loss: float | None) -> float | None:
    """As JSON can say it."""
    return loss if loss is not None and math.isfinite(loss) else None
