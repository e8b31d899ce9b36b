"""``--only``: which arms of an experiment are run."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from tst_lightning.comparison.design.arms import Arm
from tst_lightning.errors import UserError


def selected(arms: Mapping[str, Arm], patterns: Sequence[str]) -> list[str]:
    """Names of the arms to run, in the experiment's order.

    Args:
        arms: all arms of the experiment.
        patterns: as a shell has them, on names of arms or methods. What a selected arm is compared with, and the
            trunks of what branches, are selected too.

    Raises:
        UserError: a pattern that no arm and no method is named like.
    """
    wanted: set[str] = set()
    problems = []
    for pattern in patterns:
        found = {
            arm.name for arm in arms.values() if any(fnmatchcase(name, pattern) for name in (arm.name, arm.method))
        }
        if not found:
            problems.append(pattern)
        wanted |= found
    if problems:
        methods = dict.fromkeys(arm.method for arm in arms.values())
        names = [name for name in arms if name not in methods]
        quoted = ", ".join(f"'{pattern}'" for pattern in problems)
        raise UserError(f"only: nothing is named like {quoted}: there are {', '.join([*methods, *names])}")
    # What these are compared with in turn was not asked for; they may branch off a trunk.
    wanted |= {reference for name in wanted for reference in arms[name].references}
    wanted |= {trunk for name in wanted if (trunk := arms[name].trunk)}
    return [name for name in arms if name in wanted]
