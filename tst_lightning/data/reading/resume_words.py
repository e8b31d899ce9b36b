"""How a message names what a checkpoint's data and a run's differ in, and what to set."""

from typing import Any

from tst_lightning.schedule_change import in_words

_HASH_CHARACTERS = 12
_OPTIONS = (
    "seed", "sequence_length", "packing", "isolate_documents", "fold_by_document", "streams", "shuffle_shards",
    "rows_per_group", "packing_rows",
)  # fmt: skip
"""Those of the data module that a checkpoint keeps under their own names."""


def difference_in_words(key: str, saved: dict[str, Any], current: dict[str, Any]) -> str:
    """``seed: 0 in the checkpoint, now 1``, and likewise of what is no plain value.

    Args:
        key: of both states.
        saved: state of the checkpoint.
        current: state of the run.
    """
    before, now = (_in_words(key, state) for state in (saved, current))
    return f"{key}: {before} in the checkpoint, now {now}" + (" with other content" if before == now else "")


def remedy(key: str, saved: dict[str, Any], current: dict[str, Any]) -> str:
    """What has to be set so that ``key`` is as in the checkpoint: ``data.seed: 0``."""
    value = _in_words(key, saved)
    if key in _OPTIONS:
        return f"data.{key}: {'null' if value is None else value}"
    if key == "accumulate_grad_batches":
        return f"trainer.{key}: {value}"
    if key == "batch_size * devices":
        devices = current["devices"]
        fits = isinstance(value, int) and value % devices == 0
        size = f"data.batch_size: {value // devices} (on {_count(devices)})" if fits else "data.batch_size"
        return size if fits else f"{size} and the devices so that their product is {value}"
    if key in ("corpus", "tokenizer", "shares of the corpora"):
        what = {"corpus": "corpora", "tokenizer": "tokenizer"}.get(key, "weights")
        return f"data.data_dir to what has the checkpoint's {what}"
    if key == "decomposition":
        return "LengthCurriculum as the checkpoint's run had it" if saved[key] else "no LengthCurriculum"
    return "the callbacks and trainer.max_steps of the checkpoint's run"


def _in_words(key: str, state: dict[str, Any]) -> Any:
    value = state.get(key)
    if value is None:
        return None
    if key == "schedule":
        return in_words(value)
    if key == "corpus":  # hashes tell nobody which corpus it is
        return ", ".join(f"'{folder}'" for folder in state.get("data_dirs") or ["of unknown folder"])
    if key == "tokenizer":
        return str(value)[:_HASH_CHARACTERS]
    if key == "shares of the corpora":
        return ", ".join(value)
    if key == "decomposition":
        return f"rows of pieces of documents (min_length {value['min_length']}, {value['long_documents']})"
    return value


def _count(devices: int) -> str:
    return f"{devices} device" + "s" * (devices > 1)
