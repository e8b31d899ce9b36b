"""A batch of packed rows as arrays: tokens in bags, what follows each bag, and positions within documents."""

import numpy as np

from tst_lightning.bags import IGNORE


def packed_batch(
    rows: list[list[np.ndarray]], row_positions: int, bag_size: int, end_of_text_id: int, isolate: bool
) -> dict[str, np.ndarray]:
    """Fold each piece on its own into bags, and lay the pieces of each row one after the other.

    Args:
        rows: token ids of each piece of each row, 1-D. No piece is empty; together they take up no more than
            ``row_positions`` bags, where a piece's last bag may be partial.
        row_positions: bags of a row, the last of which is only a target: P.
        bag_size: tokens of a bag: s.
        end_of_text_id: stands in the slots without a token, at the end of partial bags and of rows.
        isolate: whether pieces are kept apart: the first bag of a piece is no target, and positions count from
            the start of each piece.

    Returns:
        ``tokens``, int32 ``(B, P, s)``; ``targets``, int32 ``(B, P-1, s)``, the ids of the next bag, ``IGNORE``
        where there is none; with ``isolate`` also ``position_ids``, int32 ``(B, P-1)``, which restart at 0 in
        each piece and in what is left of the row.
    """
    ids = np.full((len(rows), row_positions, bag_size), IGNORE, dtype=np.int32)
    starts = []  # of pieces and of what is left, in positions counted through the rows
    for number, pieces in enumerate(rows):
        flat = ids[number].reshape(-1)
        position = 0
        for piece in pieces:
            starts.append(number * row_positions + position)
            slot = position * bag_size
            flat[slot : slot + len(piece)] = piece
            position += -(-len(piece) // bag_size)
        if position < row_positions:
            starts.append(number * row_positions + position)
    batch = {"tokens": np.where(ids == IGNORE, np.int32(end_of_text_id), ids)}
    if isolate:
        positions = len(rows) * row_positions
        ids.reshape(positions, bag_size)[starts] = IGNORE
        since_start = np.arange(positions) - np.repeat(starts, np.diff(starts, append=positions))
        position_ids = since_start.astype(np.int32).reshape(len(rows), row_positions)
        batch["position_ids"] = np.ascontiguousarray(position_ids[:, :-1])
    return batch | {"targets": np.ascontiguousarray(ids[:, 1:])}
