"""Mutual information between the tokens of pairs, from their counts.

The plug-in estimate puts observed frequencies into ``I(X; Y) = H(X) + H(Y) - H(X, Y)``. It is too high: each entropy
comes out too low by about (cells in use - 1) / (2 pairs) nats, and the joint table has by far the most cells. Each
entropy is therefore estimated by Grassberger's estimator of 2003 (arXiv physics/0307138, eq. 28), as Lin and Tegmark
(*Critical Behavior in Physics and Probabilistic Language Models*, arXiv 1606.06737) do with a Grassberger estimator
for this very curve::

    H = ln N - 1/N sum_i n_i G(n_i),    G(n) = digamma(floor(n / 2) + 1/2) + ln 2

Miller and Madow's correction, (cells in use - 1) / (2 N), counts the cells that were seen, and so fails where most
cells of the joint table were not: with large vocabularies, always.

**The bias that remains.** For cells that are seen a Poisson number of times, with means ``z_i``, H is too low by
``sum_i z_i E1(2 z_i) / N`` (E1 is the exponential integral): 0.008 / N for a cell expected twice, 0.05 / N for one
expected once, at most 0.141 / N for any cell. With a vocabulary of bytes and ten million pairs, less than 1e-4 nats
are left. With large ones most of the joint distribution lies in pairs expected less than once, and the sum reaches
whole nats: the value is then **too high**, by about what the estimator finds between tokens that are paired at random
(``independent_information``; the command reports it). Dependent tokens fall into fewer different pairs, so that this
is rather an upper limit. It hardly depends on the distance, and so goes into the constant of a fitted curve.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tst_lightning.cores import available_cores
from tst_lightning.data.mutual_information.sample import Sample, in_blocks

DENSE_CELLS = 1 << 22
"""Joint tables up to this size (a vocabulary of 2,048) are counted as tables (32 MB); larger ones by sorting pairs."""
MAX_THREADS = 4
"""Distances counted at a time; each takes up to 30 bytes a pair while it is, if pairs are sorted."""

Blocks = Iterable[tuple[np.ndarray, np.ndarray]]
"""First and second tokens of pairs, some at a time: ids, 1-D, both of one length."""


@dataclass(frozen=True)
class Information:
    """Mutual information of the pairs at one distance, in nats."""

    pairs: int
    plugin: float
    """From the observed frequencies; not below zero."""
    correction: float
    """What Grassberger's estimator adds; mostly negative."""

    @property
    def value(self) -> float:
        """The corrected estimate. Where there is next to no information, it can be below zero."""
        return self.plugin + self.correction


def pair_information(blocks: Blocks, vocab_size: int) -> Information:
    """Mutual information of pairs of tokens.

    Args:
        blocks: the pairs, at least one; ids below ``vocab_size``.
        vocab_size: number of ids.
    """
    counts = _table_counts if vocab_size**2 <= DENSE_CELLS else _sorted_counts
    first, second, joint = counts(blocks, vocab_size)
    pairs = int(first.sum())
    plugin, corrected = (_entropy(first, pairs) + _entropy(second, pairs) - _entropy(joint, pairs)).tolist()
    plugin = max(plugin, 0.0)  # rounding
    return Information(pairs, plugin, corrected - plugin)


def information_curve(
    sample: Sample, vocab_size: int, max_distance: int, on_distance: Callable[[], object] = lambda: None
) -> list[Information]:
    """Mutual information of the pairs of a sample at distances 1 to ``max_distance``, in this order.

    Args:
        sample: tokens with at least one pair at each distance.
        vocab_size: number of ids.
        max_distance: in tokens.
        on_distance: called after each.
    """
    jobs = (lambda d=d: pair_information(sample.pairs(d), vocab_size) for d in range(1, max_distance + 1))
    return list(_side_by_side(jobs, on_distance))


def independent_information(
    sample: Sample, vocab_size: int, pairs: int, repeats: int, seed: int, on_repeat: Callable[[], object] = lambda: None
) -> list[Information]:
    """What the estimator finds where there is nothing: tokens of a sample, paired at random.

    Args:
        sample: the tokens.
        vocab_size: number of ids.
        pairs: how many to pair, not more than there are tokens.
        repeats: how often.
        seed: of the pairing.
        on_repeat: called after each.
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(sample.tokens)
    # In a random order, a token and the one a fixed number of places further on are a random pair.
    shifts = generator.integers(1, max(2, len(shuffled)), repeats)
    paired = (lambda n=n: in_blocks(shuffled[:pairs], np.roll(shuffled, n)[:pairs]) for n in shifts)
    jobs = (lambda blocks=blocks: pair_information(blocks(), vocab_size) for blocks in paired)
    return list(_side_by_side(jobs, on_repeat))


def _side_by_side(jobs: Iterable[Callable[[], Information]], on_done: Callable[[], object]) -> Iterator[Information]:
    # numpy sorts and gathers outside Python's lock.
    with ThreadPoolExecutor(min(MAX_THREADS, available_cores())) as executor:
        try:
            for found in executor.map(lambda job: job(), jobs):
                on_done()
                yield found
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _table_counts(blocks: Blocks, vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each first token, each second token and each pair occurs."""
    table = np.zeros(vocab_size**2, np.int64)
    for first, second in blocks:
        keys = first.astype(np.int64)
        keys *= vocab_size
        keys += second
        table += np.bincount(keys, minlength=len(table))
    square = table.reshape(vocab_size, vocab_size)
    return square.sum(axis=1), square.sum(axis=0), table


def _sorted_counts(blocks: Blocks, vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same; of pairs, only of those that occur."""
    dtype = np.uint32 if vocab_size**2 <= 1 << 32 else np.int64  # half the memory, and sorted in half the time
    firsts, seconds, parts = np.zeros(vocab_size, np.int64), np.zeros(vocab_size, np.int64), []
    for first, second in blocks:
        firsts += np.bincount(first, minlength=vocab_size)
        seconds += np.bincount(second, minlength=vocab_size)
        keys = first.astype(dtype)
        keys *= dtype(vocab_size)
        keys += second.astype(dtype)
        parts.append(keys)
    keys = np.concatenate(parts)
    parts.clear()
    keys.sort()
    ends = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    return firsts, seconds, np.diff(ends, prepend=0, append=len(keys))


def _entropy(counts: np.ndarray, total: int) -> np.ndarray:
    """In nats: the plug-in estimate and Grassberger's, of counts that sum to ``total``; float64 ``(2,)``."""
    from scipy.special import digamma

    if counts.size > counts.max():
        # Many cells have the same count; the functions are needed once for each.
        times = np.bincount(counts)
        count = np.flatnonzero(times[1:]) + 1
        weights = count * times[count]
    else:
        count = weights = counts[counts > 0]
    logarithms = np.log(count), digamma(count // 2 + 0.5) + np.log(2.0)
    return np.log(total) - np.array([weights @ each for each in logarithms]) / total
