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


def require_valid_options(options: Any) -> None:
    """Raise a ``UserError`` if an attribute of ``options`` is out of range, or packed rows come in several streams."""
    for name, minimum in _LEAST.items():
        value = getattr(options, name)
        if value is not None and value < minimum:
            raise UserError(f"data option {name} is at least {minimum}, got {value}")
    if options.streams > 1 and (options.packing != "concat" or options.isolate_documents):
        raise UserError(
            f"streams={options.streams} does not go with packed rows (packing={options.packing}, "
            f"isolate_documents={options.isolate_documents}): set streams to 1"
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
