"""Arrow IPC files: the file format, cut by record batches, and the stream format."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tst_lightning.data.sources.base import Part
from tst_lightning.data.sources.columns import ColumnFiles

if TYPE_CHECKING:
    import pyarrow as pa

FILE_FORMAT_MAGIC = b"ARROW1"


class Arrow(ColumnFiles):
    """Arrow files (also called Feather), one document a row. Rows without a text (null) are skipped and counted.

    Also what ``save_to_disk`` of Hugging Face data sets writes: give the folder of a split.
    """

    suffixes = (".arrow", ".feather")
    format_name = "Arrow"

    def __init__(self, paths: list[str] | str, text_field: str = "text") -> None:
        """
        Args:
            paths: Files, folders (searched for .arrow and .feather) or patterns such as raw/*.arrow.
            text_field: Name of the column that holds the text.
        """
        super().__init__(paths, text_field)

    def group_sizes(self, path: Path) -> list[int]:
        """Record batches of the file format, taken for equally large: their sizes are not in the footer."""
        import pyarrow as pa

        with pa.memory_map(str(path)) as file:
            reader = self._open(file, path)
            return [1] * reader.num_record_batches if isinstance(reader, pa.RecordBatchFileReader) else []

    def columns(self, path: Path, part: Part) -> Iterator[tuple["pa.Array", float]]:
        import pyarrow as pa

        with pa.memory_map(str(path)) as file:
            reader = self._open(file, path)
            if isinstance(reader, pa.RecordBatchFileReader):
                last = reader.num_record_batches if part.last is None else part.last
                for number in range(part.first, last):
                    share = (number + 1 - part.first) / (last - part.first)
                    yield reader.get_batch(number).column(0), share
            else:
                for batch in reader:
                    yield batch.column(0), file.tell() / file.size()

    def _open(self, file: "pa.MemoryMappedFile", path: Path) -> "pa.RecordBatchFileReader | pa.RecordBatchStreamReader":
        """A reader of the column of texts alone: the others may be compressed, and large."""
        import pyarrow as pa

        open_format = pa.ipc.open_file if file.read(len(FILE_FORMAT_MAGIC)) == FILE_FORMAT_MAGIC else pa.ipc.open_stream
        file.seek(0)
        schema = open_format(file).schema
        self.check_column(schema, path)
        file.seek(0)
        options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(self.text_field)])
        return open_format(file, options=options)
