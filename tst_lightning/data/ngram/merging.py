"""Counts of all chunks together, for the contexts of one part: the rows of the table, and what each chunk needs.

Shape suffixes: E entries (a context in a chunk), Q pairs of chunks, C contexts, U pairs of contexts.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tst_lightning.data.ngram import arrays
from tst_lightning.data.ngram.counting import mixed
from tst_lightning.data.ngram.job import Job
from tst_lightning.data.ngram.options import NgramOptions

_MOST_RANKED = (1 << 32) - 1
_WEYL = np.uint64(0x9E3779B97F4A7C15)
"""The golden ratio's fraction of 2**64: its multiples fill the circle more evenly than those of any other number."""


class Entries(NamedTuple):
    """The counts of some contexts in every chunk, chunk after chunk."""

    contexts_E: np.ndarray
    pairs_E: np.ndarray
    """Pairs of each entry: int64."""
    tokens_Q: np.ndarray
    counts_Q: np.ndarray
    entry_bounds: np.ndarray
    """Where the entries of each chunk begin, and E."""
    pair_bounds: np.ndarray


def read_entries(job: Job, low: int, high: int) -> Entries:
    """Of the contexts whose keys are in ``[low, high)``."""
    pieces, entry_bounds, pair_bounds = [], [0], [0]
    for chunk in range(job.chunks):
        contexts = arrays.load(job.counted, chunk, "contexts")
        first = int(contexts.searchsorted(np.uint64(low)))
        last = len(contexts) if high > np.iinfo(np.uint64).max else int(contexts.searchsorted(np.uint64(high)))
        first_pairs = arrays.load(job.counted, chunk, "first_pairs")[first : last + 1].astype(np.int64)
        pairs = slice(int(first_pairs[0]), int(first_pairs[-1]))
        tokens, counts = (arrays.load(job.counted, chunk, name)[pairs] for name in ("tokens", "counts"))
        pieces.append((contexts[first:last], np.diff(first_pairs), tokens, counts))
        entry_bounds.append(entry_bounds[-1] + last - first)
        pair_bounds.append(pair_bounds[-1] + len(tokens))
    return Entries(*map(np.concatenate, zip(*pieces, strict=True)), np.array(entry_bounds), np.array(pair_bounds))


@dataclass(frozen=True)
class Counts:
    """The pairs of each context with their counts over all chunks, in the order of (context, token)."""

    contexts_C: np.ndarray
    first_pairs_C: np.ndarray
    """Where the pairs of each context begin."""
    context_U: np.ndarray
    tokens_U: np.ndarray
    counts_U: np.ndarray
    """int64."""
    context_E: np.ndarray
    """Which context each entry is."""
    pair_Q: np.ndarray
    """Which pair each pair of a chunk is."""


def add_up(entries: Entries, token_bits: int) -> Counts:
    """Add up the counts of the chunks."""
    # Stable because it is a merge sort: the chunks are in order already.
    order = np.argsort(entries.contexts_E, kind="stable")
    new, group = _groups(entries.contexts_E[order])
    contexts = entries.contexts_E[order][new]
    context_E = np.empty(len(order), np.int64)
    context_E[order] = group

    pairs = np.repeat(context_E, entries.pairs_E) << token_bits | entries.tokens_Q
    order = np.argsort(pairs, kind="stable")
    new, group = _groups(pairs[order])
    pair_Q = np.empty(len(order), np.int64)
    pair_Q[order] = group
    context_U = pairs[order][new] >> token_bits
    counts = np.add.reduceat(entries.counts_Q[order], new, dtype=np.int64) if len(new) else np.empty(0, np.int64)
    first_pairs = context_U.searchsorted(np.arange(len(contexts)))
    return Counts(contexts, first_pairs, context_U, entries.tokens_Q[order][new], counts, context_E, pair_Q)


class Chosen(NamedTuple):
    """What the table keeps."""

    rows_C: np.ndarray
    """Row of each context in this part, counted from 1; 0 for contexts without: uint32."""
    in_top_U: np.ndarray
    """Whether a pair is one of the first ``r`` of a context that has a row: bool."""
    tail_C: np.ndarray
    """Occurrences of the other tokens of contexts that have a row: int64."""
    ids: np.ndarray
    """``(rows, r)``, by decreasing count; 0 where there are fewer."""
    weights: np.ndarray
    """fp32 ``(rows, r + 1)``: of each of ``ids``, and of one token of the tail."""


def choose(counts: Counts, options: NgramOptions) -> Chosen:
    """The table's rows, in the order of the contexts.

    A context that only one token follows has none: its distribution is the one-hot.
    """
    first, r = counts.first_pairs_C, options.r
    total_C = np.add.reduceat(counts.counts_U, first) if len(first) else np.empty(0, np.int64)
    kept_C = (total_C >= options.min_count) & (np.diff(first, append=len(counts.counts_U)) > 1)
    rows_C = (np.cumsum(kept_C) * kept_C).astype(np.uint32)

    # The larger count first, and of equal ones the smaller token.
    ranking = counts.context_U << 32 | _MOST_RANKED - np.minimum(counts.counts_U, _MOST_RANKED)
    order = np.argsort(ranking, kind="stable")
    rank = np.arange(len(order)) - first[counts.context_U[order]]
    is_top = (rank < r) & kept_C[counts.context_U[order]]
    top, rank = order[is_top], rank[is_top]
    context = counts.context_U[top]
    in_top_U = np.zeros(len(order), bool)
    in_top_U[top] = True
    top_C = np.bincount(context, counts.counts_U[top], len(first)).astype(np.int64)
    tail_C = (total_C - top_C) * kept_C

    ids = np.zeros((int(kept_C.sum()), r), counts.tokens_U.dtype)
    weights = np.zeros((len(ids), r + 1), np.float32)
    of = top_C if options.rule == "A" else total_C
    ids[rows_C[context] - 1, rank] = counts.tokens_U[top]
    weights[rows_C[context] - 1, rank] = counts.counts_U[top] / of[context]
    if options.rule == "E":
        weights[:, r] = (tail_C / np.maximum(total_C, 1))[kept_C]
    return Chosen(rows_C, in_top_U, tail_C, ids, weights)


class TailDraws:
    """Draws tokens of contexts' tails in proportion to their counts, for one chunk after the other.

    The ``k``-th draw of a context is the point ``fraction(u + k * golden ratio)`` of its tail's cumulative counts,
    with ``u`` random. Each draw by itself is distributed as the tail is; together they keep to it far more closely
    than independent ones would (Weyl's sequence).
    """

    def __init__(self, counts: Counts, chosen: Chosen, seed: int) -> None:
        self._tokens_U = counts.tokens_U
        self._tail_C = chosen.tail_C
        has_tail = (chosen.tail_C > 0)[counts.context_U]
        self._up_to_U = np.cumsum(np.where(chosen.in_top_U | ~has_tail, 0, counts.counts_U))
        self._before_C = np.append(0, self._up_to_U)[counts.first_pairs_C]
        self._start_C = mixed(counts.contexts_C ^ mixed(np.array([seed], np.uint64)))
        self._drawn_C = np.zeros(len(counts.contexts_C), np.int64)

    def draw(self, contexts: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """``draws[i]`` tokens for ``contexts[i]``, one after the other; no context twice in a call."""
        context = np.repeat(contexts, draws)
        number = np.arange(len(context)) - np.repeat(np.cumsum(draws) - draws, draws) + self._drawn_C[context]
        self._drawn_C[contexts] += draws
        point = self._start_C[context] + number.astype(np.uint64) * _WEYL
        tail = self._tail_C[context]
        place = np.minimum(((point >> np.uint64(11)) * 2.0**-53 * tail).astype(np.int64), tail - 1)
        return self._tokens_U[self._up_to_U.searchsorted(self._before_C[context] + place, side="right")]


def merge_part(job: Job, parts: int, part: int, on_advance: object = None) -> None:
    """Merge and save a part: its rows of the table; and by chunk, one after the other,

    - ``rows``: the row of each entry, as in ``Chosen``;
    - ``marked``: for each pair, under rule E whether its tail token is drawn, under rule A whether it is in the top;
    - ``draws``: the drawn tokens, pair by pair.
    """
    entries = read_entries(job, *job.key_range(part, parts))
    counts = add_up(entries, job.text.token_bits)
    chosen = choose(counts, job.options)
    marked_Q, draws = chosen.in_top_U[counts.pair_Q], []
    if job.options.rule == "E":
        marked_Q &= (chosen.tail_C > 0)[counts.context_U[counts.pair_Q]]
        draws = _draw_tails(entries, counts, marked_Q, TailDraws(counts, chosen, job.options.seed))
    draw_bounds = np.cumsum([0] + [len(of_chunk) for of_chunk in draws or [()] * job.chunks])
    covered = int(counts.counts_U[(chosen.rows_C > 0)[counts.context_U]].sum())
    results = {
        "ids": chosen.ids,
        "weights": chosen.weights,
        "rows": chosen.rows_C[counts.context_E],
        "marked": marked_Q,
        "draws": np.concatenate([np.empty(0, job.text.token_dtype), *draws]),
        "bounds": np.stack([entries.entry_bounds, entries.pair_bounds, draw_bounds]),
        "sums": np.array([len(counts.contexts_C), len(chosen.ids), covered, int(chosen.tail_C.sum())]),
    }
    arrays.save(job.merged(parts), part, results)


def _draw_tails(entries: Entries, counts: Counts, marked_Q: np.ndarray, tails: TailDraws) -> list[np.ndarray]:
    """The drawn tokens of each chunk: one for each occurrence of a marked pair."""
    draws = []
    for first, last, first_pair, last_pair in zip(
        entries.entry_bounds, entries.entry_bounds[1:], entries.pair_bounds, entries.pair_bounds[1:], strict=False
    ):
        draws_Q = np.where(marked_Q[first_pair:last_pair], entries.counts_Q[first_pair:last_pair], 0)
        pairs_E = entries.pairs_E[first:last]
        starts_E = np.cumsum(pairs_E) - pairs_E
        draws_E = np.add.reduceat(draws_Q, starts_E, dtype=np.int64) if last > first else pairs_E
        draws.append(tails.draw(counts.context_E[first:last], draws_E))
    return draws


def _groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of sorted values: where each different one first stands, and which one each is, counted from 0."""
    is_new = np.ones(len(values), bool)
    is_new[1:] = values[1:] != values[:-1]
    return np.flatnonzero(is_new), np.cumsum(is_new) - 1
