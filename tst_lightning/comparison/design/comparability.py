"""Whether two arms may be compared: the same model, validation text, evaluation and precision.

The tokenizer is the same where the validation text is: both come from ``data.data_dir``.

All else may differ and is what a comparison is about: lengths, methods (callbacks), optimizer and learning rate,
batch, packing and the order of the data.
"""

from collections.abc import Iterable, Mapping, Sequence
from os.path import normpath
from typing import Any

import yaml

from tst_lightning.errors import UserError
from tst_lightning.precision import precision_name

Config = Mapping[str, Any]
"""A resolved configuration of `fit`: what its ``config.yaml`` holds."""

_DATA_KEYS = ("data.data_dir", "data.sequence_length", "data.validation_windows")
"""Together they choose the validation windows."""
_TRAINER_KEYS = ("trainer.precision", "trainer.limit_val_batches")
_MODEL_KEYS = ("model.config", "model.pretrained")
_SAME_MODEL = ("attn_implementation", "output_router_logits", "router_aux_loss_coef")
"""Ends of keys of a model that say how its attention is computed, or weigh a loss: its function is the same."""
EVALUATION = "DownstreamEvaluation"
"""Name of the callback whose settings decide what a score means."""
ABSENT = "nothing"
"""How a missing setting is shown."""

# PyYAML's C parser is ten times as fast, where it was built.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def require_comparable(configs: Mapping[str, Config], pairs: Iterable[tuple[str, str]]) -> None:
    """Refuse pairs of arms whose losses or scores would not mean the same.

    Args:
        configs: name of an arm -> the resolved configuration of its runs.
        pairs: (arm, reference).

    Raises:
        UserError: naming every pair that is not comparable, its keys and both values.
    """
    problems = []
    for arm, reference in pairs:
        keys = differences(configs[arm], configs[reference])
        if keys:
            problems.append(f"'{arm}' cannot be compared with '{reference}': " + "; ".join(keys))
    if problems:
        raise UserError(
            "\n  ".join(problems) + "\ngive both arms the same, or, to train with each, put these settings into "
            "`variants`: comparisons stay within a variant"
        )


def differing_keys(config_text: str, reference_text: str) -> list[str]:
    """What makes two runs incomparable, each as ``key: value against value``; empty if nothing does.

    Args:
        config_text: ``config.yaml`` of a run; one that is missing or cut off tells nothing.
        reference_text: the same of a run of the arm that it is compared with.
    """
    return differences(read_config(config_text), read_config(reference_text))


def differences(config: Config, reference: Config) -> list[str]:
    """The same for configurations that are read already. A key that only one of them has tells nothing."""
    found = []
    for key in _MODEL_KEYS:
        found += _model_differences(key, config, reference)
    for key in (*_DATA_KEYS, *_TRAINER_KEYS):
        ours, theirs = _get(config, key), _get(reference, key)
        if ABSENT not in (ours, theirs) and _meaning(key, ours) != _meaning(key, theirs):
            found.append(f"{key}: {_shown(ours)} against {_shown(theirs)}")
    return found + _window_differences(config, reference) + _evaluation_differences(config, reference)


def _model_differences(key: str, config: Config, reference: Config) -> list[str]:
    if "model" not in config or "model" not in reference:
        return []
    ours, theirs = _flat(key, _get(config, key)), _flat(key, _get(reference, key))
    if not ours.keys() & theirs.keys():  # one model is described, the other is not
        ours, theirs = {key: _get(config, key)}, {key: _get(reference, key)}
    return [
        f"{name}: {_shown(ours.get(name, ABSENT))} against {_shown(theirs.get(name, ABSENT))}"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name, ABSENT) != theirs.get(name, ABSENT) and not name.endswith(_SAME_MODEL)
    ]


def _window_differences(config: Config, reference: Config) -> list[str]:
    """Of a part of the batches, their size decides which windows are validated on."""
    limit_key = "trainer.limit_val_batches"
    limits = [_get(one, limit_key) for one in (config, reference)]
    if ABSENT in limits or any(_meaning(limit_key, limit) == "1.0" for limit in limits):
        return []
    ours, theirs = (
        size if isinstance(size := _get(one, "data.validation_batch_size"), int) else _get(one, "data.batch_size")
        for one in (config, reference)
    )
    if ABSENT in (ours, theirs) or ours == theirs:
        return []
    return [f"data.validation_batch_size: {ours} against {theirs}, of which {limit_key} takes a part"]


def _evaluation_differences(config: Config, reference: Config) -> list[str]:
    if "trainer" not in config or "trainer" not in reference:
        return []
    ours, theirs = _evaluations(config), _evaluations(reference)
    if len(ours) != len(theirs):
        return [f"trainer.callbacks: {len(ours)} {EVALUATION} against {len(theirs)}"]
    return [
        f"{EVALUATION}.{name}: {_shown(one.get(name))} against {_shown(other.get(name))}"
        for one, other in zip(ours, theirs, strict=True)
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]


def _evaluations(config: Config) -> list[Mapping[str, Any]]:
    callbacks = _get(config, "trainer.callbacks")
    named = [callback for callback in callbacks if isinstance(callback, Mapping)] if _is_list(callbacks) else []
    return [
        callback.get("init_args") or {}
        for callback in named
        if str(callback.get("class_path")).rpartition(".")[2] == EVALUATION
    ]


def read_config(text: str) -> Config:
    """The values of a run's ``config.yaml``; one that does not parse has none."""
    try:
        values = yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError:  # cut off by a kill while it was written
        return {}
    return values if isinstance(values, dict) else {}


def _get(config: Config, dotted: str) -> Any:
    value: Any = config
    for name in dotted.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return ABSENT
        value = value[name]
    return value


def _flat(key: str, value: Any) -> dict[str, Any]:
    """Dotted key -> value, of nested mappings."""
    if not isinstance(value, Mapping) or not value:
        return {key: value}
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if item != {}:  # arguments of none are none
            flat |= _flat(f"{key}.{name}", item)
    return flat


def _meaning(key: str, value: Any) -> Any:
    """Equal for values that mean the same."""
    if key == "data.data_dir":
        return _corpora(value)
    if key == "trainer.precision":
        return precision_name(value)
    if key == "trainer.limit_val_batches":
        return "1.0" if value is None else repr(value)  # 1 is one batch, 1.0 all of them, which is the default
    return value


def _corpora(value: Any) -> Any:
    """One corpus or a mixture of one, ``a`` or ``a/``, 0.7 + 0.3 or 70 + 30."""
    if isinstance(value, str):
        value = {value: 1.0}
    if not isinstance(value, Mapping) or not value:
        return value
    try:
        # YAML reads `1e-3`, which has no dot, as text.
        weights = [float(weight) for weight in value.values()]
        total = sum(weights) or 1.0
    except (TypeError, ValueError):  # `fit` will refuse it
        return value
    # In their order: it decides how the windows of a mixture are rounded, and with their number all of them move.
    return [(normpath(folder), round(weight / total, 9)) for folder, weight in zip(value, weights, strict=True)]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_shown(item)}" for name, item in value.items()) + "}"
    return str(value)
