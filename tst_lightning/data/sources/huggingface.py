"""Text from a Hugging Face data set: a hub name or a local folder."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tst_lightning.data.sources.corpus import TextSource
from tst_lightning.errors import UserError
from tst_lightning.hub import cache_only_without_hub


class HuggingFaceDataset(TextSource):
    """A data set that ``datasets.load_dataset`` opens, one document a row.

    Streamed by default, so that nothing but what is read is downloaded. Rows without a text are skipped and
    counted.
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

    def documents(self) -> Iterator[str]:
        self.skipped = Counter()
        self.bytes_read = 0
        for number, row in enumerate(self._rows(), start=1):
            if self.text_field not in row:
                raise UserError(
                    f"data set '{self.path}' has no column '{self.text_field}' "
                    f"(its columns: {', '.join(row)}): set text_field"
                )
            text = row[self.text_field]
            if text is None:
                self.skipped["documents without text"] += 1
            elif isinstance(text, str):
                yield text
            else:
                raise UserError(
                    f"column '{self.text_field}' of data set '{self.path}' holds {type(text).__name__}, "
                    f"not text, in row {number}: set text_field"
                )

    def _rows(self) -> Iterator[dict[str, Any]]:
        from datasets import load_dataset

        reason = None
        try:
            if Path(self.path).exists():
                rows = load_dataset(self.path, self.name, split=self.split, streaming=self.streaming)
            else:
                with cache_only_without_hub() as reason:
                    rows = load_dataset(
                        self.path,
                        self.name,
                        split=self.split,
                        streaming=self.streaming,
                        revision=self.revision,
                    )
            yield from rows
        except Exception as error:  # the library raises many kinds for a missing name, split or connection
            detail = str(error).strip().split("\n")[0] or type(error).__name__
            raise UserError(
                f"cannot read data set '{self.path}' (name: {self.name}, split: {self.split}): "
                f"{reason or detail}. Correct the names, download it once with a connection, or give a local "
                "folder of data files as path"
            ) from error
