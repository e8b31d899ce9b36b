"""Items of the two bundled downstream tasks, made from held-out documents without any download.

``heldout_last_word``
    Like LAMBADA: a passage of a few sentences whose last word is to be predicted. Words that occur earlier
    in the passage come first, because reading the passage then helps.
``heldout_continuation``
    Four-way: which of four continuations belongs to the context? The other three are cut the same way from
    other documents, or from elsewhere in the same one.

Every passage fits ``PASSAGE_BYTES``, so a byte-level model with 256 positions sees it whole. The text is
kept verbatim, line breaks included: that is what the model was trained on.
"""

import heapq
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PASSAGE_BYTES = 240
"""Longest context plus target, in UTF-8 bytes."""
LAST_WORD = "heldout_last_word"
CONTINUATION = "heldout_continuation"
TOO_LITTLE = "too little running text among the validation documents to make an item"
"""Why a task may have none."""

_BLOCK_CHARACTERS = 1000
_BLOCKS_PER_ITEM = 6
_CONTEXT_BYTES = 155
_CONTINUATION_BYTES = 80
_SHORTEST_CONTEXT_BYTES = 80
_SHORTEST_CONTINUATION_BYTES = 50
_SHORTEST_BLOCK_CHARACTERS = 150
_CHOICES = 4
_LETTERS_SHARE = 0.8
"""Least share of letters and spaces in a passage: keeps tables, rulers and code out."""
_TRIES = 4
"""Cut points tried in a block before it is given up."""

_LAST_WORD = re.compile(r"(?<=[^\s] )[^\W\d_]{4,24}(?=[.!?](?:\s|$))")
_WORD_BOUNDARY = re.compile(r"(?<=\S) (?=\w)")
_SENTENCE_START = re.compile(r"(?<=[.!?])\s+(?=\S)")


@dataclass(frozen=True)
class _Block:
    """A stretch of a document. ``document`` and ``index`` say where it lies, so neighbours can be told."""

    document: int
    index: int
    text: str

    def is_near(self, other: "_Block") -> bool:
        return self.document == other.document and abs(self.index - other.index) <= 1


def write_heldout_items(documents: Iterable[str], folder: Path, seed: int, max_items: int) -> dict[str, int]:
    """Write ``heldout_last_word.jsonl`` and ``heldout_continuation.jsonl`` into ``folder``.

    Reads ``documents`` once and holds a bounded sample, uniform over their text, so many small documents
    and a few huge ones both work. The same documents in the same order and the same ``seed`` give the same
    files. Text that yields no item of a task leaves no file of it.

    Args:
        documents: held-out documents, in any number and of any length.
        folder: where the files go; made if absent.
        seed: decides the sample, the cuts and the place of the right answer.
        max_items: most items per task.

    Returns:
        Items written, by task name.
    """
    generator = random.Random(seed)
    blocks = _sample_blocks(documents, generator, count=max_items * _BLOCKS_PER_ITEM)
    items = {
        LAST_WORD: _last_word_items(blocks, generator, max_items),
        # From the other end of the sample, so that the two tasks share few passages.
        CONTINUATION: _continuation_items(blocks[::-1], generator, max_items),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for task, rows in items.items():
        path = folder / f"{task}.jsonl"
        path.unlink(missing_ok=True)
        if rows:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            path.write_text("".join(lines), encoding="utf-8")
    return {task: len(rows) for task, rows in items.items()}


def _sample_blocks(documents: Iterable[str], generator: random.Random, count: int) -> list[_Block]:
    """A uniform sample of ``count`` blocks in random order, by the largest of independent random keys."""
    heap: list[tuple[float, int, _Block]] = []
    number = 0
    for document, text in enumerate(documents):
        for index, start in enumerate(range(0, len(text), _BLOCK_CHARACTERS)):
            key = generator.random()
            number += 1
            if count < 1 or (len(heap) >= count and key < heap[0][0]):
                continue
            block = _Block(document, index, _whole_words(text, start, start + _BLOCK_CHARACTERS))
            if len(block.text) < _SHORTEST_BLOCK_CHARACTERS:
                continue
            # The number settles ties between keys; blocks have no order.
            entry = (key, number, block)
            if len(heap) < count:
                heapq.heappush(heap, entry)
            else:
                heapq.heapreplace(heap, entry)
    return [block for _, _, block in sorted(heap, reverse=True)]


def _whole_words(text: str, start: int, end: int) -> str:
    """``text[start:end]`` without the words that the cuts would split."""
    piece = text[start:end]
    if start > 0 and not text[start - 1].isspace():
        piece = piece[_first_space(piece) :]
    if end < len(text) and not text[end].isspace():
        piece = piece[: _last_space(piece)]
    # A lone surrogate cannot be written as UTF-8; an odd document must not stop a preparation.
    return piece.strip().encode("utf-8", errors="ignore").decode("utf-8")


def _first_space(text: str) -> int:
    return next((place for place, character in enumerate(text) if character.isspace()), len(text))


def _last_space(text: str) -> int:
    return next((place for place in range(len(text) - 1, -1, -1) if text[place].isspace()), 0)


def _context(text: str, end: int, limit_bytes: int) -> str:
    """The last ``limit_bytes`` of ``text[:end]``, from a sentence start where one lies in the first half."""
    encoded = text[:end].encode("utf-8")
    if len(encoded) <= limit_bytes:
        return text[:end]
    tail = encoded[-limit_bytes:].decode("utf-8", errors="ignore")
    sentence = _SENTENCE_START.search(tail, 0, len(tail) // 2)
    return tail[sentence.end() if sentence else _first_space(tail) :].lstrip()


def _continuation(text: str, start: int) -> str:
    """Up to ``_CONTINUATION_BYTES`` of whole words from ``start`` on."""
    encoded = text[start : start + _CONTINUATION_BYTES + 1].encode("utf-8")
    if len(encoded) <= _CONTINUATION_BYTES:
        return text[start:].rstrip()
    piece = encoded[: _CONTINUATION_BYTES + 1].decode("utf-8", errors="ignore")
    return piece[: _last_space(piece)].rstrip()


def _is_prose(text: str) -> bool:
    plain = sum(character.isalpha() or character == " " for character in text)
    return plain >= _LETTERS_SHARE * len(text)


def _last_word_items(blocks: list[_Block], generator: random.Random, max_items: int) -> list[dict]:
    """At most one item a block; those whose target occurs in its context come first."""
    repeated, other, seen = [], [], set()
    for block in blocks:
        if len(repeated) >= max_items:
            break
        candidates = list(_last_word_candidates(block.text))
        if not candidates:
            continue
        best = [candidate for candidate in candidates if candidate[2]] or candidates
        context, target, is_repeated = generator.choice(best)
        if context in seen:
            continue
        seen.add(context)
        (repeated if is_repeated else other).append({"context": context, "target": target})
    return (repeated + other)[:max_items]


def _last_word_candidates(text: str) -> Iterator[tuple[str, str, bool]]:
    """Context, target and whether the target occurs in the context, for each sentence end in ``text``."""
    for match in _LAST_WORD.finditer(text):
        target = match.group()
        limit = PASSAGE_BYTES - 1 - len(target.encode("utf-8"))
        context = _context(text, match.start() - 1, limit)
        if len(context.encode("utf-8")) >= _SHORTEST_CONTEXT_BYTES and _is_prose(context):
            words = re.findall(r"\w+", context.lower())
            yield context, target, target.lower() in words


def _continuation_items(blocks: list[_Block], generator: random.Random, max_items: int) -> list[dict]:
    """Items from the blocks that can be cut; the wrong choices are other blocks' right ones."""
    cuts, seen = [], set()
    for block in blocks:
        cut = _cut(block.text, generator)
        if cut and cut[0] not in seen:
            seen.add(cut[0])
            cuts.append((block, *cut))
    items = []
    for block, context, right in cuts[:max_items]:
        wrong = _wrong_continuations(block, right, cuts, generator)
        if wrong is None:
            continue
        label = generator.randrange(_CHOICES)
        items.append({"context": context, "choices": [*wrong[:label], right, *wrong[label:]], "label": label})
    return items


def _cut(text: str, generator: random.Random) -> tuple[str, str] | None:
    """A context and its real continuation, parted at a space; None if no cut is found."""
    places = [match.start() for match in _WORD_BOUNDARY.finditer(text)]
    for place in generator.sample(places, min(_TRIES, len(places))):
        context = _context(text, place, _CONTEXT_BYTES)
        continuation = _continuation(text, place + 1)
        if (
            len(context.encode("utf-8")) >= _SHORTEST_CONTEXT_BYTES
            and len(continuation.encode("utf-8")) >= _SHORTEST_CONTINUATION_BYTES
            and _is_prose(context)
            and _is_prose(continuation)
        ):
            return context, continuation
    return None


def _wrong_continuations(
    block: _Block, right: str, cuts: list[tuple[_Block, str, str]], generator: random.Random
) -> list[str] | None:
    """Three distinct continuations from blocks that do not touch ``block``; None if there are too few."""
    wrong: list[str] = []
    for other, _, continuation in generator.sample(cuts, min(len(cuts), 8 * _CHOICES)):
        if not other.is_near(block) and continuation != right and continuation not in wrong:
            wrong.append(continuation)
            if len(wrong) == _CHOICES - 1:
                return wrong
    return None
