"""Parquet files, cut by row groups."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tst_lightning.data.sources.base import Part
from tst_lightning.data.sources.columns import BATCH_ROWS, ColumnFiles

if TYPE_CHECKING:
    import pyarrow as pa


class Parquet(ColumnFiles):
    """Parquet files, one document a row. Rows without a text (null) are skipped and counted."""

    suffixes = (".parquet",)
    format_name = "Parquet"

    def __init__(self, paths: list[str] | str, text_field: str = "text") -> None:
        """
        Args:
            paths: Files, folders (searched for .parquet) or patterns such as raw/*.parquet.
            text_field: Name of the column that holds the text.
        """
        super().__init__(paths, text_field)

    def group_sizes(self, path: Path) -> list[int]:
        """Compressed bytes of each row group, all columns: the sizes then add up to about the file's."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            self.check_column(file.schema_arrow, path)
            groups = map(file.metadata.row_group, range(file.num_row_groups))
            return [sum(group.column(i).total_compressed_size for i in range(group.num_columns)) for group in groups]

    def columns(self, path: Path, part: Part) -> Iterator[tuple["pa.Array", float]]:
        import pyarrow.parquet as pq

        # Page by page: otherwise a row group's whole column is held, which can be the whole file.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            self.check_column(file.schema_arrow, path)
            groups = range(part.first, file.num_row_groups if part.last is None else part.last)
            rows = sum(file.metadata.row_group(group).num_rows for group in groups)
            done = 0
            for batch in file.iter_batches(BATCH_ROWS, row_groups=list(groups), columns=[self.text_field]):
                done += batch.num_rows
                yield batch.column(0), done / rows
