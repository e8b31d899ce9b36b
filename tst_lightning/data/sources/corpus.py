"""Where text comes from: each source yields documents as strings, in an order that does not change.

A source is opened as often as needed (once to train a tokenizer on a sample, once to encode), so
``documents()`` starts from the beginning every time it is called.
"""

import inspect
import io
import json
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from tst_lightning.data.sources.paths import describe_files, expand_paths
from tst_lightning.errors import UserError


class TextSource(ABC):
    """A corpus, read document by document.

    Attributes:
        skipped: Documents or files left out by the latest ``documents()``, by reason.
        bytes_read: Bytes of input consumed by the latest ``documents()``, in the unit of ``size_bytes``.
    """

    content_must_match = True
    """Whether a changed ``content()`` makes a prepared folder stale."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self.bytes_read = 0

    @abstractmethod
    def documents(self) -> Iterator[str]:
        """Yield each document's text, in a fixed order.

        Raises:
            UserError: the corpus is missing or not readable as what it is said to be.
        """

    def size_bytes(self) -> int | None:
        """Bytes of input (compressed where it is compressed), or None where that is not known."""
        return None

    def content(self) -> dict[str, Any]:
        """What identifies the text cheaply; recorded, and compared by the next preparation."""
        return {}

    def options(self) -> dict[str, Any]:
        """Class and arguments, as a configuration file would give them."""
        return class_options(self)


class FileSource(TextSource):
    """A source made of local files."""

    suffixes: tuple[str, ...] = ()
    """Endings that a folder is searched for. Files named one by one may have any."""

    def __init__(self, paths: list[str] | str, text_field: str | None = None) -> None:
        super().__init__()
        self.paths = [paths] if isinstance(paths, str) else list(paths)
        self.text_field = text_field

    def files(self) -> list[Path]:
        """The files that ``paths`` stand for, in reading order."""
        return expand_paths(self.paths, self.suffixes)

    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files())

    def content(self) -> dict[str, Any]:
        return describe_files(self.files())

    def documents(self) -> Iterator[str]:
        self.skipped = Counter()
        self.bytes_read = 0
        for path in self.files():
            start = self.bytes_read
            yield from self.file_documents(path)
            self.bytes_read = start + path.stat().st_size

    @abstractmethod
    def file_documents(self, path: Path) -> Iterator[str]:
        """Yield the documents of one file."""


class TextFiles(FileSource):
    """Plain text or Markdown, one document a file.

    A file that cannot be read, or that is not UTF-8, is skipped with a warning and counted in the manifest.
    """

    suffixes = (".txt", ".text", ".md", ".markdown")

    def __init__(self, paths: list[str] | str) -> None:
        """
        Args:
            paths: Files, folders (searched for .txt, .text, .md and .markdown) or patterns such as notes/*.txt.
        """
        super().__init__(paths)

    def file_documents(self, path: Path) -> Iterator[str]:
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self._skip(path, "files that are not UTF-8", str(error))
        except OSError as error:
            self._skip(path, "unreadable files", str(error))
        else:
            yield text

    def _skip(self, path: Path, reason: str, detail: str) -> None:
        self.skipped[reason] += 1
        warnings.warn(f"skipped '{path}': {detail}", stacklevel=2)


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
        super().__init__(paths, text_field)
        if on_error not in ("stop", "skip"):
            raise UserError(f"on_error is {on_error!r}: it has to be 'stop' or 'skip'")
        self.on_error = on_error

    def file_documents(self, path: Path) -> Iterator[str]:
        start = self.bytes_read
        number = 0
        try:
            with open(path, "rb") as raw:
                for number, line in enumerate(_decompressed(raw, path), start=1):
                    if not line.strip():
                        continue
                    text = self._parse(line, path, number)
                    self.bytes_read = start + raw.tell()
                    if text is not None:
                        yield text
        except OSError as error:
            raise UserError(
                f"cannot read '{path}' after line {number} ({error}): replace the file or leave it out"
            ) from error

    def _parse(self, line: bytes, path: Path, number: int) -> str | None:
        try:
            value = json.loads(line.rstrip(b"\r\n"))
        except ValueError as error:
            return self._malformed(f"'{path}' line {number} is not valid JSON ({error})")
        if not isinstance(value, dict):
            return self._malformed(f"'{path}' line {number} is not a JSON object but {_kind(value)}")
        if self.text_field not in value:
            fields = ", ".join(value) or "none"
            return self._malformed(f"'{path}' line {number} has no field '{self.text_field}' (its fields: {fields})")
        text = value[self.text_field]
        if not isinstance(text, str):
            return self._malformed(f"'{path}' line {number}: field '{self.text_field}' is not text but {_kind(text)}")
        return text

    def _malformed(self, problem: str) -> None:
        if self.on_error == "stop":
            raise UserError(f"{problem}: correct it, set text_field, or skip such lines with on_error: skip")
        self.skipped["malformed lines"] += 1


class Parquet(FileSource):
    """Parquet files, one document a row. Rows without a text (null) are skipped and counted."""

    suffixes = (".parquet",)

    def __init__(self, paths: list[str] | str, text_field: str = "text") -> None:
        """
        Args:
            paths: Files, folders (searched for .parquet) or patterns such as raw/*.parquet.
            text_field: Name of the column that holds the text.
        """
        super().__init__(paths, text_field)

    def file_documents(self, path: Path) -> Iterator[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        start, size = self.bytes_read, path.stat().st_size
        try:
            with pq.ParquetFile(path) as file:
                self._check_column(file.schema_arrow, path)
                rows = 0
                for batch in file.iter_batches(batch_size=256, columns=[self.text_field]):
                    rows += batch.num_rows
                    self.bytes_read = start + size * rows // file.metadata.num_rows
                    for text in batch.column(0).to_pylist():
                        if text is None:
                            self.skipped["documents without text"] += 1
                        else:
                            yield text
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"cannot read '{path}' as Parquet ({error}): replace it or leave it out") from error

    def _check_column(self, schema: Any, path: Path) -> None:
        import pyarrow as pa

        if self.text_field not in schema.names:
            raise UserError(
                f"'{path}' has no column '{self.text_field}' (its columns: {', '.join(schema.names)}): set text_field"
            )
        column_type = schema.field(self.text_field).type
        if not (pa.types.is_string(column_type) or pa.types.is_large_string(column_type)):
            raise UserError(f"column '{self.text_field}' of '{path}' holds {column_type}, not text: set text_field")


def class_options(instance: object) -> dict[str, Any]:
    """An object's class path and the arguments that it keeps as attributes of the same names."""
    kind = type(instance)
    names = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    return {
        "class_path": f"{kind.__module__}.{kind.__qualname__}",
        "init_args": {name: getattr(instance, name) for name in names},
    }


def _decompressed(raw: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yield the lines of a plain, gzip or Zstandard file."""
    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    if compression is None:
        yield from raw
    else:
        import pyarrow as pa

        # Arrow's reader, because zstandard's takes a file that breaks off for one that ends.
        yield from io.BufferedReader(pa.CompressedInputStream(raw, compression), 1 << 20)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
