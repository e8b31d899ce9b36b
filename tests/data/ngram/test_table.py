"""Reading a table: any stretch of the text; what is refused; the command."""

import json
import pickle
import shutil

import numpy as np
import pytest
from ngram_tables import all_targets, build, corpus_of, refusing, small_corpus

from tst_lightning.cli import main
from tst_lightning.data.ngram.command import ngram
from tst_lightning.data.ngram.options import NgramOptions
from tst_lightning.data.ngram.table import NgramTable


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return small_corpus(tmp_path_factory.mktemp("ngram") / "corpus")


@pytest.fixture(scope="module")
def source(corpus, tmp_path_factory):
    return build(corpus, tmp_path_factory.mktemp("table") / "table")


@pytest.fixture
def table_dir(source, tmp_path):
    return shutil.copytree(source.path, tmp_path / "copy")


def test_spans_of_any_shards_are_stretches_of_the_whole(source):
    source = pickle.loads(pickle.dumps(source))
    starts = np.cumsum([0, *source.manifest.shard_tokens])
    whole_ids, whole_weights = all_targets(source)
    spans = [(4, 17, 30), (0, 0, 5), (1, 0, 2), (2, 1490, 10), (4, 17, 1)]
    ids, weights = source.targets(spans)
    places = np.concatenate([starts[shard] + first + np.arange(tokens) for shard, first, tokens in spans])
    np.testing.assert_array_equal(ids, whole_ids[places])
    np.testing.assert_array_equal(weights, whole_weights[places])


def test_a_table_of_another_text_or_tokenizer_is_refused_by_name(source, corpus, tmp_path):
    source.require_corpus(corpus_of(corpus))
    other = small_corpus(tmp_path / "other", seed=1)
    with refusing(f"'{source.path}' was built from '{corpus}' .text .*'{other}' has another text"):
        source.require_corpus(corpus_of(other))
    path = shutil.copytree(corpus, tmp_path / "tokenizer") / "manifest.json"
    values = json.loads(path.read_text())
    values["tokenizer"]["hash"] = "0" * 64
    path.write_text(json.dumps(values))
    with refusing(f"'{source.path}' was built from '{corpus}' .tokenizer .*'{path.parent}' has another tokenizer"):
        source.require_corpus(corpus_of(path.parent))


@pytest.mark.parametrize("name", ["ids.uint16", "weights.f32", "rows.u32", "tails.uint16"])
def test_missing_truncated_and_altered_files_are_refused(name, table_dir):
    path = table_dir / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with refusing(f"'{table_dir}' has '{name}' altered.*build it again"):
        NgramTable(str(table_dir)).verify()
    path.write_bytes(data[:-2])
    with refusing(f"has '{name}' with {len(data) - 2:,} bytes instead of {len(data):,}"):
        NgramTable(str(table_dir))
    path.unlink()
    with refusing(f"lacks '{name}'"):
        NgramTable(str(table_dir))


def test_other_folders_and_format_versions_are_refused(table_dir, corpus, tmp_path):
    NgramTable(str(table_dir)).verify()
    with refusing("no n-gram table at"):
        NgramTable(str(tmp_path / "nowhere"))
    with refusing("holds something else than an n-gram table"):
        NgramTable(str(corpus))
    path = table_dir / "manifest.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"format_version": 2}))
    with refusing("written by another release .format version 2, this release reads 1"):
        NgramTable(str(table_dir))
    path.write_text("{")
    with refusing("is not a manifest"):
        NgramTable(str(table_dir))


@pytest.mark.parametrize(
    ("name", "value"), [("n", 1), ("n", 2.5), ("r", 0), ("r", 256), ("min_count", 0), ("seed", -1), ("rule", "B")]
)
def test_options_out_of_range_are_refused(name, value):
    with refusing(f"{name}={value!r}: "):
        NgramOptions(**{name: value})


def test_the_command_builds_once_and_replaces_only_its_own(corpus, tmp_path, capsys):
    target = tmp_path / "table"
    command = ["ngram", str(corpus), "--output_dir", str(target), "--workers", "1"]
    assert main(command) == 0
    made = NgramTable(str(target)).manifest
    assert "contexts have a row" in capsys.readouterr().out
    assert main(command) == 0
    assert "already built" in capsys.readouterr().out
    assert main([*command, "--n", "3"]) == 2
    assert "choose another output_dir, or replace it with --overwrite true" in capsys.readouterr().err
    assert main([*command, "--n", "3", "--overwrite", "true"]) == 0
    assert NgramTable(str(target)).options.n == 3 != made.options["n"]
    assert [path.name for path in tmp_path.iterdir()] == ["table"]
    with refusing("holds other files than an n-gram table"):
        ngram(str(corpus), str(corpus), overwrite=True)
    with refusing("workers is 0"):
        ngram(str(corpus), str(target), workers=0)
