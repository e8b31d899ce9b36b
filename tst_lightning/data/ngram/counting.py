"""Counts of (context, next token) pairs in one chunk of the text.

A chunk's tokens are sorted by context, next token and position. The sort does all the work: it groups equal pairs,
puts contexts in an order in which any range of them can be counted on its own, and remembers where each token was.
"""

from dataclasses import dataclass, fields

import numpy as np

CHUNK_TOKENS = 1 << 22
"""Tokens that are sorted at a time."""
_POSITION_BITS = CHUNK_TOKENS.bit_length() - 1
MOST_TOKEN_BITS = 64 - 2 * _POSITION_BITS
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class ContextKeys:
    """Contexts as 64-bit integers that look random: the first bits of a key cut all contexts into equal parts.

    Exact where the ``n - 1`` ids fit into 64 bits, then no two contexts share a key. Otherwise a hash: among ``K``
    contexts, two share a key, and their counts, with a probability below ``K**2 / 2**65`` (for ``10**9`` contexts 3 %
    that any two do).
    """

    n: int
    token_bits: int

    @property
    def exact(self) -> bool:
        return (self.n - 1) * self.token_bits <= 64

    @property
    def bits(self) -> int:
        """Keys are below ``2**bits``."""
        return (self.n - 1) * self.token_bits if self.exact else 64

    def of(self, ids: np.ndarray) -> np.ndarray:
        """The keys of the contexts of ``ids[n - 1:]``: uint64.

        Args:
            ids: token ids, uint64, at least ``n - 1``.
        """
        keys = np.zeros(len(ids) - self.n + 1, np.uint64)
        for back in range(self.n - 1):
            following = ids[back : back + len(keys)]
            if self.exact:
                keys <<= np.uint64(self.token_bits)
                keys |= following
            else:
                keys += following
                keys = mixed(keys)
        if self.exact:
            # One to one modulo a power of two.
            keys *= _ODD
            keys &= np.uint64((1 << self.bits) - 1)
        return keys


def mixed(values: np.ndarray) -> np.ndarray:
    """64 random-looking bits of each uint64, one to one: splitmix64 (Steele, Lea, Flood, 2014)."""
    values = values + _ODD
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True)
class Pairs:
    """The pairs of a chunk in the order of (context, token): C contexts, Q pairs, T tokens that have a context."""

    contexts: np.ndarray
    """Keys, increasing: uint64 ``(C,)``."""
    first_pairs: np.ndarray
    """Where the pairs of a context begin, and Q: uint32 ``(C + 1,)``."""
    tokens: np.ndarray
    """The next token of each pair, in the stored dtype: ``(Q,)``."""
    counts: np.ndarray
    """How often each pair occurs: uint32 ``(Q,)``."""
    positions: np.ndarray
    """Where in the chunk; those of the first pair, in order, then those of the second: uint32 ``(T,)``."""

    def arrays(self) -> dict[str, np.ndarray]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def has_context(length: int, document_starts: np.ndarray, n: int) -> np.ndarray:
    """Which of ``length`` tokens have ``n - 1`` tokens of their document before them: bool.

    Args:
        length: tokens, the first ``n - 1`` of which are there only to be a context.
        document_starts: where among them documents begin.
        n: see ``NgramOptions``.
    """
    found = np.ones(length, dtype=bool)
    for after in range(n - 1):
        places = document_starts + after
        found[places[places < length]] = False
    return found[n - 1 :]


def sorted_pairs(keys: np.ndarray, key_bits: int, ids: np.ndarray, positions: np.ndarray, token_bits: int) -> Pairs:
    """Sort and count.

    Args:
        keys: of the contexts, uint64 ``(T,)``, below ``2**key_bits``.
        key_bits: if there is room beside them, the keys are sorted as they are, else by their rank: two sorts.
        ids: the tokens that follow, ``(T,)``.
        positions: in the chunk, below ``CHUNK_TOKENS``: ``(T,)``.
        token_bits: of the ids.
    """
    dtype = ids.dtype
    contexts = None
    if key_bits + token_bits + _POSITION_BITS > 64:
        order = np.argsort(keys)
        keys, ids, positions = keys[order], ids[order], positions[order]
        first = _starts(keys)
        contexts = keys[first]
        keys = np.repeat(np.arange(len(first), dtype=np.uint64), np.diff(first, append=len(keys)))
    packed = keys << np.uint64(token_bits + _POSITION_BITS)
    packed |= ids.astype(np.uint64) << np.uint64(_POSITION_BITS)
    packed |= positions.astype(np.uint64)
    packed.sort()
    positions = (packed & np.uint64(CHUNK_TOKENS - 1)).astype(np.uint32)
    packed >>= np.uint64(_POSITION_BITS)
    first = _starts(packed)
    pairs = packed[first]
    pair_keys = pairs >> np.uint64(token_bits)
    first_pairs = _starts(pair_keys)
    return Pairs(
        contexts=pair_keys[first_pairs] if contexts is None else contexts,
        first_pairs=np.append(first_pairs, len(pairs)).astype(np.uint32),
        tokens=(pairs & np.uint64((1 << token_bits) - 1)).astype(dtype),
        counts=np.diff(first, append=len(packed)).astype(np.uint32),
        positions=positions,
    )


def _starts(values: np.ndarray) -> np.ndarray:
    """Where the runs of equal values begin: int64."""
    if len(values) == 0:
        return np.empty(0, np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.flatnonzero(values[1:] != values[:-1]) + 1])
