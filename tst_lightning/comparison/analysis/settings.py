"""The resolved configuration of a run as flat settings, to tell two runs apart or to find them the same."""

from collections.abc import Iterable, Mapping
from typing import Any

from tst_lightning.comparison.design.comparability import ABSENT, read_config
from tst_lightning.comparison.design.config_files import WATCHERS
from tst_lightning.comparison.design.experiment import FOLDER_KEY, SEED_KEYS

_TRAIN_ALIKE = (*WATCHERS, "callbacks.DownstreamEvaluation")
"""Callbacks that only look on: the same weights come out with and without them."""

_SUPERPOSITION = "trainer.callbacks.SuperpositionCallback"
_ADDED = {
    "data.fold_by_document": False,
    "data.verify_shards": "background",
    "model.activation_checkpointing": False,
    "model.compilation": "none",
    "model.multi_token": None,
    "model.learning_rate_schedule.decay_shape": "linear",
    f"{_SUPERPOSITION}.bag_sizes": None,
    f"{_SUPERPOSITION}.step_shares": None,
    f"{_SUPERPOSITION}.fraction_of": "steps",
    f"{_SUPERPOSITION}.tokens_per_step": "scaled",
    f"{_SUPERPOSITION}.weights_file": None,
    f"{_SUPERPOSITION}.loss": "multi_hot",
    f"{_SUPERPOSITION}.interpolate": 0.0,
    f"{_SUPERPOSITION}.on_switch": "carry",
    f"{_SUPERPOSITION}.reinitialize": "none",
}
"""Keys that the program did not always have, and the values with which it does what it did before."""


def settings(config: str, output_dir: str = "") -> dict[str, Any]:
    """Dotted key -> value, without what only watches a training and without defaults that came later.

    Paths below the run's folder, and below ``output_dir``, are written relative to them: a run moved to
    another folder keeps its settings.

    Args:
        config: ``config.yaml`` of a run; one that does not parse has no settings.
        output_dir: folder of the comparison that the run is a part of, as the configuration writes it.
    """
    flat: dict[str, Any] = {}
    for name, value in read_config(config).items():
        _flatten(value, str(name), flat)
    flat = {key: value for key, value in flat.items() if key not in _ADDED or value != _ADDED[key]}
    run_dir = flat.pop(FOLDER_KEY, None)
    for key, value in flat.items():
        for name, folder in {"RUN": run_dir, "OUTPUT_DIR": output_dir}.items():
            if isinstance(value, str) and folder:
                value = _below(value, str(folder).rstrip("/"), name)
        flat[key] = value
    return flat


def differing_settings(one: Mapping[str, Any], other: Mapping[str, Any], besides: Iterable[str] = ()) -> list[str]:
    """``key: value against value`` for each setting that differs, seeds and keys of ``besides`` left out."""
    skipped = {*SEED_KEYS, *besides}
    return [
        f"{key}: {_shown(one, key)} against {_shown(other, key)}"
        for key in dict.fromkeys([*one, *other])
        if key not in skipped and _shown(one, key) != _shown(other, key)
    ]


def _flatten(value: Any, key: str, flat: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            _flatten(item, f"{key}.{name}", flat)
    elif isinstance(value, list) and value and all(_is_class(item) for item in value):
        # By name and not by place: a callback more must not make all that follow differ.
        for item in value:
            if item["class_path"] not in _TRAIN_ALIKE:
                flat[f"{key}.{item['class_path']}"] = True
                _flatten(item.get("init_args", {}), f"{key}.{item['class_path'].rpartition('.')[2]}", flat)
    elif key != "trainer.callbacks" or value:  # none at all is as good as none but those that only look on
        flat[key] = value


def _is_class(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("class_path"), str)


def _below(path: str, folder: str, name: str) -> str:
    path = path.rstrip("/")
    if path == folder:
        return name
    return f"{name}{path[len(folder) :]}" if path.startswith(f"{folder}/") else path


def _shown(values: Mapping[str, Any], key: str) -> str:
    return str(values[key]) if key in values else ABSENT
