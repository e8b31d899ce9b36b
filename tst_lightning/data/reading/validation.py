"""The validation windows: always the same ones, dealt out to the ranks."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np

from tst_lightning.data.manifest import Split
from tst_lightning.data.reading.mixture import shared_out
from tst_lightning.data.reading.rows import Row, Span
from tst_lightning.errors import UserError


def window_counts(corpora: Sequence[Sequence[int]], shares: Sequence[Fraction], row_tokens: int, windows: int) -> tuple:
    """How many windows each corpus gives: in proportion to its share, so fewer in all if one has too few.

    Args:
        corpora: for each corpus the tokens in each shard of its validation split.
        shares: of each corpus, summing to 1.
        row_tokens: of a window.
        windows: how many are wanted in all.
    """
    available = [sum(tokens // row_tokens for tokens in shard_tokens) for shard_tokens in corpora]
    most = min(int(count / share) for count, share in zip(available, shares, strict=True))
    return shared_out(min(windows, most), tuple(shares))


def bytes_per_token(splits: Sequence[Split], counts: Sequence[int]) -> float:
    """UTF-8 bytes of text per token: mean over the windows, of which each corpus gives ``counts``."""
    text_bytes = (windows * split.bytes / split.tokens for windows, split in zip(counts, splits, strict=True))
    return sum(text_bytes) / max(1, sum(counts))


def validation_batches(
    corpora: Mapping[str, Sequence[int]],
    counts: Sequence[int],
    row_tokens: int,
    batch_size: int,
    world_size: int,
    rank: int,
) -> list[list[Row]]:
    """The batches of one rank over windows of ``row_tokens`` single tokens, evenly spaced in each corpus.

    Every window is read by one rank, once. Every rank has the same number of batches, so that collective
    operations in a step cannot hang; for that, some batches have one window less than others.

    Args:
        corpora: by its name, for each corpus the tokens in each shard of its validation split.
        counts: windows of each corpus; it has as many.
        row_tokens: sequence length + 1.
        batch_size: most windows in a batch; 1 may become 2 to give the ranks equally many batches.
        world_size: data-parallel ranks.
        rank: the one asked for.

    Raises:
        UserError: there are fewer windows than ranks.
    """
    rows = [
        (Span(shard, window * row_tokens, row_tokens, corpus),)
        for corpus, (shard_tokens, count) in enumerate(zip(corpora.values(), counts, strict=True))
        for shard, window in _evenly_spaced([tokens // row_tokens for tokens in shard_tokens], count)
    ]
    if len(rows) < world_size:
        sizes = (f"'{name}' {sum(tokens):,} tokens in {len(tokens)} shards" for name, tokens in corpora.items())
        raise UserError(
            f"for validation there are of {' and of '.join(sizes)}, less than a window of {row_tokens} for each of "
            f"{world_size} devices: prepare more text, or lower sequence_length"
        )
    # The minimum matters for single-window batches only, of which every rank cannot have the same number.
    batches_per_rank = min(-(-len(rows) // (world_size * batch_size)), len(rows) // world_size)
    bounds = np.arange(world_size * batches_per_rank + 1) * len(rows) // (world_size * batches_per_rank)
    batches = [rows[start:end] for start, end in pairwise(bounds)]
    return batches[rank * batches_per_rank : (rank + 1) * batches_per_rank]


def _evenly_spaced(per_shard: list[int], count: int) -> list[tuple[int, int]]:
    """Shard, and number within it, of ``count`` windows out of ``per_shard``, the first one among them."""
    ends = np.cumsum(per_shard)
    numbers = np.arange(count) * sum(per_shard) // max(1, count)
    shards = ends.searchsorted(numbers, side="right")
    return [
        (int(shard), int(number - ends[shard] + per_shard[shard]))
        for shard, number in zip(shards, numbers, strict=True)
    ]
