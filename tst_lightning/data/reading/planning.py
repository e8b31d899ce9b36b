"""The plan of a data module's run, of the kind that its options and callbacks ask for."""

from typing import Any

from tst_lightning.data.reading.building import RowBuilder
from tst_lightning.data.reading.decomposed import DecomposedPlan
from tst_lightning.data.reading.plan import Plan
from tst_lightning.data.reading.resume import History


def planned(
    data: Any, builder: RowBuilder, group_rows: int, accumulate: int, world_size: int, history: History
) -> Plan | DecomposedPlan:
    """The plan of a ``TokenDataModule``.

    Args:
        data: the module, with its schedule, its mixture, and the decomposition of its corpus, if there is one.
        builder: of its rows.
        group_rows: rows of single tokens in a group.
        accumulate: micro-batches of a step.
        world_size: data-parallel ranks.
        history: parts of the run on other numbers of devices, and the present one.

    Raises:
        UserError: too little text for a row, or sizes that do not divide.
    """
    sizes = {
        "schedule": data.schedule,
        "accumulate": accumulate,
        "world_size": world_size,
        "batch_size": data.batch_size,
        "history": history,
    }
    if data.decomposition is not None:
        buckets = builder.buckets(**data.decomposition)
        return DecomposedPlan(buckets, sequence_length=data.sequence_length, **sizes)
    return Plan(builder.rows(group_rows), mixture=data.mixture, **sizes)
