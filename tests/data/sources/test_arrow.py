"""Arrow files of other programs, and how they are cut."""

import datasets
import pyarrow as pa
import pytest
from reading_parts import read_in_parts

from tst_lightning.data.sources.arrow import Arrow

TEXTS = [f"text {number}" for number in range(10)]


def test_a_data_set_saved_by_hugging_face(tmp_path):
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"id": list(range(10)), "text": TEXTS}).save_to_disk(tmp_path, num_shards=3)
    assert list(Arrow(str(tmp_path)).documents()) == TEXTS
    assert [len(part) for part in read_in_parts(Arrow(str(tmp_path)), part_bytes=1)[0]] == [4, 3, 3]


def test_a_record_batch_of_many_rows(tmp_path):
    table = pa.table({"text": [str(number) for number in range(200)]})
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    assert list(Arrow(str(tmp_path)).documents()) == [str(number) for number in range(200)]


@pytest.mark.parametrize(("open_format", "lengths"), [(pa.ipc.new_file, [1] * 10), (pa.ipc.new_stream, [10])])
def test_the_file_format_is_cut_by_record_batches(tmp_path, open_format, lengths):
    table = pa.table({"text": TEXTS})
    with open_format(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    source = Arrow(str(tmp_path))
    assert [len(part) for part in read_in_parts(source, part_bytes=1)[0]] == lengths
    if len(lengths) > 1:
        documents, _ = read_in_parts(source, part_bytes=source.size_bytes() // 3)
        assert [len(part) for part in documents] == [3, 3, 3, 1]
