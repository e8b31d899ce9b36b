"""Documents into rows of a fixed capacity: which pieces of which documents share a row.

Three policies. Lengths and capacity are in positions; with superposition a position is a bag.

- ``concat``: one after the other, cut wherever a row is full. No padding but in the last row.
- ``best_fit``: longest first, each into the fullest row that still has room for it. Ding et al., *Fewer
  Truncations Improve Language Modeling*, arXiv 2404.10830.
- ``spfhp``: longest first, each into the emptiest row; shortest-pack-first histogram packing. Krell et al.,
  *Efficient Sequence Packing without Cross-contamination*, arXiv 2107.02027. Where nothing has room, the paper
  opens a row for every document of that length; here a row is opened, filled as far as it goes, and then the
  next, which is worst fit to the letter and does not leave a corpus of short documents in rows of their own.

The last two never cut a document that fits into a row; of a longer one, all but the rest are whole rows.
"""

from typing import Literal, NamedTuple

import numpy as np

Policy = Literal["concat", "best_fit", "spfhp"]


class Packing(NamedTuple):
    """Row ``i`` holds pieces ``row_starts[i] : row_starts[i + 1]``, in the order of the documents; all int64."""

    row_starts: np.ndarray
    """``(rows + 1,)``"""
    document: np.ndarray
    """Number of each piece's document, ``(pieces,)``."""
    first: np.ndarray
    """Where each piece begins in its document, in positions."""
    length: np.ndarray
    """Positions of each piece, at least 1."""

    @property
    def rows(self) -> int:
        return len(self.row_starts) - 1


def pack(lengths: np.ndarray, capacity: int, policy: Policy) -> Packing:
    """Put every position of every document into exactly one row; a function of the arguments alone.

    Args:
        lengths: of the documents, in positions; 1-D integers. Those of length 0 have no pieces.
        capacity: positions of a row, at least 1.
        policy: see the module's description.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if policy == "concat":
        return _concatenate(lengths, capacity)
    pieces = -(-lengths // capacity)
    document = np.repeat(np.arange(len(lengths)), pieces)
    first = (np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * capacity
    length = np.minimum(lengths[document] - first, capacity)
    whole = length == capacity
    row = np.empty(len(document), dtype=np.int64)
    row[~whole], rows = _fit(length[~whole], capacity, fullest=policy == "best_fit")
    row[whole] = rows + np.arange(np.count_nonzero(whole))
    order = np.argsort(row, kind="stable")
    row_starts = _sums(np.bincount(row)) if len(row) else np.zeros(1, np.int64)
    return Packing(row_starts, document[order], first[order], length[order])


def fill_ratio(packing: Packing, capacity: int) -> float:
    """Share of the rows' positions that hold documents; 1 if there are no rows."""
    return int(packing.length.sum()) / (packing.rows * capacity) if packing.rows else 1.0


def _concatenate(lengths: np.ndarray, capacity: int) -> Packing:
    document_starts = _sums(lengths)
    positions = int(document_starts[-1])
    row_firsts = np.arange(0, positions, capacity)
    # A document of length 0 begins where the next one does, or at the end of all.
    # Two sorted runs; numpy's own union hashes, which takes several times as long.
    starts = np.sort(np.concatenate([document_starts[:-1], row_firsts]), kind="stable")
    starts = starts[(np.diff(starts, prepend=-1) > 0) & (starts < positions)]
    document = document_starts.searchsorted(starts, side="right") - 1
    row_starts = np.append(starts.searchsorted(row_firsts), len(starts))
    return Packing(row_starts, document, starts - document_starts[document], np.diff(starts, append=positions))


def _fit(lengths: np.ndarray, capacity: int, fullest: bool) -> tuple[np.ndarray, int]:
    """The row of each piece, all shorter than ``capacity``; and the number of rows.

    Goes through the histogram of lengths, longest first, and places pieces of one length together. In best
    fit (``fullest``) the row that has taken one is now the fullest with room, and goes on until it has none;
    in worst fit, all rows of the greatest room take one each before any of them is looked at again.
    """
    rows_by_room: dict[int, list[int]] = {}
    rooms = 0  # bit r is set: there are rows with room for r more
    rows = 0
    placed: list[int] = []
    counts = np.bincount(lengths)
    for length in np.flatnonzero(counts)[::-1].tolist():
        count = int(counts[length])
        while count:
            fitting = rooms >> length
            if fitting:
                # The lowest bit or the highest.
                room = length - 1 + (fitting & -fitting if fullest else fitting).bit_length()
                roomy = rows_by_room[room]
                each = min(room // length, count) if fullest else 1
                chosen = roomy[-(count // each) :]
                del roomy[-len(chosen) :]
                if not roomy:
                    rooms ^= 1 << room
            else:
                room = capacity
                each = min(room // length, count)
                chosen = list(range(rows, rows + count // each))
                rows += len(chosen)
            placed += chosen * each
            count -= len(chosen) * each
            if room_left := room - each * length:
                rows_by_room.setdefault(room_left, []).extend(chosen)
                rooms |= 1 << room_left
    # A stable sort of small integers is a radix sort.
    longest_first = np.argsort((capacity - lengths).astype(np.min_scalar_type(capacity)), kind="stable")
    row = np.empty(len(lengths), dtype=np.int64)
    row[longest_first] = placed
    return row, rows


def _sums(counts: np.ndarray) -> np.ndarray:
    """What comes before each, and at last all: one entry more."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
