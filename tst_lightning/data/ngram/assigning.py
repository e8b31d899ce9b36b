"""From the merged counts back to the text: the table's row and the tail token of every position."""

import os
from pathlib import Path

import numpy as np

from tst_lightning.data.ngram import arrays
from tst_lightning.data.ngram.job import Job

ROWS_NAME = "rows.u32"


def tails_name(token_dtype: str) -> str:
    return f"tails.{token_dtype}"


def assign_chunk(job: Job, row_offsets: tuple[int, ...], chunk: int, on_advance: object = None) -> None:
    """Write a chunk's stretch of the two files that have one number a token.

    Args:
        job: see there.
        row_offsets: what is added to the rows of each part; their number is that of the parts.
        chunk: which.
    """
    first, stop = job.chunk(chunk)
    tails = job.text.read(first, stop)
    rows = np.zeros(len(tails), np.uint32)  # 0: one-hot
    counts, positions, tokens, first_pairs = (
        arrays.load(job.counted, chunk, name) for name in ("counts", "positions", "tokens", "first_pairs")
    )
    rows_C, marked_Q, draws = _of_parts(job, row_offsets, chunk)
    rows_Q = np.repeat(rows_C, np.diff(first_pairs))
    tails_T = np.repeat(tokens, counts)
    if job.options.rule == "E":
        tails_T[np.repeat(marked_Q, counts)] = draws
    else:
        rows_Q[~marked_Q] = 0
    rows[positions] = np.repeat(rows_Q, counts)
    tails[positions] = tails_T
    _write(job.folder / ROWS_NAME, first, rows)
    _write(job.folder / tails_name(job.text.token_dtype), first, tails)
    assigned_mark(job, chunk).touch()


def assigned_mark(job: Job, chunk: int) -> Path:
    """A file that is there once a chunk has been written."""
    return job.folder / "assigned" / f"{chunk:05d}"


def _of_parts(job: Job, row_offsets: tuple[int, ...], chunk: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row of each context of a chunk in the whole table, mark of each pair, and draws."""
    pieces = []
    merged = job.merged(len(row_offsets))
    for part, offset in enumerate(row_offsets):
        bounds = arrays.load(merged, part, "bounds")
        rows, marked, draws = (
            arrays.load(merged, part, name)[of_name[chunk] : of_name[chunk + 1]]
            for name, of_name in zip(("rows", "marked", "draws"), bounds, strict=True)
        )
        pieces.append((np.where(rows > 0, rows + np.uint32(offset), 0).astype(np.uint32), marked, draws))
    rows, marked, draws = map(np.concatenate, zip(*pieces, strict=True))
    return rows, marked, draws


def _write(path: Path, first: int, values: np.ndarray) -> None:
    """Write values to the place of element ``first`` of a file that is there."""
    file = os.open(path, os.O_WRONLY)
    try:
        data, offset = memoryview(values).cast("B"), first * values.itemsize
        while data:
            written = os.pwrite(file, data, offset)
            data, offset = data[written:], offset + written
    finally:
        os.close(file)
