"""Whether a run may go on from a checkpoint, and how: by comparing what determines the order of the data."""

from typing import Any

from tst_lightning.data.reading.decomposed import DecomposedPlan
from tst_lightning.data.reading.plan import Plan
from tst_lightning.data.reading.resume_words import difference_in_words, remedy
from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule
from tst_lightning.schedule_change import ScheduleChange, of_module

STATE_VERSION = 3

History = tuple[tuple[int, int], ...]
"""``(first optimizer step, rows of all devices in a micro-batch)`` of each part of a run."""

_MAY_DIFFER = {"step", "max_steps", "history", "batch_size", "devices", "data_dirs"}
"""The position, see ``continued_history``; where the corpora lie; and the length, over which a schedule may be laid."""


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


def plan_state(plan: Plan | DecomposedPlan, step: int, max_steps: int) -> dict[str, Any]:
    """A plan's part of a checkpoint at optimizer step ``step`` of ``max_steps``."""
    return {
        "version": STATE_VERSION,
        "step": step,
        "max_steps": max_steps,
        "history": [list(part) for part in plan.parts],
        "batch_size": plan.batch_size,
        "devices": plan.world_size,
        "schedule": plan.schedule.as_dict(),
        "accumulate_grad_batches": plan.accumulate,
        "shares of the corpora": [str(share) for share in plan.mixture.shares],
    }


def require_same_order(saved: dict[str, Any], current: dict[str, Any], schedule: Schedule, module: Any = None) -> None:
    """Compare the states of a checkpoint and of the run that is to go on.

    Args:
        saved: state of the checkpoint.
        current: state of the run.
        schedule: of the run.
        module: the LightningModule, which may know what its learning rate does if the run gets longer.

    Raises:
        UserError: anything differs that determines the order of the data; names every value.
    """
    changed = [key for key, before in saved.items() if key not in _MAY_DIFFER and before != current.get(key)]
    if "version" in changed:
        raise UserError(
            f"the checkpoint holds data state of version {saved['version']}, and this is {current['version']}: it was "
            "written by another release, which has to finish it"
        )
    rows = [state["history"][-1][1] if "history" in state else None for state in (saved, current)]
    if rows[0] != rows[1] and saved.get("batch_size") != current["batch_size"]:
        changed.append("batch_size * devices")
        saved, current = ({**state, changed[-1]: count} for state, count in zip((saved, current), rows, strict=True))
    changed = [key for key in changed if not _follows(key, changed, saved, current)]
    if changed == ["schedule"]:
        lengths = saved.get("max_steps"), current["max_steps"]
        raise UserError(
            ScheduleChange(saved[changed[0]], schedule, *lengths, saved["step"]).message(**of_module(module))
        )
    if changed:
        differences, remedies = (
            [words(key, saved, current) for key in changed] for words in (difference_in_words, remedy)
        )
        raise UserError(
            "the checkpoint belongs to a run with another order of the data, resuming it would repeat or "
            f"skip text. {'; '.join(differences)}. To go on, set {', '.join(remedies)}; or start a new run without "
            "--ckpt_path"
        )


def _follows(key: str, changed: list[str], saved: dict[str, Any], current: dict[str, Any]) -> bool:
    """Whether a difference need not be named, because it goes away with another one."""
    if key == "packing_rows":  # null where it does not matter
        return None in (saved[key], current[key]) and ("packing" in changed or "decomposition" in changed)
    if key == "rows_per_group":  # by default of the schedule's bag sizes
        return "schedule" in changed
    return key == "schedule" and "decomposition" in changed


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
