"""From a list of batch numbers to a DataLoader: what Lightning and the worker processes need to know."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from tst_lightning.bags import fold
from tst_lightning.data.reading.plan import Span
from tst_lightning.data.reading.shards import Shards


class SpanBatches(Dataset):
    """Whole batches by their number; each worker process opens the shards itself.

    Args:
        shards: where the tokens are.
        spans_of: the spans of a batch number, all of a batch equally long.
        row_tokens: sequence length + 1; spans of ``bag size`` times as many tokens are folded into bags.
    """

    def __init__(self, shards: Shards, spans_of: Callable[[int], list[Span]], row_tokens: int) -> None:
        self.shards = shards
        self.spans_of = spans_of
        self.row_tokens = row_tokens

    def __getitem__(self, number: int) -> dict[str, torch.Tensor | int]:
        """``tokens``: int32 ``(batch, row_tokens, bag size)``; ``micro``: ``number`` as it came."""
        tokens = self.shards.read(self.spans_of(number))
        # "micro" stays a Python integer: comparing it must not make the host wait for the device.
        return {"tokens": fold(tokens, tokens.shape[1] // self.row_tokens), "micro": number}


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

    def __init__(self, batches: SpanBatches, sampler: PlannedSampler, num_workers: int, pin_memory: bool) -> None:
        super().__init__(
            batches,
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
        )

    # Lightning asks for these two methods before it believes that a loader can resume in mid-epoch. There is
    # nothing to save: the position is the Trainer's step.
    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        pass


def validation_batches(
    shard_tokens: tuple[int, ...], row_tokens: int, windows: int, batch_size: int, world_size: int, rank: int
) -> list[list[Span]]:
    """The batches of one rank over windows of ``row_tokens`` single tokens, evenly spaced over the shards.

    Every window is read by one rank, once. Every rank has the same number of batches, so that collective
    operations in a step cannot hang; for that, some batches have one window less than others.

    Args:
        shard_tokens: tokens in each shard.
        row_tokens: sequence length + 1.
        windows: how many are wanted; fewer if there are not so many.
        batch_size: most windows in a batch; 1 may become 2 to give the ranks equally many batches.
        world_size: data-parallel ranks.
        rank: the one asked for.

    Returns:
        Batches of spans; none if there are fewer windows than ranks.
    """
    per_shard = [tokens // row_tokens for tokens in shard_tokens]
    total = sum(per_shard)
    windows = min(windows, total)
    if windows < world_size:
        return []
    ends = np.cumsum(per_shard)
    numbers = np.arange(windows) * total // windows
    shards = ends.searchsorted(numbers, side="right")
    spans = [
        Span(int(shard), int(number - ends[shard] + per_shard[shard]) * row_tokens, row_tokens)
        for shard, number in zip(shards, numbers, strict=True)
    ]
    # The minimum matters for single-window batches only, of which every rank cannot have the same number.
    batches_per_rank = min(-(-windows // (world_size * batch_size)), windows // world_size)
    bounds = np.arange(world_size * batches_per_rank + 1) * windows // (world_size * batches_per_rank)
    batches = [spans[start:end] for start, end in pairwise(bounds)]
    return batches[rank * batches_per_rank : (rank + 1) * batches_per_rank]
