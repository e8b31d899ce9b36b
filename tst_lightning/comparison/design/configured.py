"""What a configuration says that its run would refuse only when it starts, which may be hours from now."""

import importlib
import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule

SUPERPOSITION = "SuperpositionCallback"
CURRICULUM = "LengthCurriculum"
NGRAM_TARGETS = "NgramTargets"

_DATA_DEFAULTS = {"packing": "concat", "isolate_documents": False, "fold_by_document": False, "streams": 1}


def callback_options(config: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Arguments of the first callback of a class; None if there is none."""
    return next((options for _, options in _named(config, name)), None)


def built_callbacks(config: Mapping[str, Any], name: str, without: tuple[str, ...] = ()) -> list[Any]:
    """The callbacks of a class that a configuration names, built: their constructors only look at their options.

    Args:
        config: the resolved configuration of a `fit`.
        name: of the class, whatever module it comes from.
        without: options to leave out.

    Raises:
        UserError: an option out of range, or options that do not go together.
    """
    return [
        getattr(importlib.import_module(path.rpartition(".")[0]), name)(
            **{option: value for option, value in options.items() if option not in without}
        )
        for path, options in _named(config, name)
    ]


def require_startable(config: Mapping[str, Any], schedule: Schedule) -> None:
    """Refuse options of the model's heads, the callbacks and the data that are out of range or do not go together.

    Args:
        config: the resolved configuration of a `fit`.
        schedule: of its superposition.

    Raises:
        UserError: the first of them. Files that options name are not looked for.
    """
    _require_heads(config["model"])
    # Weights from a file need the file.
    superpositions = built_callbacks(config, SUPERPOSITION, without=("weights_file",))
    curricula, targets = (built_callbacks(config, name) for name in (CURRICULUM, NGRAM_TARGETS))
    if len(superpositions) + len(curricula) > 1:
        raise UserError(
            f"trainer.callbacks has {len(superpositions)} {SUPERPOSITION} and {len(curricula)} {CURRICULUM}, and each "
            "sets the schedule of the run: leave one in (`trainer.callbacks+` adds to those of the files before)"
        )
    superposed = [stage for stage in schedule.stages if stage.superposed]
    if targets and superposed:
        raise UserError(
            f"{NGRAM_TARGETS} does not go with {SUPERPOSITION} (bags of {superposed[0].target_bag_size} tokens): the "
            "table knows the next token only; leave one of the callbacks out"
        )
    corpora = _corpora(config["data"])
    if targets and len(corpora) > 1:
        raise UserError(
            f"the table of {NGRAM_TARGETS} is of one corpus, and data.data_dir names {len(corpora)}: train on one, or "
            "without n-gram targets"
        )
    for curriculum in curricula:
        _require_decomposable(config["data"], curriculum.min_length)
    _require_rows(config["data"], schedule)


def _require_heads(model: Mapping[str, Any]) -> None:
    if model.get("multi_token"):
        from tst_lightning.auxiliary.multi_token import MultiToken

        MultiToken(**model["multi_token"])


def _require_decomposable(data: Mapping[str, Any], min_length: int) -> None:
    from tst_lightning.data.reading.options import require_decomposable

    options = _DATA_DEFAULTS | dict(data)
    require_decomposable(SimpleNamespace(**options, corpora=_corpora(data)), min_length)


def _corpora(data: Mapping[str, Any]) -> list[str]:
    folders = data.get("data_dir", "")
    return list(folders) if isinstance(folders, Mapping) else [folders]


def _require_rows(data: Mapping[str, Any], schedule: Schedule) -> None:
    """What the data plan refuses: rows that the bags of a stage do not divide."""
    options = _DATA_DEFAULTS | dict(data)
    divisors = [stage.row_divisor for stage in schedule.stages]
    if any(data["batch_size"] % divisor for divisor in divisors):
        raise UserError(
            f"data.batch_size is {data['batch_size']}, and in bags of {max(divisors)} tokens a step is to have "
            f"{max(divisors)} times fewer rows (tokens_per_step=constant): set it to a multiple of "
            f"{math.lcm(*divisors)}, in all arms alike"
        )
    rows, bag_sizes = data.get("rows_per_group"), [stage.bag_size for stage in schedule.stages]
    is_packed = options["packing"] != "concat" or options["isolate_documents"] or options["fold_by_document"]
    if rows and not is_packed and any(rows % bag_size for bag_size in bag_sizes):
        raise UserError(
            f"data.rows_per_group is {rows}, and bags of {max(bag_sizes)} tokens do not divide it: "
            f"set it to a multiple of {math.lcm(*bag_sizes)}, in all arms alike if they are to read the same text in "
            "the same order"
        )


def _named(config: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Class path and arguments of each callback of a class."""
    callbacks = config["trainer"].get("callbacks")
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if isinstance(callback, Mapping) and callback["class_path"].rpartition(".")[2] == name:
            yield callback["class_path"], callback.get("init_args") or {}
