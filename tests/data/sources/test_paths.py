"""Files from names, folders and patterns."""

import json

import pytest

from tst_lightning.data.sources.json_lines import JsonLines
from tst_lightning.data.sources.text_files import TextFiles
from tst_lightning.errors import UserError


def test_patterns_are_sorted_and_repeated_files_count_once(tmp_path, monkeypatch):
    for name in ("2.txt", "1.txt", "3.log"):
        (tmp_path / name).write_text(name)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "link.txt").symlink_to(tmp_path / "1.txt")
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    paths = [tmp_path / "3.log", tmp_path / "*.txt", "1.txt", "sub/../2.txt", "sub/link.txt", "again/3.log"]
    source = TextFiles([str(path) for path in paths])
    assert list(source.documents()) == ["3.log", "1.txt", "2.txt"]
    assert source.size_bytes() == source.content()["bytes"] == 15


def test_parts_can_be_read_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    source = TextFiles("a.txt")
    (part,) = source.parts(10)
    monkeypatch.chdir("/")
    assert list(source.documents(part)) == ["a"]


def test_missing_and_unfitting_paths_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no such file, folder or pattern: '.*/nothing-\*\.txt'.*correct paths"):
        list(TextFiles(str(tmp_path / "nothing-*.txt")).documents())
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(UserError, match=r"holds no \.jsonl, .* file \(it holds: 1 x \.csv\)"):
        JsonLines(str(tmp_path)).parts(1)
    with pytest.raises(UserError, match="paths is empty"):
        TextFiles([]).parts(1)


def test_content_changes_with_sizes_and_names_but_not_with_the_folder(tmp_path):
    def content(folder, name, text):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(text)
        return TextFiles(str(tmp_path / folder / name)).content()

    base = content("a", "x.txt", "abc")
    assert base == content("b", "x.txt", "abd")
    assert base["bytes"] == 3
    assert base != content("a", "x.txt", "abcd")
    assert base != content("a", "y.txt", "abc")
    assert str(tmp_path) not in json.dumps(base)
