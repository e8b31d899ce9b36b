"""Whether arms validate on the same text, told from the resolved configurations of their runs."""

from collections.abc import Iterable
from os.path import normpath
from typing import Any

import yaml

_OPTIONS = ("data_dir", "sequence_length", "validation_windows")
"""Of ``TokenDataModule``: together they choose the validation windows."""


def other_validation(configs: Iterable[str], base_configs: Iterable[str]) -> str:
    """What makes an arm's validation text another than the baseline's, as ``option: value against value``.

    Args:
        configs: ``config.yaml`` of the arm's runs; empty where a run has none. All that say something agree.
        base_configs: the same of the baseline.

    Returns:
        Empty if the text is the same, or if there is nothing to tell it from.
    """
    ours, theirs = _options(configs), _options(base_configs)
    return "; ".join(
        f"{option}: {_shown(ours[option])} against {_shown(theirs[option])}"
        for option in _OPTIONS
        if option in ours and option in theirs and _comparable(ours[option]) != _comparable(theirs[option])
    )


def _options(configs: Iterable[str]) -> dict[str, Any]:
    """The options of the first config that has any."""
    for config in configs:
        try:
            values = yaml.safe_load(config)
        except yaml.YAMLError:  # cut off by a kill while it was written
            continue
        data = values.get("data") if isinstance(values, dict) else None
        if isinstance(data, dict):
            return {option: data[option] for option in _OPTIONS if option in data}
    return {}


def _comparable(value: Any) -> Any:
    """Equal for values that mean the same: one corpus or a mixture of one, ``a`` or ``a/``, 0.7 + 0.3 or 70 + 30."""
    if isinstance(value, str):
        value = {value: 1.0}
    if not isinstance(value, dict):
        return value
    # YAML reads `1e-3`, which has no dot, as text.
    weights = [float(weight) for weight in value.values()]
    # In their order: it decides how the windows of a mixture are rounded, and with their number all of them move.
    return [(normpath(folder), round(weight / sum(weights), 9)) for folder, weight in zip(value, weights, strict=True)]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{folder}: {weight}" for folder, weight in value.items()) + "}"
    return str(value)
