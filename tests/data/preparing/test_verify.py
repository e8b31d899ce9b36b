"""Damage to a prepared folder, and what verify says of it."""

import shutil

import pytest
from corpora import prepare_small, write_files
from object_storage import upload_folder

from tst_lightning.cli import main
from tst_lightning.data.manifest import Manifest
from tst_lightning.data.preparing.verify import verify
from tst_lightning.data.storage import ObjectStorage
from tst_lightning.errors import UserError


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    return prepare_small(write_files(folder / "text"), folder / "out", part_bytes=100_000)


@pytest.fixture
def folder(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "data")


def test_an_intact_folder_passes(folder, capsys):
    assert main(["verify", str(folder)]) == 0
    assert capsys.readouterr().out.startswith(f"'{folder}' is intact: ")
    listed = Manifest.load(folder)
    count = len(listed.files) + len(listed.train.shards) + len(listed.validation.shards)
    assert count == sum(path.is_file() for path in folder.rglob("*")) - 1


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_every_damage_is_named(folder, capsys):
    flip_last_byte(folder / "train" / "chunk-00001-0.bin")
    shard = folder / "train" / "chunk-00002-0.bin"
    shard.write_bytes(shard.read_bytes()[:-7])
    (folder / "validation" / "chunk-00000-0.bin").unlink()
    (folder / "train" / "document_ends.u32").unlink()
    flip_last_byte(folder / "tokenizer" / "tokenizer.json")
    flip_last_byte(folder / "evaluation" / "heldout_continuation.jsonl")
    assert main(["verify", str(folder)]) == 2
    message = capsys.readouterr().err
    assert "error: 6 of " in message
    assert "train/chunk-00001-0.bin is altered" in message
    assert "train/chunk-00002-0.bin has 8,005 bytes instead of 8,012" in message
    assert "validation/chunk-00000-0.bin is missing" in message
    assert "train/document_ends.u32 is missing" in message
    assert "tokenizer/tokenizer.json is altered" in message
    assert "evaluation/heldout_continuation.jsonl is altered" in message
    assert "prepare the corpus again" in message


def test_many_problems_are_counted(folder):
    shutil.rmtree(folder / "train")
    with pytest.raises(UserError, match=r"; and \d+ more\. Copy"):
        verify(str(folder))


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match="no prepared corpus at"):
        verify(str(tmp_path))


def test_object_storage_is_checked_too(folder, bucket_url, capsys):
    url = upload_folder(folder, f"{bucket_url}/data")
    verify(url)
    assert "is intact" in capsys.readouterr().out
    flip_last_byte(folder / "train" / "chunk-00001-0.bin")
    storage = ObjectStorage(url)
    storage.put(folder / "train" / "chunk-00001-0.bin", "train/chunk-00001-0.bin")
    storage.delete("validation/index.json")
    with pytest.raises(UserError, match=r"2 of .* validation/index.json is missing; train/chunk-00001-0.bin is alter"):
        verify(url)
    with pytest.raises(UserError, match=r"no prepared corpus at .*nothing'"):
        verify(f"{bucket_url}/nothing")
