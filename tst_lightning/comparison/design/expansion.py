"""From what an experiment's file says to its arms: methods x variants x lengths."""

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

from tst_lightning.comparison.design.arms import Arm, Overlay
from tst_lightning.comparison.design.experiment import STEPS_KEY, overlay_arguments
from tst_lightning.comparison.design.grid import Method
from tst_lightning.comparison.design.planned import PlannedRun
from tst_lightning.comparison.design.specification import Specification
from tst_lightning.errors import UserError

Planner = Callable[[Sequence[str]], PlannedRun]
"""From the arguments of a `fit` to what it plans: ``planned.planned_run``."""


def expand(specification: Specification, plan: Planner) -> dict[str, Arm]:
    """All arms, by name, in the order in which they are run: variant, length, and method as in the file.

    Args:
        specification: one without ``problems``.
        plan: asked about arms whose number of steps depends on what a configuration says.

    Raises:
        UserError: naming every arm that cannot branch or be trained on as much data as another, and why.
    """
    problems: list[str] = []
    arms: dict[str, Arm] = {}
    for variant in specification.variants or {"": Overlay()}:
        cells = _Variant(specification, variant, plan, problems).arms()
        # A trunk before its branches, and all else as it comes.
        for arm in cells.values():
            for one in ([cells[arm.trunk]] if arm.trunk else []) + [arm]:
                if arms.setdefault(one.name, one) != one:
                    problems.append(f"two arms would be named '{one.name}': rename a variant or a method")
    if problems:
        raise UserError("\n  ".join(dict.fromkeys(problems)))
    return arms


class _Variant:
    """The arms of one variant."""

    def __init__(self, specification: Specification, name: str, plan: Planner, problems: list[str]) -> None:
        self._specification = specification
        self._name = name
        self._plan = plan
        self._problems = problems
        self._methods = specification.methods()
        self._lengths: tuple[int | None, ...] = specification.lengths or (None,)
        known = len(problems)
        self._steps = {
            (method.name, length): self._steps_at(method, length)
            for method in self._methods.values()
            for length in self._lengths_of(method)
        }
        """(method, length) -> steps; they differ for arms with equal_data_with or equal_flops_with."""
        if len(problems) == known:  # otherwise some of these are not known
            problems += self._lengths_that_collapse()
        self._branches = dict(self._branch_steps())
        """(method, length) -> step at which the run branches off the method's longest."""

    def arms(self) -> dict[str, Arm]:
        cells = [
            (method, length)
            for length in self._lengths
            for method in self._methods.values()
            if (method.name, length) in self._steps
        ]
        return {self._arm_name(method.name, length): self._arm(method, length) for method, length in cells}

    def _arm(self, method: Method, length: int | None) -> Arm:
        cell = (method.name, length)
        return Arm(
            self._arm_name(*cell),
            method.name,
            self._overlay(method, self._steps[cell]),
            dict(method.factors),
            self._name,
            None if length is None else self._steps[cell],
            tuple(self._arm_name(reference.name, length) for reference in self._references(method)),
            self._arm_name(method.name, self._longest(method)) if cell in self._branches else None,
            self._branches.get(cell),
            length,
        )

    def _arm_name(self, method: str, length: int | None) -> str:
        steps = None if length is None else self._steps[method, length]
        return "-".join(str(part) for part in (self._name, method, steps) if part not in ("", None))

    def _overlay(self, method: Method, steps: int | None) -> Overlay:
        variant = self._specification.variants.get(self._name, Overlay())
        overrides = variant.overrides | method.overlay.overrides
        if steps is not None:
            overrides[STEPS_KEY] = steps
        return Overlay([*variant.configs, *method.overlay.configs], overrides)

    def _references(self, method: Method) -> Iterator[Method]:
        """The baseline, baselines that read as much data, and what the file names."""
        if method.name == self._specification.baseline or method.equal_data_with:
            return
        yield self._methods[self._specification.baseline]
        yield from (other for other in self._methods.values() if other.equal_data_with == method.name)
        yield from (self._methods[other] for other in method.compare_with)

    def _lengths_of(self, method: Method) -> tuple[int | None, ...]:
        if method.equal_data_with:
            method = self._methods[method.equal_data_with]
        return tuple(length for length in self._lengths if method.lengths is None or length in method.lengths)

    def _steps_at(self, method: Method, length: int | None) -> int | None:
        if method.equal_flops_with:
            other, own = (self._planned(one, length) for one in (self._methods[method.equal_flops_with], method))
            if other is None or own is None:
                return 1
            try:
                return own.steps_for_flops(other.flops)
            except UserError as error:
                self._problems.append(f"'{method.name}': {error}")
                return 1
        if not method.equal_data_with:
            return length
        read = self._methods[method.equal_data_with]
        other = self._planned(read, self._steps_at(read, length))
        # Its own length is not known yet, and does not count here.
        own = self._planned(method, length)
        if other is None or own is None:
            return 1
        if own.schedule.stages[0].superposed:
            self._problems.append(
                f"'{method.name}' has equal_data_with and trains with superposition itself: equal data is for a "
                "baseline, leave SuperpositionCallback out of it"
            )
        return other.steps_for_the_same_data(own.positions_per_step)

    def _lengths_that_collapse(self) -> Iterator[str]:
        """Runs whose steps follow from another arm's are rounded, and one folder cannot hold two of them."""
        for method in self._methods.values():
            lengths: dict[int | None, list[int | None]] = {}
            for length in self._lengths_of(method):
                lengths.setdefault(self._steps[method.name, length], []).append(length)
            yield from (
                f"'{method.name}' has {steps} steps at {len(same)} lengths ({', '.join(map(str, same))}): validate "
                "more often (a share such as trainer.val_check_interval: 0.25), or drop a length"
                for steps, same in lengths.items()
                if len(same) > 1
            )

    def _longest(self, method: Method) -> int | None:
        return max(self._lengths_of(method), key=lambda length: self._steps[method.name, length] or 0)

    def _branch_steps(self) -> Iterator[tuple[tuple[str, int | None], int]]:
        for method in self._methods.values():
            lengths, branch = self._lengths_of(method), self._specification.branch
            if len(lengths) < 2 or not any(fnmatchcase(method.name, pattern) for pattern in branch):
                continue
            longest = self._longest(method)
            trunk = self._planned(method, self._steps[method.name, longest])
            for length in lengths if trunk else ():
                if length != longest:
                    try:
                        yield (method.name, length), trunk.branch_step(self._steps[method.name, length])
                    except UserError as error:
                        self._problems.append(f"'{method.name}' cannot branch: {error}")

    def _planned(self, method: Method, steps: int | None) -> PlannedRun | None:
        arguments = overlay_arguments(self._specification.base, self._overlay(method, steps))
        try:
            return self._plan(arguments)
        except UserError as error:
            self._problems.append(f"'{'-'.join(filter(None, (self._name, method.name)))}': {error}")
            return None
