"""How Parquet files are cut, and what is held of them."""

import random

import pyarrow as pa
import pyarrow.parquet as pq

from tst_lightning.data.sources.parquet import Parquet


def test_row_groups_fill_parts_by_their_compressed_size(tmp_path):
    sizes = [1000, 1000, 5000, 300, 300, 300]
    schema = pa.schema({"text": pa.string()})
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with pq.ParquetWriter(tmp_path / "a.parquet", schema, **options) as writer:
        for number, size in enumerate(sizes):
            writer.write_table(pa.table({"text": [str(number) * size]}, schema))
    source = Parquet(str(tmp_path))
    groups = [[len(text) for text in source.documents(part)] for part in source.parts(3200)]
    assert groups == [[1000, 1000], [5000], [300, 300, 300]]


def test_row_groups_that_compress_well_are_small(tmp_path):
    noise = random.Random(0).randbytes(9000).hex()
    texts = [noise[:6000], noise[6000:12000], noise[12000:], "x" * 6000, "x" * 6000, "x" * 6000]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=1, write_statistics=False)
    source = Parquet(str(tmp_path))
    parts = [list(source.documents(part)) for part in source.parts(source.size_bytes() // 2)]
    assert parts == [texts[:1], texts[1:2], texts[2:]]


def test_of_a_large_row_group_only_pages_are_held(tmp_path):
    texts = [f"{number} " * 1000 for number in range(6000)]
    options = {"compression": "none", "use_dictionary": False, "data_page_size": 1 << 16}
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", **options)
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 1
    held_bytes, before = 0, pa.total_allocated_bytes()
    for number, text in enumerate(Parquet(str(tmp_path)).documents()):
        assert text == texts[number]
        held_bytes = max(held_bytes, pa.total_allocated_bytes() - before)
    assert sum(map(len, texts)) > 28_000_000
    assert held_bytes < 12_000_000  # buffers of 7 MB at any size of the row group
