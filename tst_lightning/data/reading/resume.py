"""Whether a run may go on from a checkpoint, and how: by comparing what determines the order of the data."""

from typing import Any

from tst_lightning.data.reading.decomposed import DecomposedPlan
from tst_lightning.data.reading.plan import Plan
from tst_lightning.errors import UserError

STATE_VERSION = 3

History = tuple[tuple[int, int], ...]
"""``(first optimizer step, rows of all devices in a micro-batch)`` of each part of a run."""

_MAY_DIFFER = {"step", "history", "batch_size", "devices", "data_dirs"}
"""The position, see ``continued_history``; and where the corpora lie."""


def data_state(data: Any, group_rows: int | None, packing_rows: int | None) -> dict[str, Any]:
    """A data module's part of a checkpoint: its corpora, and its options that determine the order of their text.

    Args:
        data: the ``TokenDataModule``.
        group_rows: of a group.
        packing_rows: the option, where it matters.
    """
    options = (
        "seed", "sequence_length", "packing", "isolate_documents", "fold_by_document", "streams", "shuffle_shards"
    )  # fmt: skip
    return {name: getattr(data, name) for name in options} | {
        "rows_per_group": group_rows,
        "packing_rows": packing_rows,
        "tokenizer": data.manifest.tokenizer.hash,
        "corpus": [corpus.hash for corpus in data.corpora],
        "data_dirs": [corpus.data_dir for corpus in data.corpora],
    }


def plan_state(plan: Plan | DecomposedPlan, step: int) -> dict[str, Any]:
    """A plan's part of a checkpoint at optimizer step ``step``."""
    return {
        "version": STATE_VERSION,
        "step": step,
        "history": [list(part) for part in plan.parts],
        "batch_size": plan.batch_size,
        "devices": plan.world_size,
        "schedule": plan.schedule.as_dict(),
        "accumulate_grad_batches": plan.accumulate,
        "shares of the corpora": [str(share) for share in plan.mixture.shares],
    }


def require_same_order(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Compare the states of a checkpoint and of the run that is to go on.

    Raises:
        UserError: anything differs that determines the order of the data; names every value.
    """
    changed = {
        key: (before, current.get(key))
        for key, before in saved.items()
        if key not in _MAY_DIFFER and before != current.get(key)
    }
    rows = [state["history"][-1][1] if "history" in state else None for state in (saved, current)]
    if rows[0] != rows[1] and saved.get("batch_size") != current["batch_size"]:
        changed["batch_size * devices"] = tuple(rows)
    if changed:
        if "corpus" in changed:
            # Hashes tell nobody which corpus it is.
            changed["corpus"] = tuple(state.get("data_dirs") for state in (saved, current))
        lines = [
            f"{key}: {before} in the checkpoint, now {now}" + (" with other content" if before == now else "")
            for key, (before, now) in changed.items()
        ]
        raise UserError(
            "the checkpoint belongs to a run with another order of the data, resuming it would repeat or "
            "skip text. " + "; ".join(lines) + ". Set the checkpoint's values again (of the devices only the "
            "number may change, or batch_size with it so that their product stays), or start a new run without "
            "ckpt_path"
        )


def continued_history(saved: dict[str, Any], rows: int) -> History:
    """The parts of a run that goes on from a checkpoint.

    With as many rows in a micro-batch as before, as if it had not stopped, whatever the number of devices.
    Otherwise a part begins at the restored step, on text that no earlier part has touched.

    Args:
        saved: the checkpoint's state.
        rows: of all devices in a micro-batch, now.
    """
    history = tuple((step, before) for step, before in saved["history"])
    if history[-1][1] == rows:
        return history
    return (*(part for part in history if part[0] < saved["step"]), (saved["step"], rows))
