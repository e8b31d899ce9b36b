"""Text from a Hugging Face data set: a hub name or a local folder."""

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tst_lightning.data.sources.base import WHOLE, Part, TextSource
from tst_lightning.errors import UserError
from tst_lightning.hub import cache_only_without_hub

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


class HuggingFaceDataset(TextSource):
    """A data set that ``datasets.load_dataset`` opens, one document a row.

    Streamed by default, so that nothing but what is read is downloaded; a part is then one shard, for most data
    sets one data file. Rows without a text are skipped and counted.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        split: str = "train",
        text_field: str = "text",
        streaming: bool = True,
        revision: str | None = None,
    ) -> None:
        """
        Args:
            path: Hub name such as HuggingFaceFW/fineweb-edu, or a local folder of data files.
            name: Configuration (subset) of the data set.
            split: Split to read.
            text_field: Name of the column that holds the text.
            streaming: Read without downloading the whole data set first.
            revision: Branch, tag or commit on the hub; a commit makes the preparation reproducible.
        """
        super().__init__()
        self.path = path
        self.name = name
        self.split = split
        self.text_field = text_field
        self.streaming = streaming
        self.revision = revision
        self._opened: Dataset | IterableDataset | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens the data set itself: what is open here may hold connections and maps of files.
        return self.__dict__ | {"_opened": None}

    def parts(self, part_bytes: int) -> list[Part]:
        """The shards of a streamed data set, in its order; otherwise ranges of rows of about ``part_bytes``."""
        rows = self._open()
        if self.streaming:
            return [Part(first=shard, last=shard + 1) for shard in range(rows.num_shards)]
        count = max(1, -(-rows.data.nbytes // part_bytes))
        bounds = [len(rows) * number // count for number in range(count + 1)]
        return [Part(first=first, last=last) for first, last in pairwise(bounds) if first < last]

    def documents(self, part: Part = WHOLE) -> Iterator[str]:
        self.skipped = Counter()
        self.bytes_read = 0
        cut_by_rows = not self.streaming
        for number, row in enumerate(self._rows(part), start=1 + (part.first if cut_by_rows else 0)):
            if self.text_field not in row:
                raise self._no_column(row)
            text = row[self.text_field]
            if text is None:
                self.skipped["documents without text"] += 1
            elif isinstance(text, str):
                yield text
            else:
                shard = "" if part.last is None or cut_by_rows else f" of shard {part.first}"
                raise UserError(
                    f"column '{self.text_field}' of data set '{self.path}' holds {type(text).__name__}, "
                    f"not text, in row {number}{shard}: set text_field"
                )

    def _rows(self, part: Part) -> Iterator[dict[str, Any]]:
        rows = self._open()
        try:
            if part.last is not None and self.streaming:
                rows = rows.shard(num_shards=rows.num_shards, index=part.first)
            elif part.last is not None:
                rows = rows.select(range(part.first, part.last))
            yield from rows
        except Exception as error:  # the library raises many kinds for a broken file or connection
            raise self._cannot_read(_first_line(error)) from error

    def _open(self) -> "Dataset | IterableDataset":
        """The data set, of its columns only the text where they are known; kept for the next part."""
        if self._opened is None:
            rows = self._load()
            # None where only reading tells: streamed JSON.
            if rows.column_names is not None:
                if self.text_field not in rows.column_names:
                    raise self._no_column(rows.column_names)
                rows = rows.select_columns([self.text_field])
            self._opened = rows
        return self._opened

    def _load(self) -> "Dataset | IterableDataset":
        from datasets import load_dataset

        is_local = Path(self.path).exists()
        if (Path(self.path) / "state.json").is_file():
            raise UserError(f"'{self.path}' was written by save_to_disk: read it with the source Arrow")
        with nullcontext() if is_local else cache_only_without_hub() as reason:
            try:
                return load_dataset(
                    self.path,
                    self.name,
                    split=self.split,
                    streaming=self.streaming,
                    revision=None if is_local else self.revision,
                )
            except Exception as error:  # many kinds again: a missing name, split or connection
                raise self._cannot_read(reason or _first_line(error)) from error

    def _cannot_read(self, reason: str) -> UserError:
        return UserError(
            f"cannot read data set '{self.path}' (name: {self.name}, split: {self.split}): {reason}. "
            "Correct the names, download it once with a connection, or give a local folder of data files as path"
        )

    def _no_column(self, columns: Any) -> UserError:
        return UserError(
            f"data set '{self.path}' has no column '{self.text_field}' (its columns: {', '.join(columns)}): "
            "set text_field"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
