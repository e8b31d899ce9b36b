"""Preparing into object storage, against a local folder."""

import json
import shutil

import boto3
import pytest
from corpora import files_of, prepare_small, write_files
from prepared_folders import make_documents, write_jsonl

from tst_lightning.data.preparing.place import RemotePlace
from tst_lightning.data.storage import ObjectStorage
from tst_lightning.data.tokenizer import Bytes, TrainedBPE
from tst_lightning.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("tst_lightning.data.storage.DEFAULT_CACHE_DIR", tmp_path / "cache")
    return tmp_path / "cache"


def objects(url):
    """Everything in the URL's bucket, by name below the URL."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    found = boto3.resource("s3").Bucket(bucket).objects.all()
    return {item.key.removeprefix(f"{prefix}/"): item.get()["Body"].read() for item in found}


OPTIONS = {"tokenizer": TrainedBPE(300), "deduplicate": True, "workers": 2}


def test_object_storage_gets_the_files_of_a_local_folder(bucket_url, tmp_path, capsys):
    source = write_files(tmp_path / "text", make_documents(40) + make_documents(10))
    held_out = write_jsonl(tmp_path / "validation.jsonl", make_documents(12, seed=5))
    expected = prepare_small(source, tmp_path / "expected", validation_source=held_out, **OPTIONS)
    url = f"{bucket_url}/corpora/small"
    prepare_small(source, url, validation_source=held_out, **OPTIONS)
    found = objects(url)
    assert found == files_of(expected)
    manifest = json.loads(found["manifest.json"])
    shards = {f"{split}/{shard['file']}" for split in ("train", "validation") for shard in manifest[split]["shards"]}
    assert shards | set(manifest["files"]) | {"manifest.json"} == set(found)
    assert not list((tmp_path / "cache" / "prepare").iterdir())
    capsys.readouterr()
    prepare_small(source, url, validation_source=held_out, **OPTIONS)
    assert capsys.readouterr().out == f"already prepared: '{url}'\n"
    with pytest.raises(UserError, match=r"'s3://.*small' was prepared with other options \(part_bytes: 10000 -> 20000"):
        prepare_small(source, url, validation_source=held_out, **OPTIONS | {"part_bytes": 20_000})


@pytest.mark.parametrize("keep_cache", [True, False], ids=["same machine", "another machine"])
def test_a_killed_preparation_uploads_only_what_is_missing(keep_cache, bucket_url, cache, tmp_path, monkeypatch):
    source = write_files(tmp_path / "text", make_documents(40), files=2)
    options = {"tokenizer": TrainedBPE(300), "evaluation_items": 5, "deduplicate": True}
    expected = prepare_small(source, tmp_path / "expected", **options)
    url = f"{bucket_url}/small"
    original = RemotePlace.finish_task

    def die_at_five(place, number, made):
        if number == 5:
            raise KeyboardInterrupt
        original(place, number, made)

    with monkeypatch.context() as patched:
        patched.setattr(RemotePlace, "finish_task", die_at_five)
        with pytest.raises(KeyboardInterrupt):
            prepare_small(source, url, **options)
    assert "manifest.json" not in objects(url)
    assert any(name.startswith(".prepare-") and name.endswith("00004/report.json") for name in objects(url))
    if not keep_cache:
        shutil.rmtree(cache)
    monkeypatch.setattr(TrainedBPE, "build", None)
    uploaded = []
    put = ObjectStorage.put

    def record(storage, local, name):
        uploaded.append(name)
        put(storage, local, name)

    monkeypatch.setattr(ObjectStorage, "put", record)
    prepare_small(source, url, **options)
    assert objects(url) == files_of(expected)
    shards = {name.split("-")[1] for name in uploaded if name.endswith(".bin")}
    assert "00005" in shards
    assert min(shards) == "00005"
    assert uploaded[-1] == "manifest.json"


def test_a_replaced_corpus_is_withdrawn_first_and_leaves_nothing(bucket_url, tmp_path, monkeypatch):
    url = f"{bucket_url}/small"
    source = write_files(tmp_path / "text", make_documents(30), files=2)
    prepare_small(source, url)
    later = {"part_bytes": 50_000, "overwrite": True}
    seen = []
    original = RemotePlace.finish_task

    def look(place, number, made):
        seen.append("manifest.json" in objects(url))
        original(place, number, made)

    monkeypatch.setattr(RemotePlace, "finish_task", look)
    prepare_small(source, url, **later)
    assert seen
    assert not any(seen)
    assert objects(url) == files_of(prepare_small(source, tmp_path / "expected", part_bytes=50_000))


def test_storage_that_cannot_be_used_is_named(bucket_url, tmp_path):
    source = write_files(tmp_path / "text")
    with pytest.raises(UserError, match=r"there is no bucket 'no-such-bucket'\): correct the URL"):
        prepare_small(source, "s3://no-such-bucket/small", Bytes())
    with pytest.raises(UserError, match=r"'ftp://host' is no object storage"):
        prepare_small(source, "ftp://host/small", Bytes())
