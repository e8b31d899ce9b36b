"""Files of columns: what Parquet and Arrow files have in common."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from tst_lightning.data.sources.base import Part
from tst_lightning.data.sources.files import FileSource
from tst_lightning.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 64
"""Rows made into strings at a time: few, because a row may be a book."""


class ColumnFiles(FileSource):
    """Files with a column of texts, one document a row, that consist of groups of rows.

    Rows without a text (null) are skipped and counted.
    """

    format_name: str
    """What the files should be, for error messages."""

    def __init__(self, paths: list[str] | str, text_field: str) -> None:
        super().__init__(paths)
        self.text_field = text_field

    @abstractmethod
    def group_sizes(self, path: Path) -> list[int]:
        """Sizes of the groups that a part may consist of, in any unit. Empty if the file cannot be cut."""

    @abstractmethod
    def columns(self, path: Path, part: Part) -> Iterator[tuple["pa.Array", float]]:
        """Yield the texts of a file's part in arrays, each with the share of the part that is then read."""

    def cut(self, path: Path, size_bytes: int, part_bytes: int) -> list[Part]:
        """Consecutive groups, as many as fit ``part_bytes``; their sizes share the bytes of the file."""
        with self._readable(path):
            sizes = self.group_sizes(path)
        if len(sizes) < 2:
            return super().cut(path, size_bytes, part_bytes)
        total = max(1, sum(sizes))
        # The byte at which each group begins, if all else in the file is shared out in proportion.
        starts = [size_bytes * done // total for done in accumulate(sizes, initial=0)]
        parts, first = [], 0
        for last in range(1, len(starts)):
            if last == len(sizes) or starts[last + 1] - starts[first] > part_bytes:
                parts.append(Part((str(path),), first, last, starts[last] - starts[first]))
                first = last
        return parts

    def file_documents(self, path: Path, part: Part) -> Iterator[str]:
        before = self.bytes_read
        size_bytes = path.stat().st_size if part.last is None else part.size_bytes
        with self._readable(path):
            for column, share in self.columns(path, part):
                self.bytes_read = before + int(size_bytes * share)
                for first in range(0, len(column), BATCH_ROWS):
                    for text in column.slice(first, BATCH_ROWS).to_pylist():
                        if text is None:
                            self.skipped["documents without text"] += 1
                        else:
                            yield text

    def check_column(self, schema: "pa.Schema", path: Path) -> None:
        """Require the column of texts.

        Raises:
            UserError: there is no such column, or it holds something else.
        """
        import pyarrow as pa

        if self.text_field not in schema.names:
            raise UserError(
                f"'{path}' has no column '{self.text_field}' (its columns: {', '.join(schema.names)}): set text_field"
            )
        kind = schema.field(self.text_field).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise UserError(f"column '{self.text_field}' of '{path}' holds {kind}, not text: set text_field")

    @contextmanager
    def _readable(self, path: Path) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"cannot read '{path}' as {self.format_name} ({error}): replace it or leave it out"
            ) from error
