"""One arm per combination of a grid's values."""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tst_lightning.comparison.design.arms import ArmSpec, Factor, Overlay

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")
"""``{{name}}``, which is text, or ``{name}``, which stands for a value."""


@dataclass(frozen=True)
class Method:
    """What is trained, at one or several lengths."""

    name: str
    overlay: Overlay
    factors: dict[str, Factor] = field(default_factory=dict)
    lengths: tuple[int, ...] | None = None
    equal_data_with: str | None = None
    equal_flops_with: str | None = None
    compare_with: tuple[str, ...] = ()


def methods(name: str, spec: ArmSpec) -> list[Method]:
    """The methods that an arm of the file stands for; ``grid_problems`` must have found nothing."""
    lengths = None if spec.lengths is None else tuple(spec.lengths)
    if not spec.grid:
        overlay = Overlay(spec.configs, spec.overrides)
        others = (spec.equal_data_with, spec.equal_flops_with, tuple(spec.compare_with))
        return [Method(name, overlay, {}, lengths, *others)]
    return [
        Method(
            str(_filled(name, factors, as_text=True)),
            Overlay(_filled(spec.configs, factors, as_text=True), _filled(spec.overrides, factors)),
            factors,
            lengths,
            _filled(spec.equal_data_with, factors, as_text=True),
            _filled(spec.equal_flops_with, factors, as_text=True),
            tuple(_filled(spec.compare_with, factors, as_text=True)),
        )
        for factors in _combinations(spec.grid)
    ]


def grid_problems(name: str, spec: ArmSpec) -> list[str]:
    """What is wrong with an arm's grid or placeholders; empty if nothing is."""
    where = f"arm '{name}'"
    in_name = list(dict.fromkeys(_placeholders(name)))
    problems = [
        f"{where}: '{{{unknown}}}' has no values: list them under `grid`"
        for unknown in in_name
        if unknown not in spec.grid
    ]
    for key, values in spec.grid.items():
        if not values:
            problems.append(f"{where}: grid '{key}' is empty: give at least one value, or remove it")
        if len(set(map(str, values))) < len(values):
            problems.append(f"{where}: grid '{key}' has a value twice in {values}: give each once")
        if key not in in_name:
            problems.append(
                f"{where}: grid '{key}' is not in the arm's name, so that several arms would share it: "
                f"write {{{key}}} there"
            )
    if spec.grid:  # without, braces are nobody's: `filename: "{epoch}"` is Lightning's
        names = ("configs", "overrides", "equal_data_with", "equal_flops_with", "compare_with")
        parts = {name: getattr(spec, name) for name in names}
        used = {unknown: part for part, value in parts.items() for unknown in _placeholders(value)}
        problems += [
            f"{where}: '{{{unknown}}}' in its {part} is not in its grid ({', '.join(spec.grid)}): "
            f"name one of these, or write {{{{{unknown}}}}} for the text itself"
            for unknown, part in used.items()
            if unknown not in spec.grid
        ]
    return problems


def _combinations(grid: Mapping[str, list[Factor]]) -> Iterator[dict[str, Factor]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _placeholders(value: Any) -> Iterator[str]:
    """Names in braces, in texts at any depth."""
    if isinstance(value, str):
        yield from (match[2] for match in _PLACEHOLDER.finditer(value) if match[2])
    elif isinstance(value, dict):
        yield from (name for item in value.values() for name in _placeholders(item))
    elif isinstance(value, list):
        yield from (name for item in value for name in _placeholders(item))


def _filled(value: Any, factors: Mapping[str, Factor], as_text: bool = False) -> Any:
    """``value`` with the factors in their places, at any depth."""
    if isinstance(value, dict):
        return {key: _filled(item, factors, as_text) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, factors, as_text) for item in value]
    if not isinstance(value, str):
        return value
    whole = _PLACEHOLDER.fullmatch(value)
    if whole and whole[2] and not as_text:
        return factors[whole[2]]
    return _PLACEHOLDER.sub(lambda match: f"{{{match[1]}}}" if match[1] else _text(factors[match[2]]), value)


def _text(factor: Factor) -> str:
    """As YAML writes it."""
    return str(factor).lower() if isinstance(factor, bool) else str(factor)
