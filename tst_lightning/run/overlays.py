"""Config files laid over each other: what one of them would silently take away from those before it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tst_lightning.errors import UserError

METHODS = ("SuperpositionCallback", "NgramTargets", "LengthCurriculum")
"""Callbacks without which a run trains something else."""


def require_methods_kept(paths: Iterable[str]) -> None:
    """Refuse a file whose list of callbacks takes the place of one with a method in it: the run would be the baseline.

    Lists are replaced as wholes; ``callbacks+`` adds to them.

    Args:
        paths: of YAML mappings, in the order in which they are merged; files that do not exist are passed over.

    Raises:
        UserError: naming the file and the callback.
    """
    import yaml

    kept: dict[str, str] = {}
    for path in paths:
        if not Path(path).is_file():
            continue
        trainer = yaml.safe_load(Path(path).read_text(encoding="utf-8")).get("trainer")
        if not isinstance(trainer, dict):
            continue
        if "callbacks" in trainer:
            names = _names(trainer["callbacks"])
            for lost in (name for name in kept if name not in names):
                raise UserError(
                    f"config file '{path}' has a list trainer.callbacks, which takes the place of the one before it, "
                    f"and the {lost} of '{kept[lost]}' with it: write `callbacks+:` to add to the list, or give "
                    f"'{path}' before '{kept[lost]}'"
                )
        kept |= {
            name: path for key in ("callbacks", "callbacks+") for name in _names(trainer.get(key)) if name in METHODS
        }


def _names(callbacks: Any) -> list[str]:
    entries = callbacks if isinstance(callbacks, list) else [callbacks]
    paths = (entry.get("class_path", "") if isinstance(entry, dict) else entry for entry in entries)
    return [str(path).rpartition(".")[-1] for path in paths]
