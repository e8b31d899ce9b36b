"""Files of JSON lines, plain or compressed; large plain ones are cut into ranges of bytes."""

import io
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal

from tst_lightning.data.sources.base import Part
from tst_lightning.data.sources.files import FileSource
from tst_lightning.errors import UserError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

_PIECE_BYTES = 1 << 20


class JsonLines(FileSource):
    """One JSON object a line, one document an object; plain, gzip or Zstandard.

    A malformed line stops the preparation with file and line number, unless ``on_error`` is ``skip``.
    A compressed file that breaks off always stops it.
    """

    suffixes = (".jsonl", ".jsonl.gz", ".jsonl.zst")

    def __init__(
        self, paths: list[str] | str, text_field: str = "text", on_error: Literal["stop", "skip"] = "stop"
    ) -> None:
        """
        Args:
            paths: Files, folders (searched for .jsonl, .jsonl.gz and .jsonl.zst) or patterns such as raw/*.jsonl.zst.
            text_field: Name of the field that holds the text.
            on_error: What to do about a line that is not a JSON object with a text: stop, or skip and count it.
        """
        super().__init__(paths)
        self.text_field = text_field
        if on_error not in ("stop", "skip"):
            raise UserError(f"on_error is {on_error!r}: it has to be 'stop' or 'skip'")
        self.on_error = on_error

    def cut(self, path: Path, size_bytes: int, part_bytes: int) -> list[Part]:
        """Equal ranges of bytes of a plain file; a line belongs to the range that it begins in."""
        if _compression(path):
            return super().cut(path, size_bytes, part_bytes)
        count = -(-size_bytes // part_bytes)
        bounds = [number * size_bytes // count for number in range(count + 1)]
        return [Part((str(path),), first, last, last - first) for first, last in pairwise(bounds)]

    def file_documents(self, path: Path, part: Part) -> Iterator[str]:
        before = self.bytes_read
        try:
            with open(path, "rb") as raw:
                _go_to_line(raw, part.first)
                begin = raw.tell()
                number = 0
                for line in _lines(raw, path, part.last):
                    number += 1
                    if line.isspace():
                        continue
                    self.bytes_read = before + raw.tell() - begin
                    try:
                        text = _text(line, self.text_field)
                    except ValueError as error:
                        if self.on_error == "stop":
                            number += _lines_before(path, part.first)
                            raise UserError(
                                f"'{path}' line {number} {error}: "
                                "correct it, set text_field, or skip such lines with on_error: skip"
                            ) from error
                        self.skipped["malformed lines"] += 1
                    else:
                        del line  # a line may be large, and so may the next: not both, nor their texts, at a time
                        yield text
                        del text
        except OSError as error:
            # The decompressor's errors have no number.
            problem = error.strerror if error.errno else f"{error}; the file seems to be cut off or damaged"
            raise UserError(f"cannot read '{path}' ({problem}): replace the file or leave it out") from error


def _text(line: bytes, field: str) -> str:
    """The text of one line; a ValueError says in the words after "line 7" why there is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        problem = f"is not valid JSON ({error})"
        if not line.endswith(b"\n"):
            problem += " and ends without a line break, so the file seems to be cut off"
        raise ValueError(problem) from error
    if not isinstance(value, dict):
        raise ValueError(f"is not a JSON object but {_kind(value)}")
    if field not in value:
        raise ValueError(f"has no field '{field}' (its fields: {', '.join(value) or 'none'})")
    text = value[field]
    if not isinstance(text, str):
        raise ValueError(f"holds no text in field '{field}' but {_kind(text)}")
    return text


def _compression(path: Path) -> str | None:
    return COMPRESSIONS.get(path.suffix.lower())


def _lines(raw: BinaryIO, path: Path, last: int | None) -> Iterator[bytes]:
    """Yield the lines of a file from where it stands; of a plain one, those that begin before ``last``."""
    compression = _compression(path)
    if compression:
        import pyarrow as pa

        # Arrow's reader, because zstandard's takes a file that breaks off for one that ends.
        yield from io.BufferedReader(pa.CompressedInputStream(raw, compression), _PIECE_BYTES)
    elif last is None:
        yield from raw
    else:
        position = raw.tell()
        while position < last and (line := raw.readline()):
            position += len(line)
            yield line
            del line


def _go_to_line(raw: BinaryIO, first: int) -> None:
    """Go to the first line that begins at byte ``first`` or later."""
    if first:
        raw.seek(first - 1)  # its line break, if a line begins at ``first`` itself
        while (piece := raw.readline(_PIECE_BYTES)) and not piece.endswith(b"\n"):
            pass


def _lines_before(path: Path, first: int) -> int:
    """How many lines begin before byte ``first``. Counted only where an error is reported: it reads the file."""
    if not first:
        return 0
    breaks, left_bytes = 0, first - 1
    with open(path, "rb") as raw:
        while left_bytes and (piece := raw.read(min(left_bytes, _PIECE_BYTES))):
            breaks += piece.count(b"\n")
            left_bytes -= len(piece)
    return 1 + breaks


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
