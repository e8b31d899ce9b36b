"""Whether a config file of a comparison still says what it said when a run was begun with it."""

import hashlib
import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from tst_lightning.errors import UserError

WATCHERS = (
    "callbacks.BranchPoints",
    "callbacks.LossGuard",
    "callbacks.StepCheckpoint",
    "callbacks.Throughput",
    "lightning.pytorch.callbacks.TQDMProgressBar",
)
"""Callbacks that only look on, and give a comparison no results: the same run comes out with and without them."""


def config_digest(path: str) -> str:
    """sha256 of what a YAML file says; comments and layout do not count.

    Raises:
        UserError: the file is not YAML.
    """
    return _digest(_values(path))


def says_the_same(path: str, digest: str) -> bool:
    """Whether a file has the values of ``digest``, but for ``WATCHERS`` that were added since.

    Args:
        path: of the file as it is now.
        digest: ``config_digest`` of it when a run was begun.

    Raises:
        UserError: the file is not YAML.
    """
    return any(_digest(values) == digest for values in _before_watchers(_values(path)))


def _values(path: str) -> Any:
    try:
        return yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config file '{path}' is not readable as YAML: {error}") from error


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _before_watchers(values: Any) -> Iterator[Any]:
    """The values themselves, then without each one, each two, ... of the watchers in them."""
    yield values
    trainer = values.get("trainer") if isinstance(values, dict) else None
    callbacks = trainer.get("callbacks") if isinstance(trainer, dict) else None
    if not isinstance(callbacks, list):
        return
    watching = [place for place, item in enumerate(callbacks) if isinstance(item, dict) and _name(item) in WATCHERS]
    for count in range(1, len(watching) + 1):
        for left_out in combinations(watching, count):
            kept = [item for place, item in enumerate(callbacks) if place not in left_out]
            yield values | {"trainer": trainer | {"callbacks": kept}}


def _name(callback: dict[str, Any]) -> str:
    return str(callback.get("class_path"))
