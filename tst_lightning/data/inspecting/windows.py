"""Rows of a split as a run reads them, drawn at random, and their tokens as text that can be looked at."""

import json
from typing import Any, NamedTuple

import numpy as np

from tst_lightning.data.reading.shards import Shards
from tst_lightning.errors import UserError

_MARKS = {" ": "·", "\t": "→", "\n": "↵\n"}


class Window(NamedTuple):
    """One row of a batch."""

    shard: str
    """File that it is in."""
    first_token: int
    """Where in the shard it begins."""
    bags: np.ndarray
    """Token ids, ``(sequence length + 1, bag size)``."""
    position: int
    """One of its positions, at random: reads bag ``position``, is to predict the next one."""


def draw_windows(shards: Shards, sequence_length: int, bag_size: int, windows: int, seed: int) -> list[Window]:
    """Different rows of a split, each anywhere with the same probability; in the order of the text.

    Args:
        shards: the split.
        sequence_length: positions at which a row predicts.
        bag_size: tokens of a position.
        windows: how many, if there are as many.
        seed: of the choice.

    Raises:
        UserError: no shard is as long as a row.
    """
    row_tokens = (sequence_length + 1) * bag_size
    rows_before = np.cumsum([0, *(shard.tokens // row_tokens for shard in shards.shards)])
    rows = int(rows_before[-1])
    if not rows:
        longest = max((shard.tokens for shard in shards.shards), default=0)
        raise UserError(
            f"the longest shard of '{shards.folder}' has {longest:,} tokens, less than the {row_tokens:,} of a row "
            f"({sequence_length} + 1 positions of {bag_size} tokens): lower sequence_length or bag_size, or prepare "
            "more text"
        )
    random = np.random.default_rng([seed, bag_size])
    drawn = []
    for row in np.sort(random.choice(rows, min(windows, rows), replace=False)):
        shard = int(rows_before.searchsorted(row, side="right")) - 1
        first = int(row - rows_before[shard]) * row_tokens
        bags = shards.tokens(shard, first, row_tokens).reshape(-1, bag_size)
        drawn.append(Window(shards.shards[shard].file, first, bags, int(random.integers(sequence_length))))
    return drawn


class Decoder:
    """Texts of single tokens.

    Args:
        tokenizer: a Hugging Face fast tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.special_ids = frozenset(tokenizer.all_special_ids)
        self._tokenizer = tokenizer
        rules = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]
        self._byte_of: dict[str, int] = {}
        if "ByteLevel" in json.dumps(rules):
            from transformers.convert_slow_tokenizer import bytes_to_unicode

            self._byte_of = {character: byte for byte, character in bytes_to_unicode().items()}

    def text(self, token_id: int) -> str:
        """What a token stands for in a text; special tokens by their name.

        Bytes that are no character by themselves come as lone surrogates, see ``mark``.
        """
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None or token_id in self.special_ids:
            return token or f"<{token_id}>"
        if self._byte_of.keys() >= set(token):
            return bytes(self._byte_of[character] for character in token).decode(errors="surrogateescape")
        if token.startswith("<0x") and len(token) == 6:  # SentencePiece's, where it has no token for a character
            return bytes.fromhex(token[3:5]).decode(errors="surrogateescape")
        return token.replace("▁", " ")


def mark(character: str) -> str | None:
    """What to show in the place of a character that would not be seen as itself; None for all others.

    Control characters among them, so that no text can do anything to a terminal.
    """
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character in _MARKS:
        return _MARKS[character]
    return None if character.isprintable() else character.encode("unicode_escape").decode()


def plain_text(window: Window, decoder: Decoder) -> str:
    """A window for a terminal, with ``|`` between bags."""
    bags = ("".join(map(decoder.text, bag)) for bag in window.bags.tolist())
    return "|".join("".join(mark(character) or character for character in bag) for bag in bags)
