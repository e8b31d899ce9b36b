"""What the data module's options and the Trainer's must be, and what a Trainer says of its devices."""

from typing import Any

from tst_lightning.errors import UserError

_LEAST = {
    "sequence_length": 1,
    "batch_size": 1,
    "seed": 0,
    "epochs": 1,
    "rows_per_group": 1,
    "packing_rows": 1,
    "validation_batch_size": 1,
    "validation_windows": 1,
    "num_workers": 0,
    "streams": 1,
    "shuffle_shards": 1,
    "cache_bytes": 1,
}
_MAY_BE_NULL = ("rows_per_group", "validation_batch_size")


def require_valid_options(options: Any) -> None:
    """Raise a ``UserError`` if an attribute of ``options`` is out of range, or packed rows come in several streams."""
    for name, minimum in _LEAST.items():
        value = getattr(options, name)
        if value is None and name not in _MAY_BE_NULL:
            raise UserError(f"data option {name} is null: give a number of at least {minimum}, or leave it out")
        if value is not None and value < minimum:
            raise UserError(f"data option {name} is at least {minimum}, got {value}")
    by_document = options.isolate_documents or options.fold_by_document
    if options.streams > 1 and (options.packing != "concat" or by_document):
        raise UserError(
            f"streams={options.streams} does not go with packed rows (packing={options.packing}, isolate_documents="
            f"{options.isolate_documents}, fold_by_document={options.fold_by_document}): set streams to 1"
        )


def require_decomposable(options: Any, min_length: int) -> None:
    """Raise a ``UserError`` if text cannot be cut into rows of ``min_length`` to ``sequence_length`` positions."""
    longest = options.sequence_length
    for name, length in (("min_length", min_length), ("sequence_length", longest)):
        if length < 1 or length & (length - 1):
            raise UserError(f"{name}={length}: rows of a length curriculum have powers of two, such as 64 or 256")
    if min_length > longest:
        raise UserError(f"min_length={min_length} is greater than sequence_length={longest}: lower min_length")
    others = {name: getattr(options, name) for name in ("packing", "isolate_documents", "fold_by_document", "streams")}
    usual = {"packing": "concat", "isolate_documents": False, "fold_by_document": False, "streams": 1}
    wrong = [f"{name}={value}" for name, value in others.items() if value != usual[name]]
    if len(options.corpora) > 1:
        wrong.append(f"a mixture of {len(options.corpora)} corpora")
    if wrong:
        raise UserError(
            "with a length curriculum (LengthCurriculum) every row is a piece of one document of one corpus, which "
            f"does not go with {', '.join(wrong)}: leave that out, or the callback"
        )


def require_plannable(trainer: Any) -> None:
    """Raise a ``UserError`` if the Trainer cuts a run in a way that the plan of its data does not know."""
    if trainer.overfit_batches:
        raise UserError(
            f"overfit_batches={trainer.overfit_batches} is not supported, the order of the data is "
            "planned for the whole run: prepare a small text and set epochs instead"
        )
    if trainer.limit_train_batches != 1.0 and not trainer.fast_dev_run:
        # Resumed at the end of an epoch, Lightning counts it twice, stops too soon without a word, or trains on
        # one micro-batch as a step of its own.
        raise UserError(
            f"limit_train_batches={trainer.limit_train_batches} is not supported, the whole run is one epoch: set "
            "trainer.max_steps to its length, and trainer.val_check_interval to validate more often"
        )


def replicas(trainer: Any) -> tuple[int, int]:
    """Number of data-parallel ranks, and this one. Model-parallel strategies have fewer than processes."""
    ranks = getattr(trainer.strategy, "distributed_sampler_kwargs", None)
    if ranks is None:
        return trainer.world_size, trainer.global_rank
    return ranks["num_replicas"], ranks["rank"]


def on_gpu(trainer: Any) -> bool:
    """Whether batches go to a CUDA device."""
    return trainer.strategy.root_device.type == "cuda"
