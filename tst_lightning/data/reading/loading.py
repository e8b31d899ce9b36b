"""From a list of batch numbers to a DataLoader: what Lightning and the worker processes need to know."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from tst_lightning.bags import fold
from tst_lightning.data.reading.decomposed import DecomposedPlan
from tst_lightning.data.reading.options import on_gpu
from tst_lightning.data.reading.packed_batch import packed_batch
from tst_lightning.data.reading.plan import Plan
from tst_lightning.data.reading.rows import Row
from tst_lightning.data.reading.shards import Shards
from tst_lightning.errors import UserError

Collate = Callable[[list[list[np.ndarray]], int, int], dict[str, torch.Tensor]]
"""Of the pieces of each row, positions of a row and bag size."""
Retarget = Callable[[int, list[Row], dict[str, torch.Tensor]], dict[str, torch.Tensor]]


class PlannedRows:
    """The rows of one rank and their bag size, by the number of the micro-batch."""

    def __init__(self, plan: Plan | DecomposedPlan, rank: int) -> None:
        self.plan = plan
        self.rank = rank

    def __call__(self, number: int) -> tuple[list[Row], int]:
        return self.plan.batch(number, self.rank), self.plan.segment(number).bag_size


class RowBatches(Dataset):
    """Whole batches by their number; each worker process opens the shards itself.

    Args:
        corpora: where the tokens of each corpus are.
        rows_of: the rows of a batch number, and their bag size.
        collate: makes a batch of the rows' pieces of text, as ``fold_rows`` does.
        row_tokens: most positions of a row, the last of which is only a target: sequence length + 1.
        retarget: other targets than the tokens themselves, from the number of a batch, its rows and what ``collate``
            made of them: what replaces or joins that.
    """

    def __init__(
        self,
        corpora: tuple[Shards, ...],
        rows_of: Callable[[int], tuple[list[Row], int]],
        collate: Collate,
        row_tokens: int,
        retarget: Retarget | None = None,
    ) -> None:
        self.corpora = corpora
        self.rows_of = rows_of
        self.collate = collate
        self.row_tokens = row_tokens
        self.retarget = retarget

    def __getitem__(self, number: int) -> dict[str, torch.Tensor | int]:
        """What ``collate`` makes of the batch's rows, with ``retarget``; ``micro``: ``number`` as it came."""
        rows, bag_size = self.rows_of(number)
        pieces = [
            [self.corpora[corpus].tokens(shard, first, count) for shard, first, count, corpus in row] for row in rows
        ]
        batch = self.collate(pieces, self.row_tokens, bag_size)
        if self.retarget is not None:
            batch |= self.retarget(number, rows, batch)
        # "micro" stays a Python integer: comparing it must not make the host wait for the device.
        return batch | {"micro": number}


def fold_rows(rows: list[list[np.ndarray]], row_tokens: int, bag_size: int) -> dict[str, torch.Tensor]:
    """``tokens``, int32 ``(rows, P, bag_size)``, from rows of one piece of ``P * bag_size`` ids each.

    ``P`` is ``row_tokens``, unless the curriculum has shorter rows.
    """
    # The shards' unsigned types can do no arithmetic in torch.
    tokens = np.empty((len(rows), len(rows[0][0])), dtype=np.int32)
    for row, (piece,) in zip(tokens, rows, strict=True):
        row[:] = piece
    return {"tokens": fold(torch.from_numpy(tokens), bag_size)}


def pack_rows(
    end_of_text_id: int, isolate: bool, rows: list[list[np.ndarray]], row_tokens: int, bag_size: int
) -> dict[str, torch.Tensor]:
    """``packed_batch`` as tensors."""
    batch = packed_batch(rows, row_tokens, bag_size, end_of_text_id, isolate)
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def require_planned_batch(number: int, expected: int) -> None:
    """Stop a run whose data and step have drifted apart.

    Raises:
        UserError: ``number``, a batch's, is not the one that the Trainer's count of batches says is next.
    """
    if number != expected:
        raise UserError(
            f"training is at micro-batch {expected}, but got the data of micro-batch {number}. "
            "The checkpoint was probably saved between the micro-batches of one optimizer step: "
            "resume from one that was saved at the end of a step"
        )


class PlannedSampler(DistributedSampler):
    """Batch numbers ``first() .. total - 1`` in order; which rows they are for a rank is planned elsewhere.

    A ``DistributedSampler`` by class only, because Lightning would wrap any other one and deal the numbers
    out to the ranks a second time.

    Args:
        first: asked at every start of an iteration and not before. Lightning may build the loader before it
            has restored the step of a checkpoint.
        total: also the length, whatever ``first`` says: Lightning counts restored batches as done.
    """

    def __init__(self, first: Callable[[], int], total: int) -> None:
        # Not calling super().__init__(): it wants a data set to deal out.
        self.first = first
        self.total = total
        self.shuffle = False

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first(), self.total))

    def __len__(self) -> int:
        return self.total

    def set_epoch(self, epoch: int) -> None:
        """Nothing depends on Lightning's epoch."""


class PlannedLoader(DataLoader):
    """Loads whole batches in the sampler's order, whatever ``num_workers`` is.

    Args:
        batches: the data set.
        sampler: which batches.
        num_workers: processes that read ahead; 0 reads in this process.
        pin_memory: for a GPU, so that copying a batch there does not hold up the host.
    """

    def __init__(self, batches: Dataset, sampler: PlannedSampler, num_workers: int, pin_memory: bool) -> None:
        super().__init__(
            batches,
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
        )

    def __iter__(self) -> Iterator[dict[str, torch.Tensor | int]]:
        # A generator, so that nothing is asked for before the first batch is wanted: Lightning may begin to
        # iterate before it has restored the step of a checkpoint.
        yield from super().__iter__()

    # Lightning asks for these two methods before it believes that a loader can resume in mid-epoch. There is
    # nothing to save: the position is the Trainer's step.
    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        pass


def planned_loader(
    data: Any, corpora: tuple[Shards, ...], rows: PlannedRows, collate: Collate, retarget: Retarget | None
) -> PlannedLoader:
    """Training batches of ``data``, the data module, from its Trainer's current step to ``max_steps``."""
    trainer, accumulate = data.trainer, rows.plan.accumulate
    batches = RowBatches(corpora, rows, collate, data.sequence_length + 1, retarget)
    sampler = PlannedSampler(lambda: trainer.global_step * accumulate, trainer.max_steps * accumulate)
    return PlannedLoader(batches, sampler, data.num_workers, on_gpu(trainer))


def window_loader(corpora: tuple[Shards, ...], batches: list[list[Row]], trainer: Any) -> PlannedLoader:
    """Batches of rows of single tokens, in order; read in this process."""
    row_tokens = batches[0][0][0].tokens
    windows = RowBatches(corpora, lambda number: (batches[number], 1), fold_rows, row_tokens)
    return PlannedLoader(windows, PlannedSampler(lambda: 0, len(batches)), 0, on_gpu(trainer))
