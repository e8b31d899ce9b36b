"""The part of an experiment's file that says which arms there are, and what can be wrong with it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from tst_lightning.comparison.design.arms import ArmSpec, Overlay
from tst_lightning.comparison.design.experiment import STEPS_KEY, overlay_problems
from tst_lightning.comparison.design.grid import Method, grid_problems, methods


@dataclass(frozen=True)
class Specification:
    """Methods, variants and lengths. ``command.compare`` says what each field means."""

    arms: dict[str, ArmSpec]
    baseline: str
    base: Overlay = field(default_factory=Overlay)
    variants: dict[str, Overlay] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()
    branch: tuple[str, ...] = ()

    def methods(self) -> dict[str, Method]:
        """By name, in the file's order; of two with the same name, the first."""
        found: dict[str, Method] = {}
        for name, spec in self.arms.items():
            for method in methods(name, spec):
                found.setdefault(method.name, method)
        return found

    def problems(self) -> list[str]:
        """All that is wrong and can be told without parsing a `fit` command; empty if nothing is."""
        problems = [*_length_problems(self), *self._overlay_problems()]
        grid = [problem for name, spec in self.arms.items() for problem in grid_problems(name, spec)]
        # Without whole grids it is not known which methods there are.
        return problems + (grid or list(_method_problems(self)))

    def _overlay_problems(self) -> Iterator[str]:
        places = {"base": self.base}
        places |= {f"variant '{name}'": overlay for name, overlay in self.variants.items()}
        grids = [name for name, spec in self.arms.items() if grid_problems(name, spec)]
        places |= {
            f"arm '{method.name}'": method.overlay
            for name, spec in self.arms.items()
            if name not in grids
            for method in methods(name, spec)
        }
        for where, overlay in places.items():
            yield from overlay_problems(where, overlay)
            if self.lengths and STEPS_KEY in overlay.overrides:
                yield f"{where}: '{STEPS_KEY}' cannot be overridden where there are `lengths`: remove one of them"
        for name in self.variants:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.=+-]*", name):
                yield (
                    f"variant '{name}' becomes part of a folder name: use letters, digits and _ . = + -, "
                    "with a letter or digit first"
                )


def _length_problems(specification: Specification) -> Iterator[str]:
    lengths = specification.lengths
    if any(length < 1 for length in lengths) or len(set(lengths)) < len(lengths):
        yield f"lengths {list(lengths)}: give different numbers of optimizer steps, each at least 1"
    if specification.branch and len(lengths) < 2:
        yield "`branch` needs two or more `lengths`: shorter runs branch off the longest"
    for name, spec in specification.arms.items():
        if spec.lengths is None:
            continue
        others = [length for length in spec.lengths if length not in lengths]
        if spec.equal_data_with is not None:
            yield f"arm '{name}': equal_data_with sets its lengths: remove `lengths`"
        elif not spec.lengths:
            yield f"arm '{name}': `lengths` is empty: give at least one, or remove it for all of the experiment's"
        elif others:
            yield f"arm '{name}': lengths {others} are not among the experiment's: {list(lengths) or 'it has none'}"


def _method_problems(specification: Specification) -> Iterator[str]:
    every = [method for name, spec in specification.arms.items() for method in methods(name, spec)]
    names = [method.name for method in every]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"{names.count(name)} arms are named '{name}': rename all but one"
    for pattern in specification.branch:
        if not any(fnmatchcase(name, pattern) for name in names):
            yield f"branch: no arm is named like '{pattern}': there are {', '.join(names)}"
    by_name = specification.methods()
    baseline = by_name.get(specification.baseline)
    if baseline is None:
        yield f"baseline '{specification.baseline}' is not an arm: name one of {', '.join(names)}"
        return
    if baseline.equal_data_with is not None:
        yield f"baseline '{baseline.name}': equal_data_with is for a second baseline, beside this one: remove it"
    for method in every:
        if method.equal_data_with is not None:
            yield from _equal_data_problems(method, by_name, baseline)
        if method.equal_flops_with is not None:
            yield from _equal_flops_problems(method, by_name)
        for other in method.compare_with:
            yield from _compare_with_problems(method, other, by_name, specification)
        missing = _lengths(method, specification) - _lengths(baseline, specification)
        if missing and method.equal_data_with is None:
            yield (
                f"arm '{method.name}' is trained at lengths {sorted(missing)}, the baseline '{baseline.name}' is not: "
                "give both the same"
            )


def _equal_data_problems(method: Method, methods: dict[str, Method], baseline: Method) -> Iterator[str]:
    where, other = f"arm '{method.name}'", methods.get(method.equal_data_with)
    if other is None:
        yield f"{where}: equal_data_with '{method.equal_data_with}' is not an arm: name one of {', '.join(methods)}"
    elif other.equal_data_with is not None or other is baseline:
        yield f"{where}: equal_data_with '{other.name}' is a baseline itself: name an arm with superposition"
    if STEPS_KEY in method.overlay.overrides:
        yield f"{where}: '{STEPS_KEY}' cannot be overridden beside equal_data_with, which sets it: remove one of them"


def _equal_flops_problems(method: Method, methods: dict[str, Method]) -> Iterator[str]:
    where, other = f"arm '{method.name}'", methods.get(method.equal_flops_with)
    if other is None:
        yield f"{where}: equal_flops_with '{method.equal_flops_with}' is not an arm: name one of {', '.join(methods)}"
    elif other.equal_flops_with is not None or other.equal_data_with is not None:
        yield f"{where}: the steps of equal_flops_with '{other.name}' follow from another arm themselves: name that one"
    if method.equal_data_with is not None:
        yield f"{where}: equal_flops_with and equal_data_with both set its steps: remove one of them"
    if STEPS_KEY in method.overlay.overrides:
        yield f"{where}: '{STEPS_KEY}' cannot be overridden beside equal_flops_with, which sets it: remove one of them"


def _compare_with_problems(
    method: Method, other: str, methods: dict[str, Method], specification: Specification
) -> Iterator[str]:
    where = f"arm '{method.name}': compare_with '{other}'"
    if other not in methods:
        yield f"{where} is not an arm: name one of {', '.join(methods)}"
    elif other in (method.name, specification.baseline):
        yield f"{where} is the arm itself or the baseline, with which every arm is compared: remove it"
    elif method.name == specification.baseline or method.equal_data_with or methods[other].equal_data_with:
        yield f"{where}: baselines are only compared with: put it into the other arm"
    elif missing := _lengths(method, specification) - _lengths(methods[other], specification):
        yield f"{where} is not trained at lengths {sorted(missing)}: give both the same"


def _lengths(method: Method, specification: Specification) -> set[int]:
    return set(specification.lengths if method.lengths is None else method.lengths) & set(specification.lengths)
